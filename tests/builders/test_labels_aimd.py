"""AIMD trajectories through the builder: one label an ionic step, thinned, once; what cannot be one says why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import label_factory
import numpy as np
import pytest

from aqvolt_builders.labels import LabelBuilder
from aqvolt_builders.registry import run_builder
from aqvolt_flows.datasets.aimd_labels import aimd_protocol, labels_from_trajectory, thinned
from aqvolt_flows.errors import InputError
from aqvolt_flows.frames import Frame, write_frames
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.schemas.trajectory import TrajectoryDocument


def frames(n=7, steps=None, jump_at=None):
    """Ionic steps of harmonic LiCl from the factory's world, whose numbers are known."""
    made = []
    for index, step in enumerate(steps or range(1, n + 1)):
        o = label_factory.outcome(index, protocol=label_factory.VASP)
        made.append(
            Frame(
                trajectory_id="trajectory-aimd",
                step=step,
                temperature=600.0,
                energy=o.energy + (40.0 if step == jump_at else 0.0),
                atomic_numbers=np.array(o.atomic_numbers, np.int16),
                positions=np.array(o.positions, np.float32),
                cell=np.array(o.cell, np.float32),
                forces=np.array(o.forces, np.float32),
                stress=np.array(o.stress, np.float32),
            )
        )
    return made


def trajectory(**changes):
    values = {
        "key": "aimd-key",
        "trajectory_id": "trajectory-aimd",
        "candidate_id": "candidate-LiCl",
        "formula": "LiCl",
        "chemsys": "Cl-Li",
        "elements": ["Cl", "Li"],
        "n_atoms": 8,
        "engine": "aimd",
        "model": label_factory.VASP.name,
        "model_hash": label_factory.VASP.settings_hash,
        "ensemble": "npt_langevin_parrinello_rahman",
        "temperature_k": 600.0,
        "pressure_gpa": 1e-4,
        "timestep_fs": 2.0,
        "seed": 1,
        "n_steps": 7,
        "steps_done": 7,
        "stride": 1,
        "n_frames": 7,
        "status": "completed",
    }
    return TrajectoryDocument(**(values | changes))


def store(database, made, folder, **changes):
    path = folder / "frames.parquet"
    write_frames(path, made)
    ref = database.artifacts.put_file(path, "parquet")
    database.upsert("trajectories", [trajectory(frames=ref, n_frames=len(made), **changes)])


def test_every_converged_step_is_a_label_once(database, tmp_path):
    store(database, frames(steps=[1, 2, 4, 5, 7]), tmp_path)  # steps 3 and 6 did not converge
    database.upsert("trajectories", [trajectory(trajectory_id="trajectory-ml", key="ml", engine="mlmd")])
    database.upsert("trajectories", [trajectory(trajectory_id="trajectory-now", key="now", status="running")])
    assert run_builder("labels") == {"processed": 5, "valid": 5}
    before = list(database["labels"].find({}).sort("step", 1))
    assert [d["step"] for d in before] == [1, 2, 4, 5, 7]
    expected = label_factory.outcome(2, protocol=label_factory.VASP)
    assert before[2]["energy"] == expected.energy
    np.testing.assert_allclose(before[2]["forces"], expected.forces, atol=1e-6)  # float32 in the artifact
    first = before[0]
    assert (first["source"], first["protocol_name"], first["temperature_k"]) == ("aimd", label_factory.VASP.name, 600.0)
    assert (first["trajectory_id"], first["candidate_id"]) == ("trajectory-aimd", "candidate-LiCl")
    assert first["cohesive_energy_per_atom"] == pytest.approx(-3.0, abs=0.3)  # the factory's -3 plus its springs
    assert run_builder("labels") == {"processed": 0}
    assert run_builder("labels", full=True) == {"processed": 0}
    assert list(database["labels"].find({}).sort("step", 1)) == before


def test_a_run_that_is_dated_before_the_last_build_is_built(database, tmp_path):
    """Written by a machine whose clock is behind, or late: its date says nothing."""
    label_factory.fill(database, 2)
    run_builder("labels")
    store(database, frames(3), tmp_path)
    early = datetime(2020, 1, 1, tzinfo=UTC)
    database["trajectories"].update_one({"engine": "aimd"}, {"$set": {"last_updated": early}})
    assert run_builder("labels") == {"processed": 3, "valid": 3}
    assert run_builder("labels") == {"processed": 0}
    database["trajectories"].update_one({"engine": "aimd"}, {"$set": {"last_updated": early - timedelta(days=2)}})
    assert run_builder("labels")["processed"] == 3, "another state of the run, though older"


def test_a_run_that_went_on_gives_the_new_steps(database, tmp_path):
    store(database, frames(3), tmp_path, status="failed", failure=Failure(reason="wall_time", message="late"))
    assert run_builder("labels") == {"processed": 3, "valid": 3}
    store(database, frames(6), tmp_path)
    assert run_builder("labels")["processed"] == 6
    assert database["labels"].count_documents({}) == 6
    assert run_builder("labels") == {"processed": 0}


def test_thinning_counts_by_step_number(database, tmp_path):
    assert [f.step for f in thinned(frames(steps=[1, 2, 3, 4, 6, 7, 8, 10]), 3)] == [1, 4, 7, 10]
    store(database, frames(7), tmp_path)
    assert run_builder("labels", aimd_stride=3) == {"processed": 3, "valid": 3}
    assert run_builder("labels", aimd_stride=3) == {"processed": 0}
    assert run_builder("labels", aimd_stride=1)["processed"] == 7
    assert LabelBuilder(aimd_stride=3).as_dict()["aimd_stride"] == 3


def test_what_has_no_step_is_one_rejected_document(database):
    failure = Failure(reason="no_tbdyn", message="VASP ignored MDALGO = 3.")
    database.upsert("trajectories", [trajectory(status="failed", failure=failure, n_frames=0)])
    lost = trajectory(trajectory_id="trajectory-lost", key="lost").model_dump(mode="python")
    lost["frames"] = {"sha256": "0" * 64, "format": "parquet", "bytes": 1}
    database.upsert("trajectories", [TrajectoryDocument(**lost)])
    assert run_builder("labels") == {"processed": 2, "rejected": 2}
    assert sorted(d["failure"]["reason"] for d in database["labels"].find({})) == ["missing_artifact", "no_tbdyn"]
    assert run_builder("labels") == {"processed": 0}


def test_a_jump_out_of_the_run_is_refused():
    document = trajectory().model_dump()
    labels = labels_from_trajectory(document, frames(7, jump_at=4))  # 40 eV in 8 atoms: 5 eV/atom
    assert [label.status for label in labels] == ["valid"] * 3 + ["rejected"] + ["valid"] * 3
    assert labels[3].failure.reason == "energy_jump"
    assert all(label.status == "valid" for label in labels_from_trajectory(document, frames(7, jump_at=4), 1, 0))


def test_a_model_is_no_protocol():
    with pytest.raises(InputError, match=r"7net-mf-0/R2SCAN.*expected a protocol"):
        aimd_protocol(trajectory(model="7net-mf-0/R2SCAN").model_dump())
    assert aimd_protocol(trajectory().model_dump()).protocol_id == label_factory.VASP.protocol_id
    carried = trajectory(model="anything").model_dump() | {"protocol": label_factory.VASP.model_dump()}
    assert aimd_protocol(carried) == label_factory.VASP


def test_a_step_knows_its_share_of_the_cost_and_no_hour_counts_twice():
    made = labels_from_trajectory(trajectory().model_dump() | {"core_hours": 14.0}, frames(7), stride=2)
    assert [label.provenance["core_hours"] for label in made] == [2.0] * 4  # 14 h in 7 steps, every second kept
    assert {label.cost_core_hours for label in made} == {0.0}


def test_steps_before_custodian_left_the_theory_level_are_labels(database, tmp_path):
    """Only parts of the declared level are frames; what came after is told by the run's failure."""
    failure = Failure(reason="protocol_changed", message="custodian left the theory level: ENCUT 680.0 became 520.0.")
    store(database, frames(3), tmp_path, status="failed", failure=failure)
    assert run_builder("labels") == {"processed": 3, "valid": 3}
    gone = trajectory(trajectory_id="trajectory-none", key="none", status="failed", failure=failure, n_frames=0)
    database.upsert("trajectories", [gone])
    assert run_builder("labels") == {"processed": 1, "rejected": 1}


def test_energies_that_hold_pv_are_no_labels(database, tmp_path):
    """10 GPa × 16 Å³/atom = 0.9986 eV/atom (1 eV/Å³ is 160.2177 GPa); a run read since says that it was taken out."""
    pressed = {"pressure_gpa": 10.0, "mean_volume_per_atom": 16.0}
    store(database, frames(4), tmp_path, **pressed)
    assert run_builder("labels") == {"processed": 4, "rejected": 4}
    (reason,) = {(d["failure"]["reason"], d["failure"]["message"]) for d in database["labels"].find({})}
    assert reason[0] == "pressure_in_energy"
    assert "0.9986 eV/atom" in reason[1]
    assert run_builder("labels") == {"processed": 0}
    store(database, frames(4), tmp_path, pressure_removed=True, **pressed)
    assert run_builder("labels") == {"processed": 4, "valid": 4}
    one_atmosphere = trajectory(pressure_gpa=1.01325e-4, mean_volume_per_atom=16.0).model_dump()
    assert all(label.status == "valid" for label in labels_from_trajectory(one_atmosphere, frames(4)))


def test_labels_that_such_a_run_got_earlier_are_refused_by_a_full_build(database, tmp_path, monkeypatch):
    from aqvolt_builders import labels as module
    from aqvolt_flows.datasets import aimd_labels

    pressed = {"pressure_gpa": 10.0, "mean_volume_per_atom": 16.0}
    store(database, frames(4), tmp_path, **pressed)
    with monkeypatch.context() as before:
        for where in (module, aimd_labels):
            before.setattr(where, "pressure_fault", lambda trajectory: None)
        assert run_builder("labels") == {"processed": 4, "valid": 4}
    assert run_builder("labels", full=True) == {"processed": 4, "rejected": 4}
    assert database["labels"].count_documents({"status": "valid"}) == 0
