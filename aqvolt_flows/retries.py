"""Operations on the database that are done again when they failed for a moment: one policy, for all collections.

A deadlock, a write conflict, a failover or a connection that was cut says nothing about the operation; the same one a
little later succeeds. pymongo repeats some operations itself, once, and only on replica sets.

A write whose answer was lost may have been done. Repeating it is harmless here: an inserted document carries its
``_id``, so that the second insert finds the first; updates set values, or count numbers of which some may be skipped.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from pymongo.collection import Collection
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConnectionFailure,
    CursorNotFound,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
)

logger = logging.getLogger(__name__)

ATTEMPTS = 7
FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 3.0
#: Of MongoDB's error codes (src/mongo/base/error_codes.yml) those of the category RetriableError, LockTimeout (24),
#: WriteConflict (112), TransactionTooOld (225), NoSuchTransaction (251) and TransientTransactionError's others.
TRANSIENT_CODES = frozenset(
    {6, 7, 24, 64, 89, 91, 112, 134, 189, 202, 225, 234, 246, 251, 262, 317, 358, 384, 402, 9001}
    | {10107, 11600, 11602, 13435, 13436}
)
#: What servers with another engine below say (PostgreSQL's 40P01 and 40001), with codes of their own.
_TRANSIENT_WORDS = re.compile(
    r"deadlock detected|could not serialize access|write ?conflict|not (primary|master)|stepped down|please retry",
    re.IGNORECASE,
)
_DUPLICATE = 11000
#: Methods of a collection that ask the server before they return.
METHODS = frozenset(
    {"find_one", "count_documents", "estimated_document_count", "distinct", "aggregate", "create_index", "update_one"}
    | {"update_many", "replace_one", "delete_one", "delete_many", "bulk_write", "find_one_and_update"}
    | {"find_one_and_replace", "find_one_and_delete"}
)


def is_transient(error: BaseException) -> bool:
    """Return whether the same operation may succeed a little later.

    A server that cannot be found within the time of the settings is not waited for any longer.
    """
    if isinstance(error, ServerSelectionTimeoutError | WaitQueueTimeoutError | DuplicateKeyError):
        return False
    if isinstance(error, BulkWriteError):
        found = (error.details or {}).get("writeErrors") or []
        codes = {e.get("code") for e in found}
        return (
            bool(found)
            and all(e.get("code") in TRANSIENT_CODES or _TRANSIENT_WORDS.search(str(e.get("errmsg"))) for e in found)
            and _DUPLICATE not in codes
        )
    if isinstance(error, AutoReconnect | ConnectionFailure | CursorNotFound):
        return True
    if isinstance(error, OperationFailure):
        return error.code in TRANSIENT_CODES or bool(_TRANSIENT_WORDS.search(str(error)))
    return isinstance(error, PyMongoError) and error.has_error_label("RetryableWriteError")


def waits(attempts: int = ATTEMPTS) -> Iterator[float]:
    """Yield the seconds to wait before each repetition: twice as long each time, half of it by chance."""
    for number in range(attempts - 1):
        longest = min(FIRST_WAIT_S * 2**number, LONGEST_WAIT_S)
        yield longest * random.uniform(0.5, 1.0)


def retried[Result](action: Callable[[], Result], what: str = "an operation", attempts: int = ATTEMPTS) -> Result:
    """Return what an action returns; it is done again after transient errors.

    Parameters
    ----------
    action
        May be done twice.
    what
        Names it in the log.
    attempts
        How often it is done at most.

    Raises
    ------
    Exception
        The first error that is not transient, or the last one.
    """
    for wait_s in waits(attempts):
        try:
            return action()
        except PyMongoError as error:
            if not is_transient(error):
                raise
            logger.info("%s failed for a moment (%s: %s); again in %.2f s.", what, type(error).__name__, error, wait_s)
            time.sleep(wait_s)
    return action()


class RetryingCollection:
    """A collection whose operations are repeated after transient errors; everything else is the collection's.

    Parameters
    ----------
    collection
        The one that is asked.
    """

    def __init__(self, collection: Collection[dict[str, Any]]) -> None:
        self._collection = collection

    def __getattr__(self, name: str) -> Any:
        """Return what the collection has, repeated where it asks the server."""
        found = getattr(self._collection, name)
        if name not in METHODS:
            return found
        return lambda *args, **kwargs: retried(lambda: found(*args, **kwargs), f"{name} in {self._collection.name}")

    def __getitem__(self, name: str) -> Any:
        return self._collection[name]

    def insert_one(self, document: Any, *args: Any, **kwargs: Any) -> Any:
        """Insert a document; one that an attempt with a lost answer has inserted counts as inserted."""
        unsure = False
        last = ATTEMPTS - 1
        for number, wait_s in enumerate([*waits(), 0.0]):
            try:
                return self._collection.insert_one(document, *args, **kwargs)
            except DuplicateKeyError as error:
                if unsure and self._is_there(document):
                    from pymongo.results import InsertOneResult

                    return InsertOneResult(document["_id"], acknowledged=True)
                raise error
            except PyMongoError as error:
                if number == last or not is_transient(error):
                    raise
                unsure = True
                time.sleep(wait_s)
        raise AssertionError("unreachable")

    def insert_many(self, documents: Any, *args: Any, **kwargs: Any) -> Any:
        """Insert documents; after a lost answer only those that are not there yet."""
        todo = list(documents)
        last = ATTEMPTS - 1
        for number, wait_s in enumerate([*waits(), 0.0]):
            try:
                return self._collection.insert_many(todo, *args, **kwargs)
            except PyMongoError as error:
                if number == last or not is_transient(error):
                    raise
                time.sleep(wait_s)
                ids = [d["_id"] for d in todo if "_id" in d]
                there = self._ids_among(ids)
                todo = [d for d in todo if d.get("_id") not in there]
                if not todo:
                    from pymongo.results import InsertManyResult

                    return InsertManyResult(ids, acknowledged=True)
        raise AssertionError("unreachable")

    def find(self, *args: Any, **kwargs: Any) -> Any:
        """Return a cursor; pymongo repeats its reads after a cut connection."""
        return self._collection.find(*args, **kwargs)

    def _ids_among(self, ids: list[Any]) -> set[Any]:
        query = {"_id": {"$in": ids}}
        return {d["_id"] for d in retried(lambda: list(self._collection.find(query, {"_id": 1})))}

    def _is_there(self, document: Any) -> bool:
        return retried(lambda: self._collection.find_one({"_id": document["_id"]}, {"_id": 1})) is not None
