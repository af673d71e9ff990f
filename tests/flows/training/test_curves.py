from __future__ import annotations

from pathlib import Path

import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest

from aqvolt_flows.artifacts import ArtifactStore
from aqvolt_flows.training.curves import METRICS, curve_table, put_curve, summary_of, thinned, write_csv
from aqvolt_flows.training.records import Recorder


@pytest.fixture
def progress(tmp_path: Path) -> Path:
    """Three steps, one of them left out, two evaluations, two sources."""
    file = tmp_path / "progress.jsonl"
    recorder = Recorder(file)
    recorder.write("launch", 0)
    recorder.write("eval", 0, metrics={"energy_per_atom_mae": 0.02, "forces_mae": 0.3}, sources={})
    recorder.write("start", 0, n_parameters=5, ranks=1)
    losses = {"energy": 1.0, "forces": 2.0, "stress": 3.0}
    recorder.write("train", 1, epoch=1, loss=6.0, losses=losses, learning_rate=1e-3, gradient_norm=4.0, atoms=64)
    recorder.write("skipped", 2, reason="not_finite", gradient_norm=None, frame_ids=["frame-1"])
    recorder.write("train", 3, epoch=1, loss=5.0)
    sources = {"a": {"forces_mae": 0.1}, "b": {"forces_mae": 0.2}}
    metrics = {"energy_per_atom_mae": 0.01, "forces_mae": 0.15, "stress_mae": 0.001, "forces_cosine": 0.9}
    recorder.write("eval", 3, metrics=metrics, sources=sources)
    recorder.write("end", 3)
    return file


def test_the_table_has_every_event_with_units(progress: Path):
    table = curve_table(progress, "conservative")
    rows = table.to_pylist()
    assert [(r["event"], r["step"], r["source"]) for r in rows if r["event"] != "eval"] == [
        ("train", 1, ""),
        ("skipped", 2, ""),
        ("train", 3, ""),
    ]
    assert {r["source"]: r["forces_mae"] for r in rows if r["event"] == "eval" and r["step"] == 3} == {
        "": 0.15,
        "a": 0.1,
        "b": 0.2,
    }
    assert next(r for r in rows if r["event"] == "train" and r["step"] == 1)["loss_stress"] == 3.0
    assert {name: table.schema.field(name).metadata[b"unit"].decode() for name in METRICS} == METRICS
    assert set(table.column("stage").to_pylist()) == {"conservative"}
    assert all(r["time_s"] >= 0 for r in rows)


def test_what_a_document_says_of_a_curve(progress: Path):
    said = summary_of(curve_table(progress))
    assert (said["steps"], said["train_loss_first"], said["train_loss_last"], said["skipped_steps"]) == (3, 6.0, 5.0, 1)
    assert said["metrics_first"] == {"energy_per_atom_mae": 0.02, "forces_mae": 0.3}
    assert said["metrics"] == {"energy_per_atom_mae": 0.01, "forces_mae": 0.15, "stress_mae": 0.001}
    assert said["losses"] == [[1, 6.0], [3, 5.0]]
    assert said["validation"]["b"] == {"forces_mae": [[3, 0.2]]}
    assert said["validation"][""]["forces_mae"] == [[0, 0.3], [3, 0.15]]


def test_a_curve_is_an_artifact_and_a_csv(progress: Path, tmp_path: Path):
    store = ArtifactStore(tmp_path / "artifacts")
    reference = put_curve(store, progress)
    stored = pq.read_table(store.local_path(reference))
    assert stored.equals(curve_table(progress), check_metadata=True)
    write_csv([stored], tmp_path / "curves.csv")
    read = pc.read_csv(str(tmp_path / "curves.csv"))
    assert read.num_rows == stored.num_rows
    assert {"forces_mae (eV/Å)", "energy_per_atom_mae (eV/atom)", "atoms_per_s (1/s)", "loss"} <= set(read.column_names)


def test_no_records_are_an_empty_curve(tmp_path: Path):
    table = curve_table(tmp_path / "nowhere")
    assert table.num_rows == 0
    assert summary_of(table)["metrics"] == {}


def test_thinned_points_keep_the_last():
    points = thinned([[i, i] for i in range(1001)])
    assert len(points) <= 201
    assert points[-1] == [1000, 1000]
    assert thinned([[1, 2]]) == [[1, 2]]
