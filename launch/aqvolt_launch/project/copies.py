"""Copies of a project's database: to another server, to a folder, and back, each checked by counts and hashes.

Documents are copied in the order of their ``_id`` and hashed as BSON, field for field. The two sides are the same if
each collection has as many documents with the same hash: SHA-256 over the documents' hashes, sorted.

A backup is a folder with one file of BSON documents a collection, as ``mongodump`` writes them (``bsondump`` and
``mongorestore`` read them), ``indexes.json``, and ``manifest.json`` with counts and hashes, which is written last: a
folder without it is no backup. Arrays are in the artifact store, which is copied as any folder or bucket.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import batched
from pathlib import Path
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient, uri_parser
from pymongo.database import Database as MongoDatabase
from pymongo.errors import ConfigurationError, InvalidURI, PyMongoError

from aqvolt_flows.aside import written_aside
from aqvolt_flows.errors import DatabaseError, InputError
from aqvolt_flows.retries import RetryingCollection, retried
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import client_for, normalise_uri, redact

MANIFEST, INDEXES = "manifest.json", "indexes.json"
FORMAT = "aqvolt-backup/1"
_BATCH = 500
_BATCH_BYTES = 24 * 1024 * 1024
_RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
#: Options of an index. ``background`` means nothing to MongoDB since 4.2, but SecantusDB takes one with it, or with
#: its options in another order, for another one.
_INDEX_OPTIONS = ("background", "unique", "sparse", "partialFilterExpression", "expireAfterSeconds")
#: Left by the doctor and by probes.
_SCRATCH = ("aqvolt_doctor_", "system.")


@dataclass(frozen=True)
class Copied:
    """One collection that was copied: documents, and the hash that both sides have."""

    collection: str
    documents: int
    sha256: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a mapping."""
        return asdict(self)


class _Sum:
    """Hash over documents in any order."""

    def __init__(self) -> None:
        self._digests: list[bytes] = []

    def add(self, raw: bytes) -> None:
        self._digests.append(hashlib.sha256(raw).digest())

    def __len__(self) -> int:
        return len(self._digests)

    def hex(self) -> str:
        return hashlib.sha256(b"".join(sorted(self._digests))).hexdigest()


def copy_to(settings: AqvoltSettings, uri: str, source_uri: str | None = None, running: bool = False) -> list[Copied]:
    """Copy the project's database to another server, or from it, and check both sides.

    A copy that was interrupted continues: what is there already is not written again. Documents of the target that
    the source has not are a failure of the check; nothing is ever deleted.

    Parameters
    ----------
    settings
        Whose database.
    uri
        Where to; its database's name is the project's where the URI names none.
    source_uri
        Copy from there instead, into ``uri``.
    running
        Copy although Fireworks run; the check then fails if something changed meanwhile.

    Raises
    ------
    InputError
        If both sides are the same, or Fireworks run, or the target holds other documents.
    DatabaseError
        If one of them does not answer.
    """
    source = _open(source_uri, settings) if source_uri else _own(settings)
    target = _open(uri, settings)
    try:
        if _same_place(source, target):
            raise InputError("Source and target are the same database; give another URI or database name.")
        if not running:
            _check_idle(source)
        done = []
        for name in _names(source):
            wanted = _copy(source, target, name)
            found = _sum(_raw(target, name))
            if (len(found), found.hex()) != (len(wanted), wanted.hex()):
                raise InputError(
                    f"The copy of {name} has {len(found)} documents with hash {found.hex()[:12]}…, the source "
                    f"{len(wanted)} with {wanted.hex()[:12]}…: the source changed meanwhile, or the target held "
                    "others; stop all workers and copy into an empty database."
                )
            done.append(Copied(name, len(wanted), wanted.hex()))
        for name, described in _described_indexes(source).items():
            _make_indexes(target, name, described)
    except PyMongoError as error:
        raise DatabaseError(
            f"The copy stopped ({type(error).__name__}: {error}); the same command continues."
        ) from None
    finally:
        target.client.close()
        if source_uri:
            source.client.close()
    return done


def backup(settings: AqvoltSettings, folder: Path, running: bool = False) -> list[Copied]:
    """Write every collection into a folder, and its manifest last.

    Raises
    ------
    InputError
        If the folder holds something, or Fireworks run.
    """
    source = _own(settings)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; name a new folder for the backup.")
    if not running:
        _check_idle(source)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    done = []
    for name in _names(source):
        total = _Sum()
        with (folder / f"{name}.bson").open("wb") as handle:
            for raw in _raw(source, name):
                handle.write(raw)
                total.add(raw)
        done.append(Copied(name, len(total), total.hex()))
    (folder / INDEXES).write_text(json.dumps(_described_indexes(source), indent=1, default=str))
    manifest = {"format": FORMAT, "database": source.name, "collections": [c.as_dict() for c in done]}
    with written_aside(folder / MANIFEST) as aside:
        aside.write_text(json.dumps(manifest, indent=1))
    return done


def restore(settings: AqvoltSettings, folder: Path) -> list[Copied]:
    """Put a backup into the project's database, which must be empty, and check it by counts and hashes.

    Raises
    ------
    InputError
        If the folder is no backup, a file of it is damaged, or the database holds documents.
    """
    manifest = _manifest(folder)
    target = _own(settings)
    for entry in manifest:  # before anything is written
        total = _sum(_file(folder / f"{entry.collection}.bson"))
        if (len(total), total.hex()) != (entry.documents, entry.sha256):
            raise InputError(
                f"{folder / entry.collection}.bson holds {len(total)} documents with hash {total.hex()[:12]}…, the "
                f"manifest says {entry.documents} with {entry.sha256[:12]}…; it is damaged: use another backup."
            )
    held = [name for name in _names(target) if target[name].find_one({}, {"_id": 1})]
    unfinished = set(held) - {entry.collection for entry in manifest}
    for entry in manifest:
        if entry.collection in held and not _part_of(target, folder, entry.collection):
            unfinished.add(entry.collection)
    if unfinished:
        raise InputError(
            f"The database {target.name} holds documents that the backup has not, in {', '.join(sorted(unfinished))}; "
            "restore into an empty one: another 'database' in aqvolt.yaml, or another project folder."
        )
    for entry in manifest:
        _write(target, entry.collection, _file(folder / f"{entry.collection}.bson"))
        found = _sum(_raw(target, entry.collection))
        if (len(found), found.hex()) != (entry.documents, entry.sha256):
            raise InputError(f"{entry.collection} does not agree with the backup after it was restored; do it again.")
    for name, described in json.loads((folder / INDEXES).read_text()).items():
        _make_indexes(target, name, described)
    return manifest


def _manifest(folder: Path) -> list[Copied]:
    try:
        found = json.loads((folder / MANIFEST).read_text())
        if found["format"] != FORMAT:
            raise KeyError(found["format"])
        entries = [Copied(str(e["collection"]), int(e["documents"]), str(e["sha256"])) for e in found["collections"]]
        if any("/" in e.collection or ".." in e.collection for e in entries):
            raise KeyError("collection")
        return entries
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder} is no finished backup ({type(error).__name__}: {error}); give a folder that 'aqvolt db backup' "
            "wrote."
        ) from None


def _own(settings: AqvoltSettings) -> MongoDatabase[Any]:
    client, name = client_for(settings)
    database: MongoDatabase[Any] = client[name]
    _ask(database, settings.database_uri())
    return database


def _open(uri: str, settings: AqvoltSettings) -> MongoDatabase[Any]:
    uri = normalise_uri(uri)
    milliseconds = int(settings.timeout_s * 1000)
    try:
        name = uri_parser.parse_uri(uri)["database"] if uri.startswith("mongodb://") else None
        client: MongoClient[Any] = MongoClient(uri, serverSelectionTimeoutMS=milliseconds)
    except (InvalidURI, ConfigurationError, ValueError):
        raise InputError(f"{redact(uri)} is no MongoDB URI; expected mongodb://[user@]host:port/database.") from None
    database = client[name or settings.database]
    try:
        _ask(database, uri)
    except DatabaseError:
        client.close()
        raise
    return database


def _ask(database: MongoDatabase[Any], uri: str) -> None:
    try:
        retried(lambda: database["aqvolt_campaigns"].find_one({}, {"_id": 1}))
    except PyMongoError as error:
        said = " ".join(str(error).split(", Timeout:")[0].split())[:200]
        raise DatabaseError(f"No database answers at {redact(uri)} ({said}); start it, or correct the URI.") from None


def _same_place(one: MongoDatabase[Any], other: MongoDatabase[Any]) -> bool:
    """Return whether two handles lead to one database: what is written through one is seen through the other."""
    if one.name != other.name:
        return False
    mark = one["aqvolt_doctor_same_place"].insert_one({})
    try:
        return other["aqvolt_doctor_same_place"].find_one({"_id": mark.inserted_id}) is not None
    finally:
        one.drop_collection("aqvolt_doctor_same_place")


def _check_idle(source: MongoDatabase[Any]) -> None:
    running = source["fireworks"].count_documents({"state": {"$in": ["RUNNING", "RESERVED"]}})
    if running:
        raise InputError(
            f"{running} Fireworks run; stop all workers, run 'aqvolt reconcile', then copy; or copy what changes with "
            "--running."
        )


def _names(database: MongoDatabase[Any]) -> list[str]:
    return sorted(n for n in retried(database.list_collection_names) if not n.startswith(_SCRATCH))


def _raw(database: MongoDatabase[Any], name: str) -> Iterator[bytes]:
    collection = database.get_collection(name, codec_options=_RAW)
    for document in collection.find({}).sort("_id", 1).batch_size(_BATCH):
        yield bytes(document.raw)


def _file(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as handle:
            for document in bson.decode_file_iter(handle, codec_options=_RAW):
                yield bytes(document.raw)
    except (OSError, bson.errors.InvalidBSON) as error:
        raise InputError(f"{path} cannot be read ({error}); the backup is damaged: use another one.") from None


def _sum(documents: Iterable[bytes]) -> _Sum:
    total = _Sum()
    for raw in documents:
        total.add(raw)
    return total


def _copy(source: MongoDatabase[Any], target: MongoDatabase[Any], name: str) -> _Sum:
    total = _Sum()

    def counted() -> Iterator[bytes]:
        for raw in _raw(source, name):
            total.add(raw)
            yield raw

    _write(target, name, counted())
    return total


def _write(target: MongoDatabase[Any], name: str, documents: Iterable[bytes]) -> None:
    """Insert documents that are not there; those that are stay as they are."""
    collection = RetryingCollection(target.get_collection(name, codec_options=_RAW))
    for portion in batched(documents, _BATCH):
        wanted = [RawBSONDocument(raw) for raw in portion]
        ids = [d["_id"] for d in wanted]
        known = {_hashable(d["_id"]) for d in collection.find({"_id": {"$in": ids}}, {"_id": 1})}
        new = [d for d in wanted if _hashable(d["_id"]) not in known]
        while new:
            size, number = 0, 0
            while number < len(new) and (number == 0 or size + len(new[number].raw) < _BATCH_BYTES):
                size, number = size + len(new[number].raw), number + 1
            collection.insert_many(new[:number], ordered=False)
            new = new[number:]


def _part_of(target: MongoDatabase[Any], folder: Path, name: str) -> bool:
    """Return whether all documents of a collection are in the backup, as an interrupted restore leaves it."""
    there = {hashlib.sha256(raw).digest() for raw in _file(folder / f"{name}.bson")}
    return all(hashlib.sha256(raw).digest() in there for raw in _raw(target, name))


def _hashable(value: Any) -> bytes:
    return bson.encode({"": value})


def _described_indexes(source: MongoDatabase[Any]) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for name in _names(source):
        described = source[name].index_information()
        found[name] = [
            {"name": index, "key": [list(pair) for pair in about["key"]]}
            | {k: v for k, v in about.items() if k in _INDEX_OPTIONS}
            for index, about in described.items()
            if index != "_id_"
        ]
    return found


def _make_indexes(target: MongoDatabase[Any], name: str, described: Iterable[dict[str, Any]]) -> None:
    for index in described:
        options = {k: v for k, v in index.items() if k in {*_INDEX_OPTIONS, "name"}}
        target[name].create_index([tuple(pair) for pair in index["key"]], **options)
