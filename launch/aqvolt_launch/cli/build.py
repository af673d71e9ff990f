"""``aqvolt build``: the builders, run in this process."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.options import AllCampaigns, CampaignOption, Json

NAMES = ("labels", "benchmarks", "costs")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: aqvolt build labels")(build)


def build(
    name: Annotated[str, typer.Argument(help="labels, benchmarks, costs, or all.")],
    full: Annotated[bool, typer.Option("--full", help="Without effect: every run looks at every job.")] = False,
    aimd_stride: Annotated[
        int | None,
        typer.Option("--aimd-stride", min=1, help="labels: keep every n-th ionic step; default: the campaign's."),
    ] = None,
    campaign: CampaignOption = None,
    all_campaigns: AllCampaigns = False,
    as_json: Json = False,
) -> None:
    """Bring collections that are made of others up to date; what is up to date is not touched."""
    from aqvolt_flows.errors import InputError

    if name not in (*NAMES, "all"):
        raise InputError(f"There is no builder {name!r}; known are {', '.join(NAMES)} and all.")
    from aqvolt_builders.plan import build_options
    from aqvolt_builders.registry import run_builder
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.chain import campaign_for

    told: dict[str, Any] = {"full": full}
    if name in ("labels", "all"):
        chosen = campaign_for(load_settings(), campaign)
        told |= build_options(chosen) | {"campaign": chosen.name, "all_campaigns": all_campaigns}
        told |= {} if aimd_stride is None else {"aimd_stride": aimd_stride}

    rows: list[dict[str, Any]] = []
    for builder in NAMES if name == "all" else (name,):
        counts = run_builder(builder, **(told if builder == "labels" else {}))
        others = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()) if status != "processed" and n)
        rows.append({"builder": builder, "processed": counts["processed"], "made": others, "counts": counts})
    if as_json:
        output.emit([{"builder": row["builder"], **row["counts"]} for row in rows])
    else:
        output.table(rows, title="Builders", columns=("builder", "processed", "made"))
