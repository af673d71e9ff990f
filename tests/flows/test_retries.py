"""What fails for a moment is done again, and done once."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    DuplicateKeyError,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    ServerSelectionTimeoutError,
)

from aqvolt_flows import retries
from aqvolt_flows.retries import METHODS, RetryingCollection, is_transient, retried, waits
from aqvolt_flows.stores import Database, job_store
from aqvolt_launch.launchpad import ensure_launchpad


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(retries, "LONGEST_WAIT_S", 0.002)


TRANSIENT = [
    AutoReconnect("connection closed"),
    NetworkTimeout("timed out"),
    NotPrimaryError("stepped down"),
    OperationFailure("WriteConflict", 112),
    OperationFailure("deadlock detected", 1),
    OperationFailure("ERROR: could not serialize access due to concurrent update (SQLSTATE 40001)", 8000),
    BulkWriteError({"writeErrors": [{"code": 112, "errmsg": "WriteConflict"}]}),
]
FINAL = [
    OperationFailure("Unauthorized", 13),
    OperationFailure("internal server error", 1),
    DuplicateKeyError("E11000", 11000),
    ServerSelectionTimeoutError("nobody is there"),
    BulkWriteError({"writeErrors": [{"code": 112}, {"code": 11000}]}),
]


@pytest.mark.parametrize("error", TRANSIENT, ids=str)
def test_transient_errors_are_repeated(error: Exception) -> None:
    assert is_transient(error)
    done: list[int] = []

    def action() -> str:
        done.append(1)
        if len(done) < 4:
            raise error
        return "result"

    assert retried(action) == "result"
    assert len(done) == 4


@pytest.mark.parametrize("error", FINAL, ids=str)
def test_others_are_raised_at_once(error: Exception) -> None:
    assert not is_transient(error)
    done: list[int] = []

    def action() -> None:
        done.append(1)
        raise error

    with pytest.raises(type(error)):
        retried(action)
    assert len(done) == 1


def test_an_error_that_stays_is_raised_in_the_end_and_waits_grow() -> None:
    done: list[int] = []

    def action() -> None:
        done.append(1)
        raise AutoReconnect("gone")

    with pytest.raises(AutoReconnect):
        retried(action)
    assert len(done) == retries.ATTEMPTS
    assert all(0 < wait <= 0.002 for wait in waits())


class Flaky:
    """A real collection whose first answers are lost, after (or before) the server has done what was asked."""

    def __init__(self, collection: Any, failures: int, done_before: bool) -> None:
        self.collection, self.left, self.done_before, self.name = collection, failures, done_before, "flaky"

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.collection, name)
        if name not in {*METHODS, "insert_one", "insert_many"}:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.left:
                self.left -= 1
                if self.done_before:
                    found(*args, **kwargs)
                raise AutoReconnect("the answer was lost")
            return found(*args, **kwargs)

        return call


@pytest.mark.parametrize("done_before", [True, False])
def test_every_operation_is_done_once_whether_or_not_the_lost_attempt_was_done(
    database: Database, done_before: bool
) -> None:
    collection = database.mongo["scratch"]

    def flaky() -> RetryingCollection:
        return RetryingCollection(Flaky(collection, 2 if not done_before else 1, done_before))  # type: ignore[arg-type]

    assert flaky().insert_one({"n": 1}).inserted_id
    documents = [{"n": n} for n in (2, 3, 4)]
    assert len(flaky().insert_many(documents).inserted_ids) == 3
    assert flaky().count_documents({}) == 4
    flaky().update_one({"n": 2}, {"$set": {"m": 2}})
    flaky().update_many({"n": {"$gt": 2}}, {"$set": {"m": 3}})
    assert flaky().find_one({"n": 2})["m"] == 2
    assert sorted(flaky().distinct("n")) == [1, 2, 3, 4]
    assert len(list(flaky().aggregate([{"$match": {"m": 3}}]))) == 2
    flaky().replace_one({"n": 1}, {"n": 1, "m": 1})
    flaky().delete_one({"n": 4})
    assert sorted((d["n"], d["m"]) for d in collection.find()) == [(1, 1), (2, 2), (3, 3)]


def test_a_duplicate_that_somebody_else_made_is_one(database: Database) -> None:
    collection = database.mongo["scratch"]
    collection.create_index("key", unique=True)
    collection.insert_one({"key": "a"})
    wrapped = RetryingCollection(Flaky(collection, 1, False))  # type: ignore[arg-type]
    with pytest.raises(DuplicateKeyError):
        wrapped.insert_one({"key": "a"})
    assert collection.count_documents({}) == 1


def test_all_that_speaks_to_the_database_repeats(database: Database, settings: Any) -> None:
    assert isinstance(database["frames"], RetryingCollection)
    assert isinstance(database.own("frames").collection, RetryingCollection)
    store = job_store().docs_store
    store.connect()
    assert isinstance(store._coll, RetryingCollection)
    launchpad = ensure_launchpad(settings)
    for name in ("fireworks", "launches", "workflows", "fw_id_assigner"):
        assert isinstance(getattr(launchpad, name), RetryingCollection)


def test_threads_that_take_numbers_at_once_each_get_their_own(database: Database, settings: Any, monkeypatch) -> None:
    """Four threads, every third answer a deadlock: FireWorks' counters give each number once."""
    launchpad = ensure_launchpad(settings)
    real = launchpad.fw_id_assigner._collection
    lock, calls, got = threading.Lock(), [0], []

    class Deadlocks:
        name = "fw_id_assigner"

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def find_one_and_update(self, *args: Any, **kwargs: Any) -> Any:
            with lock:
                calls[0] += 1
                if calls[0] % 3 == 0:
                    raise OperationFailure("deadlock detected", 1)
            return real.find_one_and_update(*args, **kwargs)

    monkeypatch.setattr(launchpad.fw_id_assigner, "_collection", Deadlocks())

    def claim() -> None:
        for _ in range(10):
            numbers = launchpad.get_new_launch_id(), launchpad.get_new_fw_id(quantity=3)
            with lock:
                got.append(numbers)

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    launches, fireworks = (sorted(numbers) for numbers in zip(*got, strict=True))
    assert launches == list(range(1, 41)), "the first number is 1, as lpad reset makes it"
    assert fireworks == list(range(1, 121, 3))
