"""Builders read and write the stores they are given: in memory without a database, and through ``mrun``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import label_factory
import pytest
from jobflow import JobStore
from maggma.stores import MemoryStore, MongoStore

from aqvolt_builders.benchmarks import BenchmarkBuilder
from aqvolt_builders.costs import CostBuilder
from aqvolt_builders.labels import LabelBuilder
from aqvolt_flows.errors import InputError
from aqvolt_flows.stores import collection_store


def memory(key, documents=()):
    store = MemoryStore(key=key)
    store.connect()
    if documents:
        store.update([dict(d) for d in documents], key=key)
    return store


def chain(n):
    """Stores with ``n`` outcomes and their frames, one of them killed, and the trajectories of the frames."""
    frames = [label_factory.frame(i).model_dump() for i in range(n)]
    outputs = [label_factory.output(label_factory.outcome(i), f"uuid-{i}") for i in range(n - 1)]
    outputs.append(label_factory.output(label_factory.outcome(n - 1, status="killed"), f"uuid-{n - 1}"))
    runs = [{"trajectory_id": f["trajectory_id"], "model": "chgnet/r2scan", "engine": "mlmd"} for f in frames]
    return memory("uuid", outputs), memory("frame_id", frames), memory("trajectory_id", runs)


@pytest.fixture
def no_database(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("aqvolt_flows.stores.Database.connect", lambda *a: pytest.fail("a database was asked for"))


@pytest.mark.usefixtures("no_database")
def test_labels_go_into_the_store_that_was_given_and_twice_is_once():
    outputs, frames, trajectories = chain(6)
    labels = memory("label_id")
    builder = LabelBuilder(outputs=outputs, frames=frames, labels=labels, trajectories=trajectories)
    builder.run()
    assert dict(builder.counts) == {"processed": 6, "valid": 5, "rejected": 1}
    first = {d["label_id"]: d for d in labels.query()}
    assert len(first) == 6
    valid = labels.query_one({"frame_id": "frame-0003"})
    assert valid["energy"] == label_factory.outcome(3).energy
    assert (valid["trajectory_id"], valid["explored_with"]) == ("trajectory-3", "chgnet/r2scan")
    again = LabelBuilder(outputs=outputs, frames=frames, labels=labels, trajectories=trajectories)
    again.run()
    assert again.counts["processed"] == 0
    assert {d["label_id"]: d for d in labels.query()} == first
    nearby = label_factory.outcome(1).energy + 0.1
    outputs.update([label_factory.output(label_factory.outcome(1, energy=nearby), "uuid-1", at="2027-01-01T00:00:00")])
    again.run()
    assert again.counts["processed"] == 1
    assert labels.query_one({"frame_id": "frame-0001"})["energy"] == nearby
    assert labels.count() == 6


@pytest.mark.usefixtures("no_database")
def test_a_jobstore_serves_as_outputs_and_a_query_may_be_empty():
    outputs, frames, trajectories = chain(3)
    plain = [{k: v for k, v in d.items() if k not in ("_id", "metadata")} for d in outputs.query()]
    store = JobStore(memory("uuid", plain))
    labels = memory("label_id")
    builder = LabelBuilder(outputs=store, frames=frames, labels=labels, trajectories=trajectories, query={})
    builder.run()
    assert labels.count({"status": "valid"}) == 2


def test_labels_given_elsewhere_leave_the_project_s_alone(database):
    label_factory.fill(database, 3)
    labels = memory("label_id")
    LabelBuilder(labels=labels).run()
    assert labels.count() == 3
    assert database["labels"].count_documents({}) == 0
    assert database["builds"].count_documents({}) == 0, "what another store has seen says nothing of the project's"


@pytest.mark.usefixtures("no_database")
def test_benchmarks_and_costs_in_memory():
    output = {"something": "else"}
    outputs = memory("uuid", [label_factory.output(output, "uuid-1", stage="benchmark")])
    benchmarks, costs = memory("benchmark_id"), memory("cost_id")
    BenchmarkBuilder(outputs=outputs, benchmarks=benchmarks).run()
    row = benchmarks.query_one()
    assert (row["status"], row["failure"]["reason"]) == ("failed", "bad_output")
    CostBuilder(costs=costs, stages={"benchmark": benchmarks}).run()
    assert costs.query_one({"stage": "benchmark"})["n_failed"] == 1
    with pytest.raises(InputError, match="no stage 'benchmarks' to sum; known are candidates"):
        CostBuilder(costs=costs, stages={"benchmarks": benchmarks})


@pytest.mark.parametrize("processes", [1, 2])
def test_mrun_uses_the_stores_of_its_file(database, mongo_uri, tmp_path, processes):
    label_factory.fill(database, 5)
    other = f"{database.mongo.name}_other"
    at = urlsplit(mongo_uri)
    direct = {"directConnection": True}
    labels = MongoStore(other, "labels", at.hostname, at.port, key="label_id", mongoclient_kwargs=direct)
    builder = LabelBuilder(labels=labels)
    file = tmp_path / "labels.json"
    file.write_text(json.dumps(builder.as_dict(), default=str))
    command = [str(Path(sys.executable).with_name("mrun")), "-n", str(processes), str(file), "--no_bars"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert database.mongo.client[other]["labels"].count_documents({"status": "valid"}) == 5, done.stderr
        assert database["labels"].count_documents({}) == 0
    finally:
        database.mongo.client.drop_database(other)


def test_a_builder_with_stores_goes_through_json():
    builder = LabelBuilder(labels=collection_store("labels"), aimd_stride=3)
    again = LabelBuilder.from_dict(json.loads(json.dumps(builder.as_dict())))
    assert (again.labels.collection_name, again.aimd_stride) == ("labels", 3)
