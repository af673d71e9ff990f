"""How ``aqvolt benchmark run`` computes: in a project, under the key that a job would have, or without any."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aqvolt_flows.errors import InputError
from aqvolt_launch.cli import output, structure_sets

if TYPE_CHECKING:
    from aqvolt_flows.benchmarks.base import Benchmark, Progress
    from aqvolt_flows.benchmarks.items import ItemSet
    from aqvolt_flows.schemas.benchmark import BenchmarkDocument
    from aqvolt_flows.stores import Database

#: A model's name → the document and its rows.
RunOne = Callable[[str], tuple["BenchmarkDocument", list[dict[str, Any]]]]


def without_project(structures: str | None) -> bool:
    """Return whether there is no project here and none is needed: a path is given, and no database is configured."""
    from aqvolt_flows.settings import find_config, load_settings

    if structures is None or structure_sets.is_collection(structures) or find_config() is not None:
        return False
    settings = load_settings()
    return settings.mongo_uri is None and not settings.server_file.exists()


def alone(benchmark: Benchmark, path: Path) -> RunOne:
    """Return what measures a model on the structures at a path, without a database, with the default parameters.

    Raises
    ------
    InputError
        If there is nothing to read, or the benchmark needs a project.
    """
    from aqvolt_flows.models import ResolvedModel
    from aqvolt_flows.potentials import check_model, load_potential, model_hash
    from aqvolt_flows.settings import load_settings

    parted = _parted(benchmark)
    items = structure_sets.from_path(path, parted.needs_reference)
    parameters = parted.parameters()
    device = load_settings().resolve_device()

    def run(model: str) -> tuple[BenchmarkDocument, list[dict[str, Any]]]:
        if model.startswith("model-"):
            raise InputError(f"There is no project here that knows {model!r}; give a model string, or its checkpoint.")
        check_model(model)
        resolved = ResolvedModel(model, model, model_hash(model))
        with _progress(benchmark.name, model, len(items)) as advance, tempfile.TemporaryDirectory() as folder:
            found: tuple[BenchmarkDocument, list[dict[str, Any]]] = parted.measure(
                load_potential(model, device), resolved, parameters, items, Path(folder), advance
            )
        return found

    return run


def in_project(benchmark: Benchmark, structures: str | None, release_id: str | None) -> RunOne:
    """Return what measures a model and writes ``benchmarks``; what is stored is only read.

    Raises
    ------
    InputError
        If there is nothing to run on.
    """
    from aqvolt_flows.benchmark_registry import parameters_of
    from aqvolt_flows.campaign import load_campaign
    from aqvolt_flows.models import resolve_model
    from aqvolt_flows.stores import Database

    database = Database.connect()
    database.ensure_indexes()
    parameters = parameters_of(benchmark, load_campaign(database.settings.campaign).benchmarks)
    items = None if structures is None else _items(database, benchmark, structures)

    def run(model: str) -> tuple[BenchmarkDocument, list[dict[str, Any]]]:
        resolved = resolve_model(database, model)
        subject = _subject(database, benchmark, items, release_id)
        key = benchmark.key(resolved, parameters, subject)
        more: dict[str, Any] = {} if items is None else {"items": items}
        total = subject.n_items if items is None else len(items)
        with _progress(benchmark.name, model, total) as advance:
            document = benchmark.run(database, resolved, parameters, subject.argument, key, advance, **more)
        return document, _stored_rows(database, document)

    return run


def _items(database: Database, benchmark: Benchmark, structures: str) -> ItemSet:
    parted = _parted(benchmark)
    if structure_sets.is_collection(structures):
        return structure_sets.from_database(database, structures)
    return structure_sets.from_path(Path(structures), parted.needs_reference)


def _parted(benchmark: Benchmark) -> Any:
    from aqvolt_flows.benchmarks.parts import PartedBenchmark

    if not isinstance(benchmark, PartedBenchmark):
        raise InputError(f"{benchmark.name} does not take --structures; it runs on what the project has.")
    return benchmark


def _subject(database: Database, benchmark: Benchmark, items: ItemSet | None, release_id: str | None) -> Any:
    """Return what a benchmark runs on: what was named, else the candidates or the release of the project."""
    from aqvolt_flows.benchmarks.base import Subject, Wanted
    from aqvolt_flows.schemas.candidate import ACCEPTED

    if items is not None:
        from aqvolt_flows.benchmarks.items import identity_of

        return Subject(["given"], {"items": identity_of(items)}, len(items))
    accepted = database.own("candidates").find(ACCEPTED, {"candidate_id": 1})
    subject = benchmark.subject(Wanted([c["candidate_id"] for c in accepted], _release(database, release_id)))
    if subject is None:
        raise InputError(benchmark.nothing())
    return subject


def _release(database: Database, release_id: str | None) -> dict[str, Any] | None:
    """Return the named release, the newest, or None where there is none."""
    if release_id:
        return database.find_by_ids("releases", [release_id])[0]
    return database.own("releases").find_one({}, {"_id": 0}, sort=[("last_updated", -1), ("release_id", -1)])


def _stored_rows(database: Database, document: BenchmarkDocument) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    if document.details is None:
        return []
    rows: list[dict[str, Any]] = pq.read_table(database.artifacts.local_path(document.details)).to_pylist()
    return rows


@contextmanager
def _progress(name: str, model: str, total: int | None) -> Iterator[Progress]:
    """Yield what moves a bar on standard error."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"{name} {model}", total=total)

        def advance(done: int) -> None:
            bar.update(task, completed=done)

        yield advance


def write(
    out: Path, model: str, models: Sequence[str], document: BenchmarkDocument, rows: Sequence[dict[str, Any]]
) -> None:
    """Write a document with its rows as JSON; with several models, a list that grows with each that has ended.

    Numbers that are not finite are null.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    from aqvolt_flows.aside import written_aside

    plain = _finite(output.plain(document.model_dump(mode="json") | {"rows": list(rows)}))
    value: Any = plain
    if len(models) > 1:
        before = json.loads(out.read_text()) if models[0] != model and out.is_file() else []
        value = [*before, plain]
    try:
        with written_aside(out) as aside:
            aside.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error}); name another file with --out.") from None


def _finite(value: Any) -> Any:
    """Return a value whose numbers are finite, others replaced by None."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
