"""``aqvolt benchmark``: run a benchmark here and now, or print what has been run."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aqvolt_launch.cli import output
from aqvolt_launch.cli.options import Json

if TYPE_CHECKING:
    from aqvolt_flows.benchmarks.base import Benchmark
    from aqvolt_flows.schemas.benchmark import BenchmarkDocument
    from aqvolt_flows.stores import Database

_ROUND = 4


benchmarks = typer.Typer(help="Measure potentials: E–V scans, errors binned by force.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(benchmarks, name="benchmark")


@benchmarks.command(
    "run", epilog="Example: aqvolt benchmark run ev_scan --model chgnet/r2scan --model 7net-mf-0/R2SCAN"
)
def run(
    name: Annotated[
        str,
        typer.Argument(help="Which benchmark: ev_scan, force_bins, or a plug-in's; hyphens are read as underscores."),
    ],
    model: Annotated[list[str], typer.Option(help="Model string or model_id; may be given several times.")],
    release: Annotated[str | None, typer.Option(help="Release for force_bins; by default the newest.")] = None,
    as_json: Json = False,
) -> None:
    """Compute a benchmark in this process, for each model; what is already computed is only read.

    ev_scan runs over the accepted candidates, force_bins over a split of a release, both with the campaign's
    parameters. 'aqvolt submit benchmark' does the same on workers.
    """
    from aqvolt_flows.benchmark_registry import benchmark_named
    from aqvolt_flows.stores import Database

    benchmark = benchmark_named(name)
    database = Database.connect()
    database.ensure_indexes()
    with contextlib.redirect_stdout(sys.stderr):  # models announce themselves on standard output
        documents = [_run(database, benchmark, m, release) for m in model]
    output.table([_row(d.model_dump()) for d in documents], as_json, title=benchmark.name)


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


def _run(database: Database, benchmark: Benchmark, model: str, release: str | None) -> BenchmarkDocument:
    """Compute one benchmark of one model with the campaign's parameters, under the key that a job would have."""
    from rich.console import Console
    from rich.progress import Progress

    from aqvolt_flows.benchmark_registry import parameters_of
    from aqvolt_flows.benchmarks.base import Wanted
    from aqvolt_flows.campaign import load_campaign
    from aqvolt_flows.errors import InputError
    from aqvolt_flows.models import resolve_model
    from aqvolt_flows.schemas.candidate import ACCEPTED

    parameters = parameters_of(benchmark, load_campaign(database.settings.campaign).benchmarks)
    resolved = resolve_model(database, model)
    accepted = database.own("candidates").find(ACCEPTED, {"candidate_id": 1})
    subject = benchmark.subject(Wanted([c["candidate_id"] for c in accepted], _release(database, release)))
    if subject is None:
        raise InputError(benchmark.nothing())
    key = benchmark.key(resolved, parameters, subject)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"{benchmark.name} {model}", total=subject.n_items)

        def advance(done: int) -> None:
            progress.update(task, completed=done)

        return benchmark.run(database, resolved, parameters, subject.argument, key, advance)


def _release(database: Database, release_id: str | None) -> dict[str, Any] | None:
    """Return the named release, the newest, or None where there is none."""
    if release_id:
        return database.find_by_ids("releases", [release_id])[0]
    return database.own("releases").find_one({}, {"_id": 0}, sort=[("last_updated", -1), ("release_id", -1)])


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
