"""What all builders here share: stores given or found by settings, idempotent writes, counts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import batched
from typing import Any

from jobflow import JobStore
from maggma.core import Builder, Store
from pymongo.errors import BulkWriteError

from aqvolt_flows.schemas.base import Document, utc_now
from aqvolt_flows.stores import (
    IDENTITIES,
    IDS_AT_ONCE,
    ConfiguredMongoStore,
    Database,
    check_size,
    job_store,
)

_DUPLICATE_KEY = 11000


logger = logging.getLogger(__name__)


class CountingBuilder(Builder):
    """A builder that writes documents by identity into the stores it has, and counts what it did.

    Stores of the project are written through :meth:`Database.upsert`; any other maggma store (``MemoryStore``,
    ``MongoStore`` …) through its own ``update``, with the same rule: what did not change is not written. No database is
    asked for where none of the stores is the project's.

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
        if any(of_project(store) for store in [*self.sources, *self.targets]):
            Database.connect().ensure_indexes()
        super().connect()
        for store in self.targets:
            if not of_project(store):
                store.ensure_index(store.key, unique=True)

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
        """Let go of the project's stores; given ones stay open, whoever gave them reads them next."""
        for store in [*self.sources, *self.targets]:
            if of_project(store):
                store.close()

    def write(self, collection: str, documents: Sequence[Document], store: Store) -> None:
        """Upsert documents of a collection into a store; two builders that meet on a new document both succeed."""
        if of_project(store):
            _write_project(collection, documents)
        else:
            _write_store(store, IDENTITIES[collection], documents)
        self.counts["processed"] += len(documents)
        self.counts.update(getattr(document, "status", "built") for document in documents)


def of_project(store: Store) -> bool:
    """Whether a store is a collection that the settings of this machine name."""
    return isinstance(store, ConfiguredMongoStore)


def _write_project(collection: str, documents: Sequence[Document]) -> None:
    database = Database.connect()
    try:
        database.upsert(collection, documents)
    except BulkWriteError as error:
        if any(e.get("code") != _DUPLICATE_KEY for e in error.details["writeErrors"]):
            raise
        database.upsert(collection, documents)


def _write_store(store: Store, identity: str, documents: Sequence[Document]) -> None:
    """Update what is new or differs from what is stored in more than ``last_updated``."""
    incoming = {getattr(document, identity): document.model_dump(mode="python") for document in documents}
    stored = {d[identity]: d for d in by_key(store, identity, incoming, {"_id": 0})}
    now = utc_now()
    changed = []
    for name, document in incoming.items():
        check_size(document, f"{store.name} {name}")
        before = {k: v for k, v in stored.get(name, {}).items() if k != "last_updated"}
        if before != {k: v for k, v in document.items() if k != "last_updated"}:
            changed.append(document | {"last_updated": now})
    if changed:
        store.update(changed, key=identity)


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


def frames_with_model(frames: Store, trajectories: Store, ids: list[str]) -> dict[str, dict[str, Any]]:
    """Return frame_id → document of ``frames``, with the potential that made it as ``explored_with``."""
    found = {f["frame_id"]: f for f in by_key(frames, "frame_id", ids, {"_id": 0})}
    runs = sorted({f["trajectory_id"] for f in found.values()})
    fields = {"trajectory_id": 1, "model": 1, "_id": 0}
    models = {t["trajectory_id"]: t["model"] for t in by_key(trajectories, "trajectory_id", runs, fields)}
    return {i: f | {"explored_with": models.get(f["trajectory_id"])} for i, f in found.items()}


def plain_store(store: Store | None, default: Store) -> Store:
    """Return the given store (of a JobStore the one that holds the documents), or the default."""
    if store is None:
        return default
    return store.docs_store if isinstance(store, JobStore) else store


def outputs_store() -> Store:
    """Return the plain store under the JobStore, which builders read without resolving references."""
    return job_store().docs_store
