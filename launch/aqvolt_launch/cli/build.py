"""``aqvolt build``: the builders, run in this process."""

from __future__ import annotations

from typing import Any

import typer

from aqvolt_launch.cli import output

NAMES = ("labels", "benchmarks", "costs")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(build)


def build(
    name: str = typer.Argument(help="labels, benchmarks, costs, or all."),
    full: bool = typer.Option(False, "--full", help="labels: look at every job again, not only at recent ones."),
    aimd_stride: int = typer.Option(1, "--aimd-stride", min=1, help="labels: keep every so-manieth ionic step."),
    as_json: bool = typer.Option(False, "--json", help=output.JSON_HELP),
) -> None:
    """Bring collections that are made of others up to date; what is up to date is not touched.

    Example: aqvolt build labels
    """
    from aqvolt_flows.errors import InputError

    if name not in (*NAMES, "all"):
        raise InputError(f"There is no builder {name!r}; known are {', '.join(NAMES)} and all.")
    from aqvolt_builders.registry import run_builder

    rows: list[dict[str, Any]] = []
    for builder in NAMES if name == "all" else (name,):
        options = {"full": full, "aimd_stride": aimd_stride} if builder == "labels" else {}
        counts = run_builder(builder, **options)
        others = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()) if status != "processed" and n)
        rows.append({"builder": builder, "processed": counts["processed"], "made": others, "counts": counts})
    if as_json:
        output.emit([{"builder": row["builder"], **row["counts"]} for row in rows])
    else:
        output.table(rows, title="Builders", columns=("builder", "processed", "made"))
