"""What every benchmark is: a name, parameters, a key, what it runs on, a computation, and how its rows are shown."""

from __future__ import annotations

import io
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aqvolt_flows.benchmarks.evaluate import evaluate_each
from aqvolt_flows.identity import content_key
from aqvolt_flows.models import ResolvedModel
from aqvolt_flows.potentials import Potential, load_potential
from aqvolt_flows.schemas.base import Parameters
from aqvolt_flows.schemas.benchmark import BenchmarkDocument
from aqvolt_flows.schemas.provenance import ArtifactRef, Failure
from aqvolt_flows.stores import Database
from aqvolt_flows.structures import to_atoms

#: Failures named in the document itself; all of them are in its details.
MAX_LISTED_FAILURES = 500
FAILURE_COLUMNS = [("failure_reason", pa.string()), ("failure_message", pa.string())]
Progress = Callable[[int], None]
Row = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """What a benchmark runs on in a project.

    Attributes
    ----------
    argument
        Plain values from which a job finds it again: identities.
    identity
        What of it enters the key.
    n_items
        How many structures, where that is known before.
    """

    argument: Any
    identity: Mapping[str, Any]
    n_items: int | None = None


@dataclass(frozen=True)
class Measured:
    """What a computation gave.

    Attributes
    ----------
    rows
        One per structure, in the benchmark's columns; a failure has a reason and no number.
    metrics
        Aggregates; names carry units.
    dataset
        What it ran on, for tables.
    release_id
        Of the release whose labels were the reference, if there was one.
    """

    rows: list[Row]
    metrics: dict[str, Any]
    dataset: str
    release_id: str | None = None


@dataclass(frozen=True)
class Wanted:
    """What the command line or a planner wants a benchmark to run on.

    Attributes
    ----------
    candidate_ids
        Accepted candidates.
    release
        The release's document, or None.
    """

    candidate_ids: Sequence[str] = ()
    release: Mapping[str, Any] | None = None


class Benchmark(ABC):
    """One benchmark; its class variables say how it is shown."""

    name: ClassVar[str]
    #: Raised when the same model, parameters and set would give other numbers.
    version: ClassVar[str] = "benchmark/1"
    title: ClassVar[str]
    #: Name of its job.
    job_name: ClassVar[str]
    parameters: ClassVar[type[Parameters]]
    #: Schema of the per-structure rows, :data:`FAILURE_COLUMNS` included.
    columns: ClassVar[pa.Schema]
    #: Columns that name a structure, for the failures listed in the document.
    identity: ClassVar[tuple[str, ...]]
    #: Columns of its table on the command line.
    table: ClassVar[tuple[str, ...]]

    @abstractmethod
    def subject(self, wanted: Wanted) -> Subject | None:
        """Return what it runs on, or None where there is nothing yet."""

    @abstractmethod
    def compute(
        self, database: Database, potential: Potential, parameters: Any, argument: Any, progress: Progress | None
    ) -> Measured:
        """Return the rows and aggregates of a potential on the subject that ``argument`` names.

        Raises
        ------
        InputError
            If there is nothing to compute.
        """

    def metrics_of(self, metrics: Mapping[str, Any]) -> Row:
        """Return what a table shows of a document's metrics."""
        return {name: metrics.get(name) for name in self.table if name in metrics}

    def nothing(self) -> str:
        """Return what to do where there is no subject."""
        return f"There is nothing to run {self.name} on yet; make candidates and a release first."

    def key(self, model: ResolvedModel, parameters: Any, subject: Subject) -> str:
        """Return the key of this benchmark of a model on a subject."""
        return content_key(
            self.version,
            benchmark=self.name,
            model=model.name,
            weights=model.sha256,
            parameters=parameters,
            **subject.identity,
        )

    def run(
        self,
        database: Database,
        model: ResolvedModel,
        parameters: Any,
        argument: Any,
        key: str,
        progress: Progress | None = None,
    ) -> BenchmarkDocument:
        """Compute, write the document and return it; finished work is only read."""
        stored = finished(database, key)
        if stored:
            return BenchmarkDocument(**stored)
        start = time.perf_counter()
        self.check(parameters, argument)
        potential = load_potential(model.load, database.settings.resolve_device())
        found = self.compute(database, potential, parameters, argument, progress)
        failed = [r for r in found.rows if r["failure_reason"] is not None]
        document = blank_document(self.name, key, model, found.dataset, len(found.rows), found.release_id)
        document.n_failed = len(failed)
        document.metrics = found.metrics | {"parameters": parameters.model_dump(mode="json")}
        document.failures = [
            {**{k: r[k] for k in self.identity}, "reason": r["failure_reason"], "message": r["failure_message"]}
            for r in failed[:MAX_LISTED_FAILURES]
        ]
        document.details = put_rows(database, found.rows, self.columns)
        document.seconds = round(time.perf_counter() - start, 3)
        database.upsert("benchmarks", [document])
        return document

    def check(self, parameters: Any, argument: Any) -> None:  # noqa: B027 - most have nothing to refuse
        """Raise :class:`InputError` for what cannot be run, before a model is loaded."""

    def figure(self, documents: Sequence[Mapping[str, Any]]) -> str:  # noqa: ARG002 - for those without a figure
        """Return an SVG of completed documents for the report, or an empty string."""
        return ""


def finished(database: Database, key: str) -> Row | None:
    """Return the completed document of a key, or None; a failed one is computed again."""
    return database["benchmarks"].find_one({"key": key, "status": "completed"}, {"_id": 0})


def blank_document(
    benchmark: str, key: str, model: ResolvedModel, dataset: str, n_items: int, release_id: str | None = None
) -> BenchmarkDocument:
    """Return a benchmark's document without results."""
    return BenchmarkDocument(
        key=key,
        benchmark_id=f"benchmark-{key}",
        benchmark=benchmark,
        model=model.name,
        model_id=model.model_id,
        model_hash=model.sha256,
        dataset=dataset,
        release_id=release_id,
        status="completed",
        n_items=n_items,
        n_failed=0,
        metrics={},
    )


def put_rows(database: Database, rows: list[Row], schema: pa.Schema) -> ArtifactRef:
    """Store per-structure rows as Parquet and return the pointer."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd")
    return database.artifacts.put_bytes(sink.getvalue(), "parquet")


def force_of(potential: Potential, structure: Any) -> dict[str, Any]:
    """Return the largest force on an atom (eV/Å) of a structure as columns ``max_force`` and the failure's."""
    (found,) = evaluate_each(potential.evaluate, [to_atoms(structure)])
    if isinstance(found, Failure):
        return {"max_force": None, **reason_columns(found)}
    return {"max_force": float(np.linalg.norm(found.forces, axis=1).max()), **reason_columns(None)}


def reason_columns(failure: Failure | None) -> dict[str, str | None]:
    """Return the failure columns of a row."""
    return {
        "failure_reason": failure.reason if failure else None,
        "failure_message": failure.message if failure else None,
    }
