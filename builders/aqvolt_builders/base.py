"""What all builders here share: stores found by settings, idempotent writes, counts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import batched
from typing import Any

from maggma.core import Builder, Store
from pymongo.errors import BulkWriteError

from aqvolt_flows.schemas.base import Document
from aqvolt_flows.stores import IDS_AT_ONCE, Database, by_ids, job_store

_DUPLICATE_KEY = 11000


logger = logging.getLogger(__name__)


class CountingBuilder(Builder):
    """A builder that writes through :meth:`Database.upsert` and counts what it did.

    Attributes
    ----------
    counts
        ``processed`` and one number per status of the documents made; of this process, since it was made.
    """

    def __init__(self, sources: list[Store], targets: list[Store], chunk_size: int) -> None:
        super().__init__(sources=sources, targets=targets, chunk_size=chunk_size)
        self.counts: Counter[str] = Counter(processed=0)

    def connect(self) -> None:
        """Connect to the stores and see to the unique indexes that make several builders at once harmless."""
        Database.connect().ensure_indexes()
        super().connect()

    def run(self, log_level: int = logging.WARNING) -> None:  # noqa: ARG002 - maggma's signature
        """Run in this process; unlike maggma's own ``run`` this leaves the root logger and its level alone."""
        self.connect()
        try:
            for items in batched(self.get_items(), self.chunk_size):
                self.update_targets([self.process_item(item) for item in items])
        finally:
            self.finalize()
        said = ", ".join(f"{name} {n}" for name, n in sorted(self.counts.items())) or "nothing new"
        logger.info("%s: %s.", type(self).__name__, said)

    def finalize(self) -> None:
        """Let go of the stores; the client stays open for the rest of the process."""
        for store in [*self.sources, *self.targets]:
            store.close()

    def write(self, collection: str, documents: Sequence[Document]) -> None:
        """Upsert documents; two builders that meet on a new document both succeed."""
        database = Database.connect()
        try:
            database.upsert(collection, documents)
        except BulkWriteError as error:
            if any(e.get("code") != _DUPLICATE_KEY for e in error.details["writeErrors"]):
                raise
            database.upsert(collection, documents)
        self.counts["processed"] += len(documents)
        self.counts.update(getattr(document, "status", "built") for document in documents)


def latest_outputs(outputs: Store, query: Mapping[str, Any]) -> dict[str, str]:
    """Return uuid → completed_at of the jobs that match a query, of the last index of each."""
    latest: dict[str, tuple[int, str]] = {}
    fields = {"uuid": 1, "index": 1, "completed_at": 1, "_id": 0}
    for document in outputs.query(dict(query), fields):
        found = (int(document.get("index", 1)), str(document.get("completed_at", "")))
        latest[document["uuid"]] = max(latest.get(document["uuid"], found), found)
    return {uuid: completed_at for uuid, (_, completed_at) in latest.items()}


def read_outputs(outputs: Store, uuids: Iterable[str]) -> list[dict[str, Any]]:
    """Return the last document of each job, in the order of ``uuids``."""
    wanted = list(uuids)
    last: dict[str, dict[str, Any]] = {}
    for document in by_key(outputs, "uuid", wanted):
        kept = last.get(document["uuid"])
        if kept is None or document.get("index", 1) >= kept.get("index", 1):
            last[document["uuid"]] = document
    return [last[uuid] for uuid in wanted if uuid in last]


def by_key(store: Store, field: str, ids: Iterable[str], fields: Any = None) -> Iterator[dict[str, Any]]:
    """Yield the documents of a store whose ``field`` is one of ``ids``, asked for a few at a time."""
    for portion in batched(ids, IDS_AT_ONCE):
        yield from store.query({field: {"$in": list(portion)}}, fields)


def frames_with_model(database: Database, ids: list[str]) -> dict[str, dict[str, Any]]:
    """Return frame_id → document of ``frames``, with the potential that made it as ``explored_with``."""
    frames = {f["frame_id"]: f for f in by_ids(database["frames"], "frame_id", ids)}
    runs = sorted({f["trajectory_id"] for f in frames.values()})
    fields = {"trajectory_id": 1, "model": 1, "_id": 0}
    found = by_ids(database["trajectories"], "trajectory_id", runs, fields)
    models = {t["trajectory_id"]: t["model"] for t in found}
    return {i: f | {"explored_with": models.get(f["trajectory_id"])} for i, f in frames.items()}


def plain_store(store: Store | None, default: Store) -> Store:
    """Return the given store, or the default."""
    return default if store is None else store


def outputs_store() -> Store:
    """Return the plain store under the JobStore, which builders read without resolving references."""
    return job_store().docs_store
