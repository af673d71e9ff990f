"""Stores: identity, size, indexes and addresses that stay out of documents."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
from monty.json import MontyDecoder, MontyEncoder
from pymongo.errors import DuplicateKeyError

from aqvolt_flows.artifacts import ArtifactStore
from aqvolt_flows.errors import DatabaseError, InputError, ResourceError
from aqvolt_flows.schemas.candidate import CandidateDocument
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.stores import IDENTITIES, INDEXES, Database, collection_store, job_store, normalise_uri, redact


def candidate(identity: str = "x", **changes) -> CandidateDocument:
    values = {
        "candidate_id": f"candidate-{identity}",
        "key": f"key-{identity}",
        "name": identity,
        "source": "user",
        "status": "accepted",
        "formula": "LiCl",
        "chemsys": "Cl-Li",
        "elements": ["Cl", "Li"],
        "n_atoms": 2,
        "structure": {},
    }
    return CandidateDocument(**(values | changes))


def test_writing_the_same_again_changes_nothing_not_even_the_date(database):
    assert database.upsert("candidates", [candidate("a"), candidate("b")]) == 2
    before = list(database["candidates"].find())
    assert database.upsert("candidates", [candidate("a"), candidate("b")]) == 0
    assert list(database["candidates"].find()) == before
    assert database.upsert("candidates", [candidate("a", name="other")]) == 0
    after = database["candidates"].find_one({"candidate_id": "candidate-a"})
    assert after["name"] == "other"
    assert after["last_updated"] >= before[0]["last_updated"]


def test_identity_and_key_are_unique_in_the_database_itself(database):
    database.upsert("candidates", [candidate("a")])
    for field in ("candidate_id", "key"):
        with pytest.raises(DuplicateKeyError):
            database["candidates"].insert_one(
                {"candidate_id": "n", "key": "n", field: f"{'candidate' if field != 'key' else 'key'}-a"}
            )


def test_every_collection_is_indexed_on_what_is_queried(database):
    for name, fields in INDEXES.items():
        indexed = {key[0][0] for key in (i["key"] for i in database.mongo[name].index_information().values())}
        assert set(fields) <= indexed, name
        assert name == "outputs" or IDENTITIES[name] in indexed


def test_a_document_near_the_limit_is_refused_by_name(database):
    with pytest.raises(InputError, match=r"candidates candidate-a would be 1[67]\.\d MiB"):
        database.upsert("candidates", [candidate("a", structure={"x": "y" * (17 * 2**20)})])
    assert database["candidates"].count_documents({}) == 0


def test_documents_come_in_the_order_asked_for(database):
    database.upsert("candidates", [candidate("a"), candidate("b")])
    ids = ["candidate-b", "candidate-a"]
    assert [d["candidate_id"] for d in database.find_by_ids("candidates", ids)] == ids
    with pytest.raises(InputError, match="1 of 2 are not in candidates, first candidate-z"):
        database.find_by_ids("candidates", ["candidate-a", "candidate-z"])
    with pytest.raises(InputError, match="no collection 'things'"):
        database["things"]


def test_stores_travel_without_an_address_and_arrive_at_the_settings_database(database):
    text = json.dumps([collection_store("candidates").as_dict(), job_store().as_dict()], cls=MontyEncoder)
    assert "mongodb://" not in text
    store, jobs = MontyDecoder().decode(text)
    database.upsert("candidates", [candidate("a")])
    with store, jobs:
        assert store.query_one()["candidate_id"] == "candidate-a"
        jobs.update({"uuid": "u", "index": 1, "output": 3}, key=["uuid", "index"])
    assert database["outputs"].find_one({"uuid": "u"})["output"] == 3


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("mongodb://127.0.0.1:2/x", "mongodb://127.0.0.1:2/x?directConnection=true"),
        ("mongodb://localhost:2/?appname=b", "mongodb://localhost:2/?appname=b&directConnection=true"),
        ("mongodb://h1:1,h2:2/x?replicaSet=r", "mongodb://h1:1,h2:2/x?replicaSet=r"),
    ],
)
def test_loopback_uris_connect_directly(uri, expected):
    assert normalise_uri(uri) == expected


def test_bad_uris_and_passwords():
    for uri in ("localhost:1", "http://x", "mongodb://h:notaport/"):
        with pytest.raises(DatabaseError, match="URI"):
            normalise_uri(uri)
    assert redact("mongodb://host:1/x") == "mongodb://host:1/x"
    for uri in (
        "mongodb://user:secret@host:1/x",
        "user:secret@host:1",
        "secret@host:1",
        "mongodb://user:sec:secret@host:1",
        "mongodb://user:a/secret@host:1",
        "mongodb://user:secret@@host:1",
        "mongodb://host:1/?tls=true&tlsCertificateKeyFilePassword=secret",
    ):
        assert "secret" not in redact(uri)
        with contextlib.suppress(DatabaseError):
            normalise_uri(uri)
            continue
        with pytest.raises(DatabaseError) as error:
            normalise_uri(uri)
        assert "secret" not in str(error.value)


def test_a_dead_server_is_a_sentence(settings):
    dead = settings.model_copy(update={"mongo_uri": "mongodb://user:secret@127.0.0.1:9/x", "timeout_s": 0.3})
    with pytest.raises(
        DatabaseError, match=r"No MongoDB answers at mongodb://user:…@127\.0\.0\.1:9/x within 0\.3 s"
    ) as error:
        Database.connect(dead)
    assert "secret" not in str(error.value)


def test_artifacts_are_addressed_by_content(tmp_path):
    store = ArtifactStore(tmp_path / "store")
    data = np.random.default_rng(0).bytes(10_000)
    reference = store.put_bytes(data, "bin")
    assert store.put_bytes(data, "bin") == reference
    assert store.local_path(reference).read_bytes() == data
    assert [p.name for p in (tmp_path / "store").rglob("*") if p.is_file()] == [f"{reference.sha256}.bin"]
    store.verify(reference)
    assert store.copy_out(reference, tmp_path / "out" / "copy").read_bytes() == data
    store.local_path(reference).write_bytes(b"x" + data[1:])
    with pytest.raises(InputError, match="was changed"):
        store.verify(reference)


def test_a_half_written_artifact_is_written_again_and_a_missing_one_named(tmp_path):
    store = ArtifactStore(tmp_path)
    reference = store.put_bytes(b"whole", "bin")
    store.local_path(reference).write_bytes(b"who")  # a copy by other means, cut short
    assert not store.exists(reference)
    store.put_bytes(b"whole", "bin")
    assert store.local_path(reference).read_bytes() == b"whole"
    with pytest.raises(ResourceError, match="is not in the store"):
        store.local_path(ArtifactRef(sha256="0" * 64, format="bin", bytes=1))


def test_a_remote_store_is_fetched_once(tmp_path):
    store = ArtifactStore("memory://artifacts", cache=tmp_path / "cache")
    reference = store.put_bytes(b"far away", "bin")
    path = store.local_path(reference)
    assert path.read_bytes() == b"far away"
    assert path.is_relative_to(tmp_path / "cache")


def test_a_store_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResourceError, match="cannot be written"):
        ArtifactStore(tmp_path / "file").put_bytes(b"x", "bin")
