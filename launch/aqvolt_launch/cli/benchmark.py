"""``aqvolt benchmark``: run a benchmark here and now, or print what has been run."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.here import anywhere, require_project
from aqvolt_launch.cli.options import Json

_ROUND = 4


benchmarks = typer.Typer(help="Measure potentials, and compare what was measured.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(benchmarks, name="benchmark")


@benchmarks.command(
    "run", epilog="Example: aqvolt benchmark run ev_scan --model chgnet/r2scan --structures crystals.cif --out ev.json"
)
@anywhere
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
        require_project()
        run_one = benchmark_runs.in_project(benchmark, structures, release)
    found = []
    with contextlib.redirect_stdout(sys.stderr):  # models announce themselves on standard output
        for one in model:
            document, rows = run_one(one)
            found.append(document)
            if out is not None:
                benchmark_runs.write(out, one, model, document, rows)
    rows = [_row(d.model_dump()) for d in found]
    if as_json:
        output.emit(rows)
    else:
        _print(rows, benchmark)


@benchmarks.command("table", epilog="Example: aqvolt benchmark table --json")
def table(as_json: Json = False) -> None:
    """Print all benchmarks, models compared on the structures that both can compute, and the paper's Table 1."""
    from aqvolt_flows.benchmark_registry import BENCHMARKS
    from aqvolt_flows.figures import gather
    from aqvolt_flows.figures.paper import TABLE_1_NOTE
    from aqvolt_flows.stores import Database

    database = Database.connect()
    known = [entry.load() for entry in BENCHMARKS.values()]
    documents = {b.name: gather.benchmarks(database, b.name) for b in known}
    pairs = [row for b in known for row in _pairs(database, b, documents[b.name])]
    if as_json:
        rows = [_row(d) for found in documents.values() for d in found]
        output.emit([*rows, *_paper_rows(), *({"source": "paired", **row} for row in pairs)])
        return
    for benchmark in known:
        beside = _paper_rows() if benchmark.name == _PAPERS else []
        rows = [*(_row(d) for d in documents[benchmark.name]), *beside]
        if rows:
            _print(rows, benchmark)
        if beside:
            output.say(f"source 'paper': {TABLE_1_NOTE}")
        compared = [row for row in pairs if row["benchmark"] == benchmark.name]
        if compared:
            output.table(compared, title=f"{benchmark.title}: models on the structures that both computed")


#: The benchmark of the paper's Table 1.
_PAPERS = "ev_scan"
#: With more documents the terminal's table has a row each, not a column.
_BESIDE = 4
#: Of such a table; JSON has all.
_COLUMNS = 9


def _pairs(database: Any, benchmark: Any, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the comparison of the newest documents of each two models on each set."""
    from aqvolt_flows.figures import gather

    if not hasattr(benchmark, "pairs"):
        return []
    return [
        {"benchmark": benchmark.name, "dataset": dataset} | {k: _rounded(v) for k, v in row.items()}
        for dataset, tables in gather.by_set(database, documents).items()
        if len(tables) > 1
        for row in benchmark.pairs(tables)
    ]


def _print(rows: list[dict[str, Any]], benchmark: Any) -> None:
    """Print documents beside each other, or below each other where there are many."""
    shown = [{k: v for k, v in row.items() if k not in _HASHES} for row in rows]
    if len(rows) > _BESIDE:
        output.table(shown, title=benchmark.title, columns=benchmark.table[:_COLUMNS])
        return
    heads = [str(row["model"]) for row in shown]
    heads = [head if heads.count(head) == 1 else f"{head} ({index})" for index, head in enumerate(heads, 1)]
    names = list(dict.fromkeys(k for row in shown for k in row if k != "model"))
    beside = [{"": name} | {head: row.get(name) for head, row in zip(heads, shown, strict=True)} for name in names]
    output.table(beside, title=benchmark.title)


#: In JSON only.
_HASHES = ("model_hash", "key", "bins", "benchmark")


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return round(value, _ROUND) if isinstance(value, float) else value


def _row(document: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a benchmark document: counts, value with interval, hashes, speed, and its own metrics."""
    from aqvolt_flows.benchmark_registry import benchmark_named
    from aqvolt_flows.benchmarks.summary import summary_row

    benchmark = benchmark_named(document["benchmark"])
    base = {"source": "computed"} | {k: _rounded(v) for k, v in summary_row(benchmark, document).items()}
    shown = benchmark.metrics_of(document["metrics"])
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
