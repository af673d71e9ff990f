"""``aqvolt benchmark``: run a benchmark here and now, or print what has been run."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.options import Json

_ROUND = 4


benchmarks = typer.Typer(help="Measure potentials, and compare what was measured.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(benchmarks, name="benchmark")


@benchmarks.command(
    "run", epilog="Example: aqvolt benchmark run ev_scan --model chgnet/r2scan --structures crystals.cif --out ev.json"
)
def run(
    name: Annotated[
        str,
        typer.Argument(
            help="ev_scan, force_bins, relaxation, bulk_modulus, heating, conductivity, or a plug-in's; hyphens are "
            "read as underscores."
        ),
    ],
    model: Annotated[list[str], typer.Option(help="Model string or model_id; may be given several times.")],
    structures: Annotated[
        str | None,
        typer.Option(
            help="File, folder or zip of structures, or a collection (candidates, labels); default: the accepted "
            "candidates, for force_bins the release.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the documents, with their rows, to this JSON file; a list with several models.",
            show_default=False,
        ),
    ] = None,
    release: Annotated[str | None, typer.Option(help="Release for force_bins; by default the newest.")] = None,
    as_json: Json = False,
) -> None:
    """Compute a benchmark in this process, for each model; what is already computed is only read.

    In a project it runs with the campaign's parameters, and 'aqvolt submit benchmark' does the same on workers. In a
    folder without a project it needs --structures with a path, and no database.
    """
    from aqvolt_flows.benchmark_registry import benchmark_named
    from aqvolt_launch.cli import benchmark_runs

    benchmark = benchmark_named(name)
    if benchmark_runs.without_project(structures):
        run_one = benchmark_runs.alone(benchmark, Path(str(structures)))
    else:
        run_one = benchmark_runs.in_project(benchmark, structures, release)
    found = []
    with contextlib.redirect_stdout(sys.stderr):  # models announce themselves on standard output
        for one in model:
            document, rows = run_one(one)
            found.append(document)
            if out is not None:
                benchmark_runs.write(out, one, model, document, rows)
    output.table([_row(d.model_dump()) for d in found], as_json, title=benchmark.name)


@benchmarks.command("table", epilog="Example: aqvolt benchmark table --json")
def table(as_json: Json = False) -> None:
    """Print all benchmarks, and the paper's Table 1 beside the E–V scans."""
    from aqvolt_flows.benchmark_registry import BENCHMARKS
    from aqvolt_flows.figures import gather
    from aqvolt_flows.figures.paper import TABLE_1_NOTE
    from aqvolt_flows.stores import Database

    database = Database.connect()
    known = [entry.load() for entry in BENCHMARKS.values()]
    rows = {b.name: [_row(d) for d in gather.benchmarks(database, b.name)] for b in known}
    if as_json:
        output.emit([*(row for found in rows.values() for row in found), *_paper_rows()])
        return
    for benchmark in known:
        beside = _paper_rows() if benchmark.name == _PAPERS else []
        output.table([*rows[benchmark.name], *beside], title=benchmark.title, columns=benchmark.table)
        if beside:
            output.say(f"source 'paper': {TABLE_1_NOTE}")


#: The benchmark of the paper's Table 1.
_PAPERS = "ev_scan"


def _rounded(value: Any) -> Any:
    return round(value, _ROUND) if isinstance(value, float) else value


def _row(document: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a benchmark document."""
    from aqvolt_flows.benchmark_registry import benchmark_named

    metrics = document["metrics"]
    base = {
        "source": "computed",
        "benchmark": document["benchmark"],
        "model": document["model"],
        "dataset": document["dataset"],
        "status": document["status"],
        "n_items": document["n_items"],
        "n_failed": document["n_failed"],
    }
    shown = benchmark_named(document["benchmark"]).metrics_of(metrics)
    return base | {name: _rounded(value) for name, value in shown.items() if name not in base}


def _paper_rows() -> list[dict[str, Any]]:
    """Return Table 1 in the columns of the computed rows; what the paper does not print is absent."""
    from aqvolt_flows.figures.paper import TABLE_1

    return [
        {
            "source": "paper",
            "benchmark": "ev_scan",
            "model": row.model,
            "dataset": "1,000 WBM structures",
            "n_items": 1000,
            "failed_percent": row.failed_percent,
            "spearman_compression_energy": row.spearman_energy,
            "spearman_compression_derivative": row.spearman_derivative,
        }
        for row in TABLE_1
    ]
