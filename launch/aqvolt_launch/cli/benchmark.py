"""``aqvolt benchmark``: run a benchmark here and now, or print what has been run."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import typer

from aqvolt_launch.cli import output

if TYPE_CHECKING:
    from aqvolt_flows.schemas.benchmark import BenchmarkDocument
    from aqvolt_flows.stores import Database

NAMES = ("ev_scan", "force_bins")
_ROUND = 4


def register(app: typer.Typer) -> None:
    """Add ``benchmark run`` and ``benchmark table``."""
    group = typer.Typer(help="Measure potentials: E–V scans, errors binned by force.", no_args_is_help=True)
    app.add_typer(group, name="benchmark")

    @group.command("run", epilog="Example: aqvolt benchmark run ev_scan --model chgnet/r2scan --model 7net-mf-0/R2SCAN")
    def run(
        name: str = typer.Argument(help=f"Which benchmark: {' or '.join(NAMES)}."),
        model: list[str] = typer.Option(help="Model string or model_id; may be given several times."),
        release: str | None = typer.Option(None, help="Release for force_bins; by default the newest."),
        as_json: bool = typer.Option(False, "--json", help=output.JSON_HELP),
    ) -> None:
        """Compute a benchmark in this process, for each model; what is already computed is only read.

        ev_scan runs over the accepted candidates, force_bins over a split of a release, both with the campaign's
        parameters. 'aqvolt submit benchmark' does the same on workers.
        """
        from aqvolt_flows.errors import InputError
        from aqvolt_flows.stores import Database

        if name not in NAMES:
            raise InputError(f"There is no benchmark {name!r}; known are {', '.join(NAMES)}.")
        database = Database.connect()
        database.ensure_indexes()
        with contextlib.redirect_stdout(sys.stderr):  # models announce themselves on standard output
            documents = [_run(database, name, m, release) for m in model]
        output.table([_row(d.model_dump()) for d in documents], as_json, title=name)

    @group.command("table", epilog="Example: aqvolt benchmark table --json")
    def table(as_json: bool = typer.Option(False, "--json", help=output.JSON_HELP)) -> None:
        """Print all benchmarks, and the paper's Table 1 beside the E–V scans."""
        from aqvolt_flows.figures import gather
        from aqvolt_flows.figures.paper import TABLE_1_NOTE
        from aqvolt_flows.stores import Database

        database = Database.connect()
        rows = {name: [_row(d) for d in gather.benchmarks(database, name)] for name in NAMES}
        if as_json:
            output.emit([*rows["ev_scan"], *rows["force_bins"], *_paper_rows()])
            return
        output.table([*rows["ev_scan"], *_paper_rows()], title="E–V scan", columns=_EV_COLUMNS)
        output.say(f"source 'paper': {TABLE_1_NOTE}")
        output.table(rows["force_bins"], title="Errors binned by force", columns=_FORCE_COLUMNS)


_EV_COLUMNS = (
    "source",
    "model",
    "dataset",
    "n_items",
    "failed_percent",
    "spearman_compression_energy",
    "spearman_compression_derivative",
    "spearman_tension_energy",
    "spearman_tension_derivative",
)
_FORCE_COLUMNS = (
    "model",
    "dataset",
    "n_items",
    "n_failed",
    "energy_mae_mev_per_atom",
    "energy_mean_error_mev_per_atom",
    "force_mae_mev_per_a",
    "stress_mae_gpa",
)


def _run(database: Database, name: str, model: str, release: str | None) -> BenchmarkDocument:
    """Compute one benchmark of one model with the campaign's parameters, under the key that a job would have."""
    from rich.console import Console
    from rich.progress import Progress

    from aqvolt_flows.benchmarks import jobs
    from aqvolt_flows.campaign import load_campaign
    from aqvolt_flows.errors import InputError
    from aqvolt_flows.models import resolve_model
    from aqvolt_flows.schemas.candidate import ACCEPTED

    parameters = load_campaign(database.settings.campaign).benchmarks
    resolved = resolve_model(database, model)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"{name} {model}", total=None)

        def advance(done: int) -> None:
            progress.update(task, completed=done)

        if name == "ev_scan":
            accepted = database["candidates"].find(ACCEPTED, {"candidate_id": 1})
            ids = sorted(candidate["candidate_id"] for candidate in accepted)
            if not ids:
                raise InputError("There are no accepted candidates to scan; add some with 'aqvolt candidates'.")
            progress.update(task, total=len(ids))
            key = jobs.ev_scan_key(resolved, parameters.ev_scan, ids)
            return jobs.compute_ev_scan(database, resolved, parameters.ev_scan, ids, key, advance)
        chosen = _release(database, release)
        key = jobs.force_bins_key(resolved, parameters.force_bins, chosen["content_hash"])
        return jobs.compute_force_bins(database, resolved, parameters.force_bins, chosen["release_id"], key, advance)


def _release(database: Database, release_id: str | None) -> dict[str, Any]:
    """Return the named release, or the newest."""
    from aqvolt_flows.errors import InputError

    if release_id:
        return database.find_by_ids("releases", [release_id])[0]
    newest = database["releases"].find_one({}, {"_id": 0}, sort=[("last_updated", -1), ("release_id", -1)])
    if newest is None:
        raise InputError("There is no release to compare with; make one with 'aqvolt release create'.")
    return newest


def _rounded(value: Any) -> Any:
    return round(value, _ROUND) if isinstance(value, float) else value


def _row(document: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a benchmark document; force bins by their overall numbers, the bins beside them in JSON."""
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
    if document["benchmark"] == "ev_scan":
        names = [c for c in _EV_COLUMNS if c not in base]
        return base | {name: _rounded(metrics.get(name)) for name in names}
    overall = metrics.get("overall", {})
    return (
        base
        | {name: _rounded(overall.get(name)) for name in _FORCE_COLUMNS if name not in base}
        | {"bins": metrics.get("bins", [])}
    )


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
