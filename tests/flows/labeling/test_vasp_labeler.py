"""R2scanStaticMaker end to end on the stand-in VASP, through custodian, pymatgen and atomate2 as with a real one."""

from __future__ import annotations

import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_vasp import physics
from fake_vasp.fixtures import VASP_WARNINGS, StoreFrames, rock_salt
from fake_vasp.potcars import RADII

from aqvolt_flows.chemistry import atomic_energies
from aqvolt_flows.labeling.protocols import label_key
from aqvolt_flows.labeling.vasp import R2scanStaticMaker
from aqvolt_flows.labeling.vasp_labeler import doctor_rows
from aqvolt_flows.schemas.label import LabelOutcome
from aqvolt_flows.schemas.parameters import LabelingParameters
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.vasp.settings import r2scan_protocol

pytestmark = [*VASP_WARNINGS]


def label(frame_id: str, key: str | None = None, **options: object) -> LabelOutcome:
    maker = R2scanStaticMaker(**({"polling_s": 0.05, "max_errors": 2} | options))
    wanted = key or label_key(frame_id, r2scan_protocol(maker.incar_updates))
    return LabelOutcome.model_validate(R2scanStaticMaker.make.original(maker, frame_id, wanted))


def test_the_outcome_is_in_the_frames_order_with_the_potentials_numbers(store_frames: StoreFrames, stand_in, database):
    """Expected numbers: the pair potential called directly on the frame's own, interleaved atoms."""
    frame = rock_salt(5.0, rattle=0.08, cubic=True)
    (frame_id,) = store_frames([frame])
    outcome = label(frame_id)
    assert outcome.failure is None
    assert outcome.status == "converged"
    atoms = frame.to_atoms()
    symbols = atoms.get_chemical_symbols()
    energy, forces, stress = physics.evaluate(
        atoms.cell.array,
        atoms.get_scaled_positions(),
        symbols,
        [RADII[s] for s in symbols],
        [-atomic_energies()[s] for s in symbols],
    )
    assert outcome.atomic_numbers == [3, 17] * 4
    assert outcome.energy == pytest.approx(energy, abs=1e-5)
    assert np.allclose(outcome.forces, forces, atol=1e-4)
    assert np.abs(forces).max() > 0.1
    assert np.allclose(outcome.stress, [stress[i] for i in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))], atol=1e-6)
    assert outcome.bandgap == pytest.approx(5.0)
    assert sorted(outcome.protocol.potcar_hashes) == ["Cl", "Li"]
    assert outcome.protocol.version == "6.4.1-stand-in", "no label of the stand-in passes for VASP's"
    assert outcome.protocol.protocol_id == r2scan_protocol().protocol_id
    assert outcome.cost_core_hours > 0


def test_raw_files_are_kept_without_potcar_and_densities(store_frames: StoreFrames, stand_in, database):
    (frame_id,) = store_frames([rock_salt()])
    outcome = label(frame_id)
    with tarfile.open(database.artifacts.local_path(ArtifactRef.model_validate(outcome.raw))) as tar:
        names = tar.getnames()
        incar = tar.extractfile("INCAR").read().decode()
        spec = tar.extractfile("POTCAR.spec").read().decode()
    assert spec.split() == ["Li_sv", "Cl"], "pymatgen's form, in POSCAR's order"
    assert {"INCAR", "POSCAR", "OUTCAR", "OSZICAR", "CONTCAR", "vasprun.xml", "custodian.json"} <= set(names)
    kept = {n for n in names if n.startswith(("POTCAR", "CHG", "AECCAR", "WAVECAR"))}
    assert kept == {"POTCAR.spec"}, "the licensed POTCAR itself is never kept"
    assert "METAGGA = R2scan" in incar.replace("R2SCAN", "R2scan")
    assert "\nGGA" not in f"\n{incar}", "no PBE step before, and none mixed in (AQVolt26, section 2.2)"
    assert len(list(Path.cwd().glob("vasp-*"))) == 1, "one run"


@pytest.mark.parametrize(
    ("mode", "status", "reason"),
    [
        ("scf", "unconverged", "electronic"),
        ("killed", "killed", "interrupted"),
        ("wall_time", "killed", "wall_time"),
        ("out_of_memory", "killed", "out_of_memory"),
        ("no_space", "killed", "no_space_left"),
        ("truncated", "bad_output", "truncated_vasprun"),
        ("zbrent", "failed", "vasp_error"),
    ],
)
def test_each_way_to_fail_has_its_status_and_reason(store_frames: StoreFrames, stand_in, mode, status, reason):
    stand_in({"mode": mode})
    (frame_id,) = store_frames([rock_salt()])
    outcome = label(frame_id)
    assert (outcome.status, outcome.failure.reason) == (status, reason)
    assert outcome.energy is None
    assert outcome.forces is None
    assert outcome.atomic_numbers == [3, 17]
    assert outcome.raw is not None
    assert outcome.cost_core_hours > 0


def test_custodian_tries_again_and_says_so(store_frames: StoreFrames, stand_in):
    stand_in({"mode": "scf", "attempts": 1})
    (frame_id,) = store_frames([rock_salt()])
    outcome = label(frame_id)
    assert outcome.failure is None
    assert outcome.status == "converged"
    assert outcome.details["corrections"]


def test_a_rerun_gives_the_same_outcome(store_frames: StoreFrames, stand_in):
    (frame_id,) = store_frames([rock_salt()])
    plain = {"cost_core_hours", "details", "raw"}
    assert label(frame_id).model_dump(exclude=plain) == label(frame_id).model_dump(exclude=plain)


def test_a_missing_potcar_is_named_before_vasp_starts(store_frames: StoreFrames, stand_in, tmp_path):
    (tmp_path / "potcars" / "POT_PAW_PBE_64" / "POTCAR.Li_sv").unlink()
    (frame_id,) = store_frames([rock_salt()])
    outcome = label(frame_id)
    assert (outcome.status, outcome.failure.reason) == ("failed", "missing_potcar")
    assert "Li (Li_sv)" in outcome.failure.message


def test_without_vasp_cmd_the_outcome_says_what_to_set(store_frames: StoreFrames, stand_in, monkeypatch):
    monkeypatch.delenv("VASP_CMD")
    (frame_id,) = store_frames([rock_salt()])
    outcome = label(frame_id)
    assert (outcome.status, outcome.failure.reason) == ("failed", "missing_vasp")
    assert "VASP_CMD is not set" in outcome.failure.message


def test_incar_updates_make_another_protocol(store_frames: StoreFrames, stand_in):
    (frame_id,) = store_frames([rock_salt()])
    outcome = label(frame_id, incar_updates={"ENAUG": 1360})
    assert outcome.status == "converged"
    assert outcome.protocol.protocol_id != r2scan_protocol().protocol_id


def test_a_machines_own_incar_updates_cannot_change_the_theory_level(store_frames: StoreFrames, stand_in, monkeypatch):
    from atomate2 import SETTINGS

    (frame_id,) = store_frames([rock_salt()])
    monkeypatch.setattr(SETTINGS, "VASP_INCAR_UPDATES", {"NCORE": 4})
    assert label(frame_id).status == "converged"
    monkeypatch.setattr(SETTINGS, "VASP_INCAR_UPDATES", {"ENCUT": 300})
    outcome = label(frame_id)
    assert outcome.status == "failed"
    assert "ENCUT" in outcome.failure.message


def test_an_accident_is_started_again_in_a_fresh_folder_and_its_cost_counted(store_frames: StoreFrames, stand_in):
    stand_in({"mode": "killed", "attempts": 1, "across": True})
    (frame_id,) = store_frames([rock_salt()])
    outcome = label(frame_id)
    assert outcome.status == "converged"
    (earlier,) = outcome.details["earlier_attempts"]
    assert (earlier["status"], earlier["reason"]) == ("killed", "interrupted")
    assert outcome.details["wall_s"] > earlier["wall_s"] > 0
    assert outcome.cost_core_hours == pytest.approx(outcome.details["wall_s"] / 3600, rel=0.01)


def test_a_restart_that_cannot_begin_does_not_hide_the_first_end(store_frames: StoreFrames, stand_in, monkeypatch):
    from atomate2.vasp.jobs import base

    stand_in({"mode": "signal"})
    (frame_id,) = store_frames([rock_salt()])
    writes, real = [], base.write_vasp_input_set

    def once(*given: object, **options: object) -> None:
        writes.append(1)
        if len(writes) > 1:
            raise OSError(28, "No space left on device")
        real(*given, **options)

    monkeypatch.setattr(base, "write_vasp_input_set", once)
    outcome = label(frame_id)
    assert len(writes) == 2
    assert (outcome.status, outcome.failure.reason) == ("killed", "signal")
    assert outcome.cost_core_hours > 0


def test_restarts_are_bounded(store_frames: StoreFrames, stand_in):
    stand_in({"mode": "signal"})
    (frame_id,) = store_frames([rock_salt()])
    outcome = label(frame_id, max_restarts=2)
    assert (outcome.status, outcome.failure.reason) == ("killed", "signal")
    assert outcome.failure.message.startswith("forrtl: severe (174)")
    assert len(outcome.details["earlier_attempts"]) == 2
    assert "earlier_attempts" not in label(frame_id, max_restarts=0).details


def test_what_atomate2_says_of_the_run_is_kept_small(store_frames: StoreFrames, stand_in):
    (frame_id,) = store_frames([rock_salt(5.13, cubic=True)])
    task = label(frame_id).details["task"]
    assert (task["run_type"].upper(), task["state"], task["n_sites"]) == ("R2SCAN", "successful", 8)
    assert task["kpoints"] == [6, 6, 6], "2π / 5.13 Å / 0.22 Å⁻¹ = 5.6, VASP rounds up"
    assert "structure" not in task


def test_a_label_outlives_its_raw_files(store_frames: StoreFrames, stand_in, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (frame_id,) = store_frames([rock_salt()])
    monkeypatch.setattr("aqvolt_flows.artifacts.ArtifactStore.put_bytes", full)
    outcome = label(frame_id)
    assert outcome.status == "converged"
    assert outcome.raw is None
    assert "No space left" in outcome.details["raw_lost"]


def test_a_full_disk_before_vasp_starts_is_no_space(store_frames: StoreFrames, stand_in, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    (frame_id,) = store_frames([rock_salt()])
    monkeypatch.setattr("atomate2.vasp.jobs.base.write_vasp_input_set", full)
    outcome = label(frame_id)
    assert (outcome.status, outcome.failure.reason) == ("killed", "no_space_left")


def test_another_potcar_than_the_campaign_fixed_is_refused_before_vasp_starts(store_frames: StoreFrames, stand_in):
    (frame_id,) = store_frames([rock_salt()])
    used = label(frame_id).protocol.potcar_hashes
    assert label(frame_id, potcar_hashes=used).status == "converged"
    outcome = label(frame_id, potcar_hashes=used | {"Cl": "0" * 64})
    assert (outcome.status, outcome.failure.reason) == ("failed", "wrong_potcar")
    assert "expected 000000000000…" in outcome.failure.message
    assert outcome.raw is None


def test_a_pymatgen_that_would_write_another_level_stops_the_job(store_frames: StoreFrames, stand_in, monkeypatch):
    from pymatgen.io.vasp.sets import MatPESStaticSet

    config = {**MatPESStaticSet.CONFIG, "INCAR": {**MatPESStaticSet.CONFIG["INCAR"], "ENCUT": 520}}
    monkeypatch.setattr(MatPESStaticSet, "CONFIG", config)
    (frame_id,) = store_frames([rock_salt()])
    outcome = label(frame_id)
    assert (outcome.status, outcome.failure.reason) == ("failed", "protocol_drift")
    assert "ENCUT: 680.0 is now 520.0" in outcome.failure.message


def test_atoms_on_each_other_never_reach_vasp(store_frames: StoreFrames, stand_in):
    frame = rock_salt()
    frame = replace(frame, positions=np.zeros((2, 3), np.float32))
    (frame_id,) = store_frames([frame])
    outcome = label(frame_id)
    assert (outcome.status, outcome.failure.reason) == ("failed", "bad_structure")
    assert outcome.cost_core_hours == 0


def test_vasps_own_refusal_is_quoted(store_frames: StoreFrames, stand_in):
    (frame_id,) = store_frames([rock_salt()])
    outcome = label(frame_id, incar_updates={"PREC": "Xtreme"})
    assert (outcome.status, outcome.failure.reason) == ("failed", "vasp_error")
    assert "Error reading item 'PREC'" in outcome.failure.message


def test_a_command_that_is_not_vasp_is_named_with_what_it_said(store_frames: StoreFrames, stand_in, monkeypatch):
    monkeypatch.setenv("VASP_CMD", f"{sys.executable} nowhere/vasp_std.py")
    (frame_id,) = store_frames([rock_salt()])
    outcome = label(frame_id)
    assert (outcome.status, outcome.failure.reason) == ("failed", "vasp_not_started")
    assert "nowhere/vasp_std.py" in outcome.failure.message
    assert "earlier_attempts" not in outcome.details


def test_a_run_that_custodian_stops_for_its_time_is_no_label(store_frames: StoreFrames, stand_in, monkeypatch):
    """The stopped SCF has fewer steps than NELM, as a converged one has; only what VASP says tells them apart.

    The second run of a worker has its whole time again: custodian counts from a worker's first run.
    """
    first, second = store_frames([rock_salt(), replace(rock_salt(5.0), step=1)])
    monkeypatch.setenv("FAKE_VASP_SECONDS", "6")
    outcome = label(first, wall_time_s=2)
    assert (outcome.status, outcome.failure.reason) == ("killed", "wall_time")
    assert "hard stop encountered" in outcome.failure.message
    assert outcome.details["wall_s"] < 5
    monkeypatch.setenv("FAKE_VASP_SECONDS", "0")
    assert label(second, wall_time_s=2).status == "converged"


def test_the_doctor_names_the_version_that_knows_r2scan_and_an_older_one_that_ran(database):
    """VASP wiki, METAGGA: R2SCAN as of 6.2.0. VASP tells its version only in the files of a run."""

    def row():
        rows = list(doctor_rows(LabelingParameters(), [], database, "fail"))
        return next(check for check in rows if check.check == "VASP: version")

    assert (row().status, row().detail) == ("ok", "r2SCAN needs VASP 6.2.0 or later; each run is checked")
    output = {"protocol": {"code": "vasp", "version": "5.4.4"}, "failure": {"reason": "old_vasp"}}
    database["outputs"].insert_one({"uuid": "u", "output": output, "metadata": {"aqvolt": {"stage": "label"}}})
    assert row().status == "fail"
    assert "a run had 5.4.4" in row().detail
