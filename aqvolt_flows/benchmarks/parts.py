"""Benchmarks that run in parts: each part's rows are stored under a key, and the last part makes the document.

A part is a fixed number of structures of a set, in the set's order. It is a Firework of its own where there are
several. A part that is stored is not computed again, so that a killed benchmark resumes with what is missing and ends
in the same document. Whoever finds all parts stored writes it: the worker that finished last, or the builder.
"""

from __future__ import annotations

import io
import shutil
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aqvolt_flows.benchmarks.base import (
    FAILURE_COLUMNS,
    MAX_LISTED_FAILURES,
    Benchmark,
    Measured,
    Progress,
    Row,
    Subject,
    Wanted,
    blank_document,
    finished,
)
from aqvolt_flows.benchmarks.items import CandidateItems, Item, ItemSet
from aqvolt_flows.benchmarks.paired import Value, failed_percent, paired
from aqvolt_flows.benchmarks.rows import ITEM_COLUMNS, NOT_COVERED, REFUSED
from aqvolt_flows.benchmarks.rows import failed_row as failed_row
from aqvolt_flows.benchmarks.rows import row_of as row_of
from aqvolt_flows.benchmarks.summary import wilson_percent
from aqvolt_flows.chemistry import symbols_of
from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import content_key
from aqvolt_flows.models import ResolvedModel
from aqvolt_flows.potentials import Potential, load_potential
from aqvolt_flows.schemas.benchmark import BenchmarkDocument, BenchmarkPartDocument
from aqvolt_flows.schemas.provenance import ArtifactRef, Failure
from aqvolt_flows.stores import Database
from aqvolt_flows.structures import to_structure


class PartedBenchmark(Benchmark):
    """A benchmark that gives one row or more per structure.

    A subclass gives :meth:`compute_part`, :meth:`aggregate`, ``columns`` (its own; :data:`ITEM_COLUMNS` and the
    failure's are added) and, where it runs on something else than candidates, :meth:`subject` and :meth:`item_set`.
    """

    #: Structures per part.
    part_size: ClassVar[int] = 100
    #: Of the arrays in rows that are stored apart, not in the table of rows: name → Arrow type.
    predictions: ClassVar[Mapping[str, pa.DataType]] = {}
    #: Whether structures with partly occupied sites are measured.
    takes_disorder: ClassVar[bool] = False
    #: Whether every item needs a reference.
    needs_reference: ClassVar[bool] = False
    #: The metric that stands for the benchmark in one line, and its interval.
    headline: ClassVar[str] = "failed_percent"
    headline_interval: ClassVar[str] = "failed_percent_interval"
    #: What two models are compared in, structure by structure: name → value of a row.
    compared: ClassVar[Mapping[str, Value]] = {"failed (%)": failed_percent}
    #: Columns whose distributions the report draws, with the axis' title.
    drawn: ClassVar[Mapping[str, str]] = {}
    identity = ("item_id", "name", "formula")

    @abstractmethod
    def compute_part(
        self,
        potential: Potential,
        parameters: Any,
        items: Sequence[Item],
        workdir: Path,
        progress: Progress | None,
    ) -> list[Row]:
        """Return the rows of some items: one or more each, made by :func:`row_of` or :func:`failed_row`.

        A structure that cannot be measured is a row with a reason and no number; nothing is raised for it. Items have
        ordered structures (unless ``takes_disorder``) of elements that the potential knows.

        Parameters
        ----------
        potential, parameters
            As for :meth:`run`.
        items
            Of one part.
        workdir
            A folder for checkpoints that is there again when a killed part is run again.
        progress
            Called with the number of items done, or None.
        """

    @abstractmethod
    def aggregate(self, rows: Sequence[Row], parameters: Any) -> dict[str, Any]:
        """Return the metrics of all rows, with their denominators; names carry units.

        Rows are as in the details' table, those of structures that are not covered or not measured left out.
        """

    def item_set(self, database: Database, parameters: Any, argument: Any) -> ItemSet:  # noqa: ARG002 - for others
        """Return the set that a job's argument names: by default the candidates with these identities."""
        return CandidateItems(database, sorted(set(argument)))

    def subject(self, wanted: Wanted) -> Subject | None:
        """Return the accepted candidates; their order does not matter."""
        ids = sorted(set(wanted.candidate_ids))
        return Subject(ids, {"candidate_ids": ids}, len(ids)) if ids else None

    def nothing(self) -> str:
        """Return what to do where there is no candidate."""
        return (
            f"There are no accepted candidates to run {self.name} on; add some with 'aqvolt candidates', or name a "
            "file with --structures."
        )

    def refusal(self, item: Item, potential: Potential) -> Failure | None:
        """Return why an item is not measured, or None: unreadable, no crystal, disordered, or not covered."""
        if item.failure is not None or item.structure is None:
            return item.failure or Failure(reason="unreadable", message="it has no structure")
        unknown = sorted({e.Z for e in item.structure.composition.elements} - set(potential.elements))
        if unknown:
            names = ", ".join(symbols_of(unknown))
            return Failure(reason=NOT_COVERED, message=f"{potential.name} was not trained on {names}.")
        if self.needs_reference and item.reference is None:
            return Failure(reason="no_reference", message="It has no energy and forces to compare with.")
        if self.takes_disorder:
            return None
        try:
            to_structure(item.structure)
        except InputError as error:
            return Failure(reason="bad_structure", message=str(error))
        return None

    def table_schema(self) -> pa.Schema:
        """Return the schema of the rows' table."""
        own = [(f.name, f.type) for f in self.columns if f.name not in dict([*ITEM_COLUMNS, *FAILURE_COLUMNS])]
        return pa.schema([*ITEM_COLUMNS, *own, *FAILURE_COLUMNS])

    def rows_of(
        self,
        potential: Potential,
        parameters: Any,
        items: Sequence[Item],
        workdir: Path,
        progress: Progress | None = None,
    ) -> list[Row]:
        """Return the rows of items in their order: those refused, and those of :meth:`compute_part`."""
        refused = {i.identity: why for i in items if (why := self.refusal(i, potential))}
        fit = [i for i in items if i.identity not in refused]
        computed = self.compute_part(potential, parameters, fit, workdir, progress) if fit else []
        by_item: dict[str, list[Row]] = {i.identity: [] for i in items}
        for row in computed:
            by_item[row["item_id"]].append(row)
        empty = Failure(reason="no_result", message=f"{self.name} gave no row for it.")
        return [
            row
            for item in items
            for row in by_item[item.identity] or [failed_row(item, refused.get(item.identity, empty))]
        ]

    def metrics(self, rows: Sequence[Row], parameters: Any) -> dict[str, Any]:
        """Return :meth:`aggregate` of rows, with the counts that every benchmark has."""
        known = [r for r in rows if r["failure_reason"] not in REFUSED]
        covered = [r for r in known if r["failure_reason"] != NOT_COVERED]
        failed = [r for r in covered if r["failure_reason"] is not None]
        counts = {
            "n_refused": len(rows) - len(known),
            "n_covered": len(covered),
            "coverage_percent": 100.0 * len(covered) / len(known) if known else None,
            "n_computed": len(covered) - len(failed),
            "failed_percent": 100.0 * len(failed) / len(covered) if covered else None,
            "failed_percent_interval": wilson_percent(len(failed), len(covered)),
            "failed_by_reason": dict(sorted(Counter(r["failure_reason"] for r in failed).items())),
        }
        return counts | self.aggregate(covered, parameters) | {"parameters": parameters.model_dump(mode="json")}

    def pairs(self, tables: Mapping[str, Sequence[Row]]) -> list[Row]:
        """Return the comparison of models on the structures that both computed (:func:`~.paired.paired`)."""
        return paired({model: self.measured(rows) for model, rows in tables.items()}, self.compared)

    def measured(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows that say something of the model: neither refused nor not covered."""
        return [r for r in rows if r["failure_reason"] not in REFUSED | {NOT_COVERED}]

    def n_parts(self, items: ItemSet) -> int:
        """Return how many parts a set has.

        Raises
        ------
        InputError
            If it is empty.
        """
        if not len(items):
            raise InputError(f"The set {items.dataset!r} is empty; {self.name} needs at least one structure.")
        return -(-len(items) // self.part_size)

    def run(
        self,
        database: Database,
        model: ResolvedModel,
        parameters: Any,
        argument: Any,
        key: str,
        progress: Progress | None = None,
        items: ItemSet | None = None,
    ) -> BenchmarkDocument:
        """Compute the parts that are missing, write the document and return it; finished work is only read.

        Parameters
        ----------
        database, model, parameters
            Where to write; what to measure, and how.
        argument
            Names the set in this project.
        key
            Of the document.
        progress
            Called with the number of structures done.
        items
            The set itself, instead of ``argument``.
        """
        stored = finished(database, key)
        if stored:
            return BenchmarkDocument(**stored)
        self.check(parameters, argument)
        found = self.item_set(database, parameters, argument) if items is None else items
        for index in range(self.n_parts(found)):
            begun = index * self.part_size
            self.run_part(database, model, parameters, found, key, index, progress and _after(progress, begun))
            if progress:
                progress(min(begun + self.part_size, len(found)))
        document = self.finish(database, key)
        if document is None:
            raise InputError(f"Parts of benchmark {key} were removed while it ran; run it again.")
        return document

    def run_part(
        self,
        database: Database,
        model: ResolvedModel,
        parameters: Any,
        items: ItemSet,
        key: str,
        index: int,
        progress: Progress | None = None,
    ) -> BenchmarkPartDocument:
        """Compute and store one part's rows; a stored part is only read."""
        part_key = content_key("benchmark-part/1", benchmark=key, index=index, size=self.part_size)
        stored = database["benchmark_parts"].find_one({"key": part_key}, {"_id": 0})
        if stored and database.artifacts.exists(ArtifactRef(**stored["rows"])):
            return BenchmarkPartDocument(**stored)
        start = time.perf_counter()
        potential = load_potential(model.load, database.settings.resolve_device())
        workdir = database.settings.path(database.settings.checkpoint_dir) / f"benchmark-{part_key}"
        part = items.part(index * self.part_size, self.part_size)
        rows = self.rows_of(potential, parameters, part, workdir, progress)
        document = BenchmarkPartDocument(
            key=part_key,
            part_id=f"part-{part_key}",
            benchmark_key=key,
            benchmark=self.name,
            index=index,
            n_parts=self.n_parts(items),
            model=model.name,
            model_id=model.model_id,
            model_hash=model.sha256,
            parameters=parameters.model_dump(mode="json"),
            dataset=items.dataset,
            release_id=items.release_id,
            n_structures=len(part),
            rows=_put(database, pa.Table.from_pylist(rows, schema=self.table_schema())),
            predictions=_put(database, self._predicted(rows)) if self.predictions else None,
            seconds=round(time.perf_counter() - start, 3),
        )
        database.upsert("benchmark_parts", [document])
        shutil.rmtree(workdir, ignore_errors=True)
        return document

    def _predicted(self, rows: Sequence[Row]) -> pa.Table:
        schema = pa.schema([("item_id", pa.string()), *self.predictions.items()])
        return pa.Table.from_pylist([{name: r.get(name) for name in schema.names} for r in rows], schema=schema)

    def finish(self, database: Database, key: str) -> BenchmarkDocument | None:
        """Write the document of a benchmark whose parts are all stored, and return it; None where some are missing."""
        parts = all_parts(database, key)
        if not parts:
            return None
        parameters = self.parameters(**parts[0].parameters)
        table = pa.concat_tables([pq.read_table(database.artifacts.local_path(p.rows)) for p in parts])
        rows = table.to_pylist()
        first = parts[0]
        model = ResolvedModel(first.model, "", first.model_hash, first.model_id)
        document = self.document(key, model, first.dataset, first.release_id, rows, parameters)
        document.n_structures = sum(p.n_structures for p in parts)
        document.details = _put(database, table)
        document.predictions = [p.predictions for p in parts if p.predictions]
        document.seconds = round(sum(p.seconds for p in parts), 3)
        database.upsert("benchmarks", [document])
        return document

    def document(
        self,
        key: str,
        model: ResolvedModel,
        dataset: str,
        release_id: str | None,
        rows: Sequence[Row],
        parameters: Any,
    ) -> BenchmarkDocument:
        """Return the document of rows, without pointers and times."""
        failed = [r for r in rows if r["failure_reason"] is not None]
        document = blank_document(self.name, key, model, dataset, len(rows), release_id)
        document.n_not_covered = sum(r["failure_reason"] == NOT_COVERED for r in failed)
        document.n_refused = sum(r["failure_reason"] in REFUSED for r in failed)
        document.n_failed = len(failed) - document.n_not_covered - document.n_refused
        document.n_structures = len({r["item_id"] for r in rows})
        document.metrics = self.metrics(rows, parameters)
        steps = [r["atom_steps"] for r in rows if r.get("atom_steps") is not None]
        document.atom_steps = int(np.sum(steps)) if steps else None
        document.failures = [
            {**{k: r[k] for k in self.identity}, "reason": r["failure_reason"], "message": r["failure_message"]}
            for r in failed[:MAX_LISTED_FAILURES]
        ]
        return document

    def measure(
        self,
        potential: Potential,
        model: ResolvedModel,
        parameters: Any,
        items: ItemSet,
        workdir: Path,
        progress: Progress | None = None,
    ) -> tuple[BenchmarkDocument, list[Row]]:
        """Return document and rows without a project: nothing is stored but checkpoints in ``workdir``."""
        start = time.perf_counter()
        self.check(parameters, None if len(items) == 0 else list(range(len(items))))
        rows: list[Row] = []
        for index in range(self.n_parts(items)):
            begun = index * self.part_size
            part = items.part(begun, self.part_size)
            step = progress and _after(progress, begun)
            rows += self.rows_of(potential, parameters, part, workdir / f"part-{index}", step)
            if progress:
                progress(begun + len(part))
        plain = pa.Table.from_pylist(rows, schema=self.table_schema()).to_pylist()
        key = content_key("benchmark-alone/1", benchmark=self.name, weights=model.sha256, dataset=items.dataset)
        document = self.document(key, model, items.dataset, items.release_id, plain, parameters)
        document.seconds = round(time.perf_counter() - start, 3)
        return document, plain

    def compute(
        self, database: Database, potential: Potential, parameters: Any, argument: Any, progress: Progress | None
    ) -> Measured:
        """Return rows and metrics of a set of this project at once, as benchmarks without parts do."""
        items = self.item_set(database, parameters, argument)
        workdir = database.settings.path(database.settings.checkpoint_dir) / f"benchmark-{self.name}"
        document, rows = self.measure(
            potential, ResolvedModel(potential.name, "", ""), parameters, items, workdir, progress
        )
        return Measured(rows, document.metrics, items.dataset, items.release_id)


def all_parts(database: Database, key: str) -> list[BenchmarkPartDocument]:
    """Return the parts of a benchmark in order if all are stored, else an empty list."""
    found = database["benchmark_parts"].find({"benchmark_key": key}, {"_id": 0}).sort("index", 1)
    by_count: dict[int, list[BenchmarkPartDocument]] = {}
    for part in (BenchmarkPartDocument(**d) for d in found):
        by_count.setdefault(part.n_parts, []).append(part)
    return next((parts for n, parts in sorted(by_count.items()) if len(parts) == n), [])


def _after(progress: Progress, begun: int) -> Progress:
    return lambda done: progress(begun + done)


def _put(database: Database, table: pa.Table) -> ArtifactRef:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return database.artifacts.put_bytes(sink.getvalue(), "parquet")
