"""MongoDB: the collections, their identities and indexes, and the stores that find it by settings.

No URI and no password is ever written into a Firework or a builder file: :class:`ConfiguredMongoStore`
asks the settings of the machine it runs on.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from itertools import batched
from typing import Any, Self, cast

import bson
from jobflow import JobStore
from maggma.stores import MongoStore
from pymongo import ASCENDING, InsertOne, MongoClient, UpdateOne, uri_parser
from pymongo.collection import Collection
from pymongo.database import Database as MongoDatabase
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)

from aqvolt_flows.artifacts import ArtifactStore
from aqvolt_flows.errors import DatabaseError, InputError
from aqvolt_flows.membership import FIELDS, REGISTER, Members, campaign_of, job_campaigns
from aqvolt_flows.retries import RetryingCollection, retried
from aqvolt_flows.schemas.base import Document, utc_now
from aqvolt_flows.settings import AqvoltSettings, load_settings

#: MongoDB refuses documents above 16 MiB; ours are refused earlier, with a name.
MAX_DOCUMENT_BYTES = 15 * 1024 * 1024

#: Identities in one query, see :func:`by_ids`.
IDS_AT_ONCE = 50

_DUPLICATE_KEY = 11000
#: MongoDB's codes Unauthorized and AuthenticationFailed.
_UNAUTHORIZED = {13, 18}
_SECRET_OPTION = re.compile("password|token|properties", re.IGNORECASE)

#: Identity field of each collection; a unique index stands on it and on ``key``.
IDENTITIES = {
    "candidates": "candidate_id",
    "trajectories": "trajectory_id",
    "features": "shard_id",
    "samples": "sample_id",
    "frames": "frame_id",
    "labels": "label_id",
    "releases": "release_id",
    "models": "model_id",
    "benchmarks": "benchmark_id",
    "benchmark_parts": "part_id",
    "costs": "cost_id",
    "holds": "hold_id",
    "builds": "build_id",
    "loops": "round_id",
}
_STRUCTURE_FIELDS = ("chemsys", "formula", "elements", "n_atoms", "last_updated")
#: Fields that commands and builders query, per collection.
INDEXES: dict[str, tuple[str, ...]] = {
    "candidates": (*_STRUCTURE_FIELDS, "source", "role", "status", "parent_id"),
    "trajectories": (*_STRUCTURE_FIELDS, "candidate_id", "status", "temperature_k", "engine"),
    "features": ("encoder", "encoder_sha256", "last_updated"),
    "samples": ("space_key", "encoder", "last_updated"),
    "frames": (*_STRUCTURE_FIELDS, "candidate_id", "trajectory_id", "sample_key"),
    "labels": (
        *_STRUCTURE_FIELDS,
        "frame_id",
        "candidate_id",
        "trajectory_id",
        "status",
        "protocol_id",
        "protocol_name",
        "source",
        "max_force",
        "cohesive_energy_per_atom",
        "temperature_k",
        "failure.reason",
        "provenance.record_id",
        "source_uuid",
        "newest_source_at",
    ),
    "releases": ("name", "content_hash", "last_updated"),
    "models": ("content_hash", "release_id", "last_updated"),
    "benchmarks": ("benchmark", "model", "model_id", "release_id", "last_updated"),
    "benchmark_parts": ("benchmark_key", "last_updated"),
    "costs": ("stage", "last_updated"),
    "holds": ("kind", "status", "last_updated"),
    "builds": ("builder", "last_updated"),
    "loops": ("loop", "last_updated"),
    "outputs": ("uuid", "name", "completed_at", "metadata.aqvolt.stage", "metadata.aqvolt.key"),
}


def normalise_uri(uri: str) -> str:
    """Return the URI with ``directConnection=true`` for a single loopback host (the embedded server).

    Raises
    ------
    DatabaseError
        If it is not a MongoDB URI.
    """
    if not uri.startswith(("mongodb://", "mongodb+srv://")):
        raise DatabaseError(
            "The database URI does not start with mongodb:// or mongodb+srv://; check AQVOLT_MONGO_URI."
        )
    try:
        nodes = uri_parser.parse_uri(uri, validate=True, warn=False)["nodelist"] if uri.startswith("mongodb://") else []
    except (InvalidURI, ConfigurationError, ValueError, PyMongoError) as error:
        raise _invalid(uri, error) from None
    if len(nodes) == 1 and nodes[0][0] in {"127.0.0.1", "localhost"} and "directConnection" not in uri:
        scheme, rest = uri.split("://", 1)
        host, _, tail = rest.partition("/")
        path, _, query = tail.partition("?")
        return f"{scheme}://{host}/{path}?{query + '&' if query else ''}directConnection=true"
    return uri


def _refusal(error: OperationFailure, settings: AqvoltSettings) -> str:
    """Return what a server's refusal of a first read means, and what to do."""
    said = str((error.details or {}).get("errmsg") or error).split(", full error")[0]
    if error.code in _UNAUTHORIZED:
        todo = "check user and password" if settings.mongo_uri else "run 'aqvolt db start'"
        return f"refused the connection ({said}); {todo}."
    todo = "look at its log" if settings.mongo_uri else "run 'aqvolt db start', which restarts it if it is broken"
    return f"answers but cannot be read ({said}), as after a full disk; free space and {todo}."


def failed(error: PyMongoError, settings: AqvoltSettings) -> DatabaseError:
    """Return the sentence for what pymongo raised in the middle of something."""
    try:
        uri = redact(settings.database_uri())
    except DatabaseError as gone:
        return gone
    said = str((getattr(error, "details", None) or {}).get("errmsg") or error).split(", full error")[0]
    said = " ".join(said.split(", Timeout:")[0].split())[:300]
    todo = "check that MongoDB runs" if settings.mongo_uri else "run 'aqvolt db start'"
    return DatabaseError(
        f"The database at {uri} failed ({type(error).__name__}: {said}); what was finished is kept: {todo}, then "
        "repeat the command."
    )


def _invalid(uri: str, error: Exception) -> DatabaseError:
    """Return the error for a URI that pymongo refuses; its words are left out where they may quote a password."""
    said = "what stands before the last @ has to be percent-encoded" if "@" in uri else str(error)
    return DatabaseError(f"The database URI is not valid ({said}); expected mongodb://[user:password@]host:port/…")


def redact(uri: str) -> str:
    """Return the URI without its password, fit for messages; nothing that may be one is left, however it is written."""
    scheme, separator, rest = uri.partition("://") if "://" in uri else ("", "", uri)
    credentials, at, host = rest.rpartition("@")
    host, mark, options = host.partition("?")
    options = "…" if _SECRET_OPTION.search(options) else options
    user = credentials.split(":")[0] + ":" if separator else ""
    return f"{scheme}{separator}{f'{user}…@' if at else ''}{host}{mark}{options}"


_clients: list[MongoClient[dict[str, Any]]] = []


@cache
def _client(uri: str, timeout_s: float) -> MongoClient[dict[str, Any]]:
    milliseconds = int(timeout_s * 1000)
    client: MongoClient[dict[str, Any]] = MongoClient(
        uri,
        serverSelectionTimeoutMS=milliseconds,
        connectTimeoutMS=milliseconds,
        socketTimeoutMS=max(milliseconds * 12, 120_000),
        tz_aware=True,
        appname="aqvolt-flows",
    )
    _clients.append(client)
    return client


def close_clients() -> None:
    """Close every cached client; the next :func:`client_for` opens a new one."""
    _client.cache_clear()
    while _clients:
        _clients.pop().close()


def client_for(settings: AqvoltSettings) -> tuple[MongoClient[dict[str, Any]], str]:
    """Return the (cached) client and the database's name for these settings; nothing is contacted yet."""
    uri = normalise_uri(settings.database_uri())
    try:
        name = uri_parser.parse_uri(uri)["database"] if uri.startswith("mongodb://") else None
        return _client(uri, settings.timeout_s), str(name or settings.database)
    except (InvalidURI, ConfigurationError) as error:
        raise _invalid(uri, error) from None


class Database:
    """The collections of one project.

    Parameters
    ----------
    settings
        Where the database and the artifact store are.
    campaigns
        To which what is written belongs; the first one's documents are read. By default those of the job that runs
        in this process, else that of the settings.
    """

    def __init__(self, settings: AqvoltSettings, campaigns: Sequence[str] = ()) -> None:
        self.settings = settings
        self._given = tuple(campaigns)
        self._registered: set[str] = set()
        self.all_campaigns = False
        client, name = client_for(settings)
        self.mongo: MongoDatabase[dict[str, Any]] = client[name]
        self.artifacts = ArtifactStore(settings.artifact_url)

    @classmethod
    def connect(cls, settings: AqvoltSettings | None = None) -> Self:
        """Return a database that answers.

        Raises
        ------
        DatabaseError
            If no server answers within ``timeout_s``, or it refuses the credentials.
        """
        database = cls(settings or load_settings())
        uri = redact(database.settings.database_uri())
        try:
            # a ping would be answered without a password, and by a server that is broken
            retried(lambda: database.mongo[REGISTER].find_one({}, {"_id": 1}), "the first read")
        except ServerSelectionTimeoutError:
            hint = "check AQVOLT_MONGO_URI" if database.settings.mongo_uri else "run 'aqvolt db start'"
            raise DatabaseError(
                f"No MongoDB answers at {uri} within {database.settings.timeout_s:g} s; expected a running "
                f"server: {hint}."
            ) from None
        except OperationFailure as error:
            raise DatabaseError(f"MongoDB at {uri} {_refusal(error, database.settings)}") from None
        except PyMongoError as error:
            raise failed(error, database.settings) from None
        return database

    def __getitem__(self, name: str) -> Collection[dict[str, Any]]:
        """Return a collection by its fixed name."""
        if name not in INDEXES:
            raise InputError(f"There is no collection {name!r}; known are {', '.join(sorted(INDEXES))}.")
        return cast("Collection[dict[str, Any]]", RetryingCollection(self.mongo[name]))

    @cached_property
    def default_campaign(self) -> str:
        """The campaign of the settings; documents without a campaign belong to it."""
        return campaign_of(self.settings)

    @cached_property
    def campaigns(self) -> tuple[str, ...]:
        """The campaigns to which what is written belongs."""
        return self._given or job_campaigns() or (self.default_campaign,)

    @property
    def campaign(self) -> str:
        """The campaign whose documents :meth:`own` reads."""
        return self.campaigns[0]

    def in_campaign(self, name: str) -> Self:
        """Return this database as a campaign sees it."""
        view = copy.copy(self)
        view.__dict__.pop("campaigns", None)
        view._given, view.all_campaigns = (name,), False
        return view

    def in_all_campaigns(self) -> Self:
        """Return this database with :meth:`own` reading the documents of every campaign."""
        view = copy.copy(self)
        view.all_campaigns = True
        return view

    def own(self, name: str) -> Members:
        """Return the documents of a collection that belong to the campaign."""
        return Members(self[name], self.members(name))

    def members(self, name: str) -> dict[str, Any]:
        """Return the query for what belongs to the campaign; empty where that is everything."""
        if name not in FIELDS or self.all_campaigns:
            return {}
        return self._members(name) | ({"given_back": {"$ne": self.campaign}} if name == "frames" else {})

    def _members(self, name: str) -> dict[str, Any]:
        if self.is_alone():
            return {}
        inherits = self.campaign == self.default_campaign and (name == "outputs" or not self._migrated())
        return {FIELDS[name]: {"$in": [self.campaign, None]} if inherits else self.campaign}

    def known_campaigns(self) -> list[str]:
        """Return the campaigns that the database has seen, sorted."""
        return sorted(d["_id"] for d in self.mongo[REGISTER].find({}, {"_id": 1}))

    def is_alone(self) -> bool:
        """Whether no other campaign has written here, so that every document is the campaign's."""
        return self.campaign == self.default_campaign and set(self.known_campaigns()) <= {self.campaign}

    def register_campaigns(self, names: Iterable[str] | None = None) -> None:
        """Note that campaigns, by default those of this object, use the database."""
        for name in set(self.campaigns if names is None else names) - self._registered:
            self.mongo[REGISTER].update_one({"_id": name}, {"$setOnInsert": {"first_used": utc_now()}}, upsert=True)
            self._registered.add(name)

    def _migrated(self) -> bool:
        return self.mongo[REGISTER].find_one({"migrated_at": {"$exists": True}}) is not None

    def members_of(self, document: Mapping[str, Any]) -> list[str]:
        """Return the campaigns that a stored document belongs to."""
        return list(document["campaigns"]) if "campaigns" in document else [self.default_campaign]

    def adopt(
        self, name: str, values: Iterable[Any], field: str | None = None, query: Mapping[str, Any] | None = None
    ) -> int:
        """Let documents that another campaign made belong to this one too, and return how many did not yet.

        Parameters
        ----------
        name
            Collection.
        values, field
            Which documents: values of a field, by default the identity.
        query
            What they must fulfill besides.
        """
        if name not in FIELDS or self.is_alone():
            return 0
        self.register_campaigns()
        member = FIELDS[name]
        moved = {"$set": {"last_updated": utc_now()}} if name in IDENTITIES else {}
        grown = 0
        for portion in batched(values, IDS_AT_ONCE):
            about = {field or IDENTITIES[name]: {"$in": list(portion)}} | dict(query or {})
            for campaign in self.campaigns:
                if campaign != self.default_campaign:
                    untold = {"$set": {member: [self.default_campaign]}}
                    self[name].update_many(about | {member: {"$exists": False}}, untold)
                others = about | {member: {"$exists": True, "$ne": campaign}}
                grown += self[name].update_many(others, moved | {"$addToSet": {member: campaign}}).modified_count
        return grown

    def ensure_indexes(self) -> None:
        """Create what :data:`IDENTITIES` and :data:`INDEXES` declare; existing indexes stay."""
        for name, fields in INDEXES.items():
            if name in IDENTITIES:
                self[name].create_index([(IDENTITIES[name], ASCENDING)], unique=True)
                self[name].create_index([("key", ASCENDING)], unique=True)
            for field in (*fields, *([FIELDS[name]] if name in FIELDS else [])):
                self[name].create_index([(field, ASCENDING)])

    def upsert(self, name: str, documents: Iterable[Document]) -> int:
        """Write documents by identity and return how many were new.

        A document equal to the stored one but for ``last_updated`` is not written, so that builders
        downstream see no change where there is none. It belongs to the campaigns that it names, or to those of this
        database where it names none, besides those it belonged to; only a new membership is a change.
        """
        identity = IDENTITIES[name]
        incoming: dict[str, dict[str, Any]] = {}
        joins: dict[str, list[str]] = {}
        for document in documents:
            plain = document.model_dump(mode="python")
            named = plain.pop("campaigns")
            joins[plain[identity]] = list(named or self.campaigns) if name in FIELDS else []
            check_size(plain, f"{name} {plain[identity]}")
            incoming[plain[identity]] = plain
        if not incoming:
            return 0
        collection = self[name]
        stored = {d[identity]: d for d in by_ids(collection, identity, incoming)}
        now = utc_now()
        fresh: list[InsertOne[dict[str, Any]]] = []
        known: list[UpdateOne] = []
        writes: list[UpdateOne] = []
        for i, d in incoming.items():
            there = stored.get(i)
            member = set(self.members_of(there)) if there else set()
            grows = name in FIELDS and not set(joins[i]) <= member
            same = _same(there, d)
            if same and not grows:
                continue
            add = sorted({*joins[i], *(member if there and "campaigns" not in there else ())}) if joins[i] else []
            change: dict[str, Any] = {"$set": ({} if same else d) | {"last_updated": now}}
            change |= {"$addToSet": {"campaigns": {"$each": add}}} if add else {}
            update = UpdateOne({identity: i}, change, upsert=not same)
            writes.append(update)
            if there is None:
                # inserted, several times faster than an upsert; if another process was first, all are upserted
                fresh.append(InsertOne(d | {"last_updated": now} | ({"campaigns": add} if add else {})))
            else:
                known.append(update)
        self.register_campaigns({c for names in joins.values() for c in names})
        if fresh or known:
            try:
                collection.bulk_write([*fresh, *known], ordered=False)
            except BulkWriteError as error:
                if any(e["code"] != _DUPLICATE_KEY for e in error.details["writeErrors"]):
                    raise
                collection.bulk_write(writes, ordered=False)
        return len(incoming.keys() - stored.keys())

    def find_by_ids(self, name: str, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return documents in the order of ``ids``; a missing one is an :class:`InputError`."""
        identity = IDENTITIES[name]
        found = {d[identity]: d for d in by_ids(self.mongo[name], identity, ids)}
        missing = [i for i in ids if i not in found]
        if missing:
            raise InputError(f"{len(missing)} of {len(ids)} are not in {name}, first {missing[0]}; check the identity.")
        return [found[i] for i in ids]


def by_ids(
    collection: Any, field: str, ids: Iterable[str], projection: Mapping[str, int] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the documents whose ``field`` is one of ``ids``, in no order.

    They are asked for a few at a time: the embedded server's time for one ``$in`` grows faster than its length (3,000
    labels: 3.5 s in portions of 50, 10.8 s in portions of 500, measured on a busy machine).
    """
    for portion in batched(ids, IDS_AT_ONCE):
        yield from collection.find({field: {"$in": list(portion)}}, dict(projection or {"_id": 0}))


def _same(stored: Mapping[str, Any] | None, new: Mapping[str, Any]) -> bool:
    if stored is None:
        return False
    beside = {"last_updated", "campaigns", "given_back"}
    known, made = ({k: v for k, v in d.items() if k not in beside} for d in (stored, new))
    return known == made or known == _as_stored(made)


def _as_stored(value: Any) -> Any:
    """Return a value as MongoDB gives it back: pymatgen writes a lattice's periodicity as a tuple."""
    if isinstance(value, dict):
        return {k: _as_stored(v) for k, v in value.items()}
    return [_as_stored(v) for v in value] if isinstance(value, list | tuple) else value


def check_size(document: Mapping[str, Any], what: str) -> None:
    """Raise :class:`InputError` if the document would come near MongoDB's 16 MiB limit."""
    size = len(bson.encode(dict(document)))
    if size > MAX_DOCUMENT_BYTES:
        raise InputError(
            f"{what} would be {size / 2**20:.1f} MiB, above the {MAX_DOCUMENT_BYTES / 2**20:.0f} MiB limit; put "
            "its arrays "
            "into the artifact store."
        )


class ConfiguredMongoStore(MongoStore):
    """A MongoStore that takes its URI from the settings of the machine it runs on.

    Parameters
    ----------
    collection_name
        One of the fixed collections.
    **kwargs
        Passed to ``maggma.stores.MongoStore`` (``key``, ``last_updated_field`` …).

    Examples
    --------
    >>> ConfiguredMongoStore("labels", key="label_id").as_dict()["collection_name"]
    'labels'
    """

    _coll: Any

    def __init__(self, collection_name: str, **kwargs: Any) -> None:
        self._configured_kwargs = dict(kwargs)
        super().__init__(database="aqvolt", collection_name=collection_name, **kwargs)

    @property
    def name(self) -> str:
        """Return a name without credentials."""
        return f"aqvolt://{self.collection_name}"

    def connect(self, force_reset: bool = False) -> None:
        """Connect to the collection that the settings name."""
        if self._coll is None or force_reset:
            client, name = client_for(load_settings())
            self.database = name
            self._coll = RetryingCollection(client[name][self.collection_name])

    def close(self) -> None:
        """Let go of the collection; the client stays open, others in this process use it too."""
        self._coll = None

    def as_dict(self) -> dict[str, Any]:
        """Return a form without URI: module, class, collection and options."""
        return {
            "@module": type(self).__module__,
            "@class": type(self).__name__,
            "@version": None,
            "collection_name": self.collection_name,
            **self._configured_kwargs,
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """Return the store that :meth:`as_dict` described."""
        return cls(**{k: v for k, v in d.items() if not k.startswith("@")})


def collection_store(name: str) -> ConfiguredMongoStore:
    """Return the maggma store of a collection, keyed by its identity and dated by ``last_updated``."""
    return ConfiguredMongoStore(name, key=IDENTITIES[name], last_updated_field="last_updated")


def job_store() -> JobStore:
    """Return the JobStore on ``outputs``, as Fireworks carry it: with no address inside."""
    return JobStore(ConfiguredMongoStore("outputs", key="uuid"))
