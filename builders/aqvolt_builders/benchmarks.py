"""Benchmark rows from what the benchmark jobs returned."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import batched
from typing import Any

from maggma.core import Store
from pydantic import ValidationError

from aqvolt_builders.base import (
    CountingBuilder,
    latest_outputs,
    of_project,
    outputs_store,
    plain_store,
    read_outputs,
)
from aqvolt_flows.benchmark_registry import benchmark_named
from aqvolt_flows.benchmarks.parts import all_parts
from aqvolt_flows.errors import AqvoltError
from aqvolt_flows.identity import content_key
from aqvolt_flows.schemas.benchmark import BenchmarkDocument
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.stores import Database, collection_store


class BenchmarkBuilder(CountingBuilder):
    """Makes ``benchmarks`` complete: rows whose job ended but that the collection lacks.

    Benchmark jobs write their row themselves, so that it is seen at once; this builder restores rows from ``outputs``
    after a loss, turns an output that is no row into a failed one with the reason, and makes the row of a benchmark
    whose parts are all stored (``benchmark_parts``) where the worker that ended last was killed before it did.

    Parameters
    ----------
    outputs, benchmarks
        Stores to read and write, any of maggma's; by default those that the settings of this machine name.
    chunk_size
        Outputs read and written at once.
    """

    def __init__(self, outputs: Store | None = None, benchmarks: Store | None = None, chunk_size: int = 200) -> None:
        self.outputs = plain_store(outputs, outputs_store())
        self.benchmarks = plain_store(benchmarks, collection_store("benchmarks"))
        super().__init__([self.outputs], [self.benchmarks], chunk_size)

    def get_items(self) -> Iterator[dict[str, Any]]:
        """Yield the benchmarks whose parts are all there but their row, then the outputs whose row is missing."""
        if of_project(self.benchmarks):
            yield from ({"finish": key} for key in unfinished(Database.connect()))
        known = set(self.benchmarks.distinct("benchmark_id"))
        for uuids in batched(
            sorted(latest_outputs(self.outputs, {"metadata.aqvolt.stage": "benchmark"})), self.chunk_size
        ):
            for document in read_outputs(self.outputs, uuids):
                output = document.get("output")
                if isinstance(output, dict) and "benchmark_key" in output:
                    continue  # a part, or the job that made the parts
                named = output.get("benchmark_id") if isinstance(output, dict) else None
                if named not in known and unreadable_id(document["uuid"]) not in known:
                    about = (document.get("metadata") or {}).get("aqvolt") or {}
                    yield {"output": output, "uuid": document["uuid"], "campaigns": about.get("campaigns")}

    def process_item(self, item: dict[str, Any]) -> BenchmarkDocument:
        """Return the row, or a failed one that says what was wrong with the output."""
        if "finish" in item:
            return finish(Database.connect(), item["finish"])
        try:
            return BenchmarkDocument(**item["output"]).model_copy(update={"campaigns": item.get("campaigns") or []})
        except (ValidationError, TypeError) as error:
            return _unreadable(item["uuid"], " ".join(str(error).split())[:500])

    def update_targets(self, items: list[BenchmarkDocument]) -> None:
        """Write the rows."""
        self.write("benchmarks", items, self.benchmarks)


def unfinished(database: Database) -> list[str]:
    """Return the keys of benchmarks whose parts are all stored and whose row is missing or a failed one."""
    done = set(database["benchmarks"].distinct("key", {"status": "completed"}))
    begun = sorted(set(database["benchmark_parts"].distinct("benchmark_key")) - done)
    return [key for key in begun if all_parts(database, key)]


def finish(database: Database, key: str) -> BenchmarkDocument:
    """Return the row of a benchmark from its parts; a failed one where they cannot be read or are of no benchmark."""
    first = all_parts(database, key)[0]
    try:
        document: BenchmarkDocument | None = benchmark_named(first.benchmark).finish(database, key)
    except AqvoltError as error:
        document = None
        reason = str(error)
    else:
        reason = "its parts were removed"
    if document is not None:
        return document
    return BenchmarkDocument(
        key=key,
        benchmark_id=f"benchmark-{key}",
        benchmark=first.benchmark,
        model=first.model,
        model_id=first.model_id,
        model_hash=first.model_hash,
        dataset=first.dataset,
        status="failed",
        failure=Failure(reason="parts_unreadable", message=reason),
        n_items=0,
        n_failed=0,
        metrics={},
    )


def unreadable_id(uuid: str) -> str:
    """Return the identity of the row that stands for an output that is no row."""
    return f"benchmark-{content_key('benchmark/unreadable', uuid=uuid)}"


def _unreadable(uuid: str, message: str) -> BenchmarkDocument:
    return BenchmarkDocument(
        key=content_key("benchmark/unreadable", uuid=uuid),
        benchmark_id=unreadable_id(uuid),
        benchmark="unknown",
        model="unknown",
        model_hash="",
        dataset=f"job {uuid}",
        status="failed",
        failure=Failure(reason="bad_output", message=message),
        n_items=0,
        n_failed=0,
        metrics={},
    )
