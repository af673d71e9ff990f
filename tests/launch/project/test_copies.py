"""``aqvolt db copy``, ``backup`` and ``restore``: nothing is lost, and what differs is noticed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import bson
import pytest
import trivial_jobs
from bson import Decimal128, ObjectId, Regex
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from in_process import command_of
from pymongo import MongoClient
from pymongo.errors import DuplicateKeyError

from aqvolt_flows.errors import ConfigError, DatabaseError, InputError
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_launch.cli import database as database_commands
from aqvolt_launch.launchpad import get_launchpad
from aqvolt_launch.project.copies import _sum, backup, copy_to, restore
from aqvolt_launch.submission.submit import submit
from aqvolt_launch.workers import work

ODD = [
    {"_id": ObjectId(), "when": datetime(2026, 11, 25, tzinfo=UTC), "big": 2**40, "small": 1, "float": 1.0},
    {"_id": {"nested": 1}, "decimal": Decimal128("1.10"), "regex": Regex("^a"), "bytes": b"\0\1", "none": None},
    {"_id": "text", "z": 1, "a": 2, "nan": float("nan"), "empty": {}, "list": [[], {}, [1, [2]]], "ü": "ß"},
]


@pytest.fixture
def other(database: Database, settings: AqvoltSettings) -> Iterator[AqvoltSettings]:
    """Settings of a database that is empty."""
    name = f"{settings.database}_other"
    yield settings.model_copy(update={"database": name})
    database.mongo.client.drop_database(name)


def uri_of(settings: AqvoltSettings) -> str:
    return settings.database_uri().replace("/?", f"/{settings.database}?")


def filled(database: Database, settings: AqvoltSettings) -> None:
    submit([trivial_jobs.add_item(n) for n in range(3)], settings)
    work(settings, until_empty=True, max_launches=2)
    database.mongo["odd"].insert_many(ODD)


def documents(settings: AqvoltSettings) -> dict[str, list[bytes]]:
    """Every document, read and encoded by pymongo's own codec."""
    with MongoClient(settings.database_uri()) as client:
        mongo = client[settings.database]
        return {n: sorted(bson.encode(d) for d in mongo[n].find()) for n in sorted(mongo.list_collection_names())}


def test_a_copy_is_the_same_and_work_goes_on_there(
    database: Database, settings: AqvoltSettings, other: AqvoltSettings
) -> None:
    filled(database, settings)
    done = {c.collection: c.documents for c in copy_to(settings, uri_of(other))}
    assert documents(other) == documents(settings)
    assert done["odd"] == 3
    assert done["fireworks"] == done["workflows"] == 3
    there = get_launchpad(other)
    with pytest.raises(DuplicateKeyError):  # the index that keeps a unit from being submitted twice came along
        there.workflows.insert_one({"metadata": {"aqvolt": {"key": "key-1"}}, "nodes": [99]})
    assert submit([trivial_jobs.add_item(n) for n in range(3)], other).submitted == 0
    assert work(other, until_empty=True).completed == 1
    back = settings.model_copy(update={"database": f"{settings.database}_back"})
    try:
        copy_to(settings, uri_of(back), source_uri=uri_of(other))
        assert documents(back) == documents(other)
    finally:
        database.mongo.client.drop_database(back.database)


def test_an_interrupted_copy_continues_and_a_wrong_target_is_noticed(
    database: Database, settings: AqvoltSettings, other: AqvoltSettings
) -> None:
    database.mongo["odd"].insert_many(ODD)
    there = database.mongo.client[other.database]
    there["odd"].insert_one(ODD[1])
    copy_to(settings, uri_of(other))
    assert documents(other) == documents(settings)
    there["odd"].update_one({"_id": "text"}, {"$set": {"z": 2}})
    with pytest.raises(InputError, match=r"copy of odd has 3 documents with hash .*, the source 3 with"):
        copy_to(settings, uri_of(other))
    there["odd"].update_one({"_id": "text"}, {"$set": {"z": 1}})
    there["odd"].insert_one({"_id": "more"})
    with pytest.raises(InputError, match="4 documents"):
        copy_to(settings, uri_of(other))
    with pytest.raises(InputError, match="same database"):
        copy_to(settings, uri_of(settings))
    database.mongo["fireworks"].insert_one({"fw_id": 1, "state": "RUNNING"})
    with pytest.raises(InputError, match="1 Fireworks run; stop all workers"):
        copy_to(settings, uri_of(other))


def test_backup_and_restore(
    database: Database, settings: AqvoltSettings, other: AqvoltSettings, tmp_path: Path
) -> None:
    filled(database, settings)
    folder = tmp_path / "backup"
    made = backup(settings, folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(InputError, match="not empty"):
        backup(settings, folder)
    half = database.mongo.client[other.database]
    half["odd"].insert_one(ODD[0])  # a restore that was killed
    assert restore(other, folder) == made
    assert documents(other) == documents(settings)
    half["odd"].insert_one({"_id": "mine"})
    with pytest.raises(InputError, match=r"holds documents that the backup has not, in odd; restore into an empty one"):
        restore(other, folder)


def test_a_damaged_backup_writes_nothing(
    database: Database, settings: AqvoltSettings, other: AqvoltSettings, tmp_path: Path
) -> None:
    database.mongo["odd"].insert_many(ODD)
    folder = tmp_path / "backup"
    backup(settings, folder)
    path = folder / "odd.bson"
    whole = path.read_bytes()
    for bad in (whole[:-3], whole[: len(whole) // 2], whole.replace(b"\xc3\x9f", b"\xc3\x9e"), b""):
        path.write_bytes(bad)
        with pytest.raises(InputError, match="damaged"):
            restore(other, folder)
    path.unlink()
    with pytest.raises(InputError, match="damaged"):
        restore(other, folder)
    assert documents(other) == {}
    manifest = folder / "manifest.json"
    for text in ("", "[]", "{}", json.dumps({"format": "x"}), manifest.read_text().replace('"odd"', '"../odd"')):
        manifest.write_text(text)
        with pytest.raises(InputError, match="no finished backup"):
            restore(other, folder)


def test_commands_say_what_is_wrong(
    database: Database, settings: AqvoltSettings, other: AqvoltSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = command_of(database_commands)
    database.mongo["odd"].insert_many(ODD)
    monkeypatch.setenv("AQVOLT_COPY_TO", uri_of(other))
    assert "both sides agree" in run("db", "copy", "--to", "-")
    assert {"odd"} <= {row["collection"] for row in json.loads(run("db", "backup", tmp_path / "b", "--json"))}
    monkeypatch.delenv("AQVOLT_COPY_TO")
    with pytest.raises(ConfigError, match="AQVOLT_COPY_TO is not set"):
        run("db", "copy", "--to", "-")
    with pytest.raises(DatabaseError, match="does not start with mongodb"):
        run("db", "copy", "--to", "postgres://user:secret@host/x")
    monkeypatch.setenv("AQVOLT_TIMEOUT_S", "0.5")
    with pytest.raises(DatabaseError) as refused:
        run("db", "copy", "--to", "mongodb://user:secret@127.0.0.1:9/x")
    assert "No database answers at" in str(refused.value)
    assert "secret" not in str(refused.value)


@given(st.lists(st.binary(max_size=8), max_size=6), st.randoms())
@profile(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_hash_knows_documents_and_numbers_but_no_order(found: list[bytes], draw: object) -> None:
    mixed = list(found)
    draw.shuffle(mixed)  # type: ignore[attr-defined]
    assert _sum(found).hex() == _sum(mixed).hex()
    assert _sum(found).hex() != _sum([*found, b"more"]).hex()
    if found:
        assert _sum(found).hex() != _sum(found[1:]).hex()
