"""A real file: VASP 6.4.1, r2SCAN, GaAs (2 atoms, 5.6 Å), run by the Materials Project with MP24 settings."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest

from aqvolt_flows.labeling.vasp import outcome_from_directory
from aqvolt_flows.units import pressure_gpa
from aqvolt_flows.vasp.outputs import read_calculation, read_text
from aqvolt_flows.vasp.settings import frozen_incar, r2scan_protocol

REAL = Path(__file__).with_name("gaas_r2scan_static")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(REAL, tmp_path / "run")
    return tmp_path / "run"


def cut(folder: Path, name: str, fraction: float) -> None:
    """Leave the first part of a file, as a process killed while writing does."""
    text = read_text(folder, name)
    (folder / f"{name}.gz").unlink()
    (folder / name).write_text(text[: int(len(text) * fraction)])


def test_numbers_are_those_that_vasp_prints():
    """OSZICAR: E0 = −27.043980 eV, 12 electronic steps; OUTCAR: 28.87409 kB, 128 ranks, 23.571 s, E-fermi 4.0261."""
    found = read_calculation(REAL)
    assert (found.ending, found.version, found.converged) == ("finished", "6.4.1", True)
    (step,) = found.steps
    assert step.energy == pytest.approx(-27.04397986, abs=1e-8)
    assert step.scf_steps == 12
    assert pressure_gpa(step.stress) == pytest.approx(2.887409, abs=1e-5)
    assert np.allclose(step.stress[3:], 0)
    assert np.abs(step.forces).max() < 1e-6
    assert found.core_hours == pytest.approx(128 * 23.571 / 3600)
    assert found.magmoms == [0.0, 0.0]
    assert found.titles == ["PAW_PBE Ga_d 06Jul2010", "PAW_PBE As 22Sep2009"]


def test_band_gap_is_the_difference_of_the_printed_levels():
    """vasprun.xml at Γ: valence band maximum 3.9533 eV, conduction band minimum 5.1812 eV; both lie at Γ in GaAs."""
    assert read_calculation(REAL).bandgap == pytest.approx(5.1812 - 3.9533, abs=1e-4)


def test_outcome_of_the_real_run():
    outcome = outcome_from_directory(REAL, "frame-x", "key-x", r2scan_protocol())
    assert outcome.status == "converged"
    assert outcome.atomic_numbers == [31, 33]
    assert outcome.energy == pytest.approx(-27.04397986)
    assert np.allclose(np.diff(outcome.positions, axis=0), [[4.2, 4.2, 4.2]])
    assert outcome.protocol.version == "6.4.1"
    assert outcome.cost_core_hours == pytest.approx(0.838, abs=1e-3)


def test_other_theory_level_is_refused_by_name():
    """The real run has MP24's ISMEAR −5 and ENAUG 1360; MatPES has ISMEAR 0 and no ENAUG."""
    outcome = outcome_from_directory(REAL, "frame-x", "key-x", r2scan_protocol(), incar=frozen_incar())
    assert (outcome.status, outcome.failure.reason) == ("failed", "protocol_changed")
    assert "ISMEAR: 0.0 → -5.0" in outcome.failure.message
    assert "ENAUG" in outcome.failure.message
    assert "KSPACING" not in outcome.failure.message


def test_order_gives_the_frames_order_back():
    """VASP's site i is the frame's atom order[i]: with order [1, 0] the frame had As first."""
    outcome = outcome_from_directory(REAL, "frame-x", "key-x", r2scan_protocol(), order=[1, 0])
    assert outcome.atomic_numbers == [33, 31]
    assert outcome.positions[0] == pytest.approx([0.875 * 5.6] * 3)


def test_as_many_steps_as_nelm_is_unconverged(copy: Path):
    text = gzip.decompress((copy / "vasprun.xml.gz").read_bytes()).decode()
    (copy / "vasprun.xml.gz").unlink()
    (copy / "vasprun.xml").write_text(text.replace('name="NELM">   200<', 'name="NELM">    12<'))
    outcome = outcome_from_directory(copy, "frame-x", "key-x", r2scan_protocol())
    assert (outcome.status, outcome.failure.reason) == ("unconverged", "electronic")
    assert outcome.energy is None


@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.3, 0.7, 0.999])
def test_vasprun_cut_anywhere_is_bad_output(copy: Path, fraction: float):
    cut(copy, "vasprun.xml", fraction)
    outcome = outcome_from_directory(copy, "frame-x", "key-x", r2scan_protocol())
    assert (outcome.status, outcome.failure.reason) == ("bad_output", "truncated_vasprun")


@pytest.mark.parametrize("fraction", [0.1, 0.4, 0.6])
def test_outcar_without_its_end_is_killed(copy: Path, fraction: float):
    cut(copy, "OUTCAR", fraction)
    cut(copy, "vasprun.xml", fraction)
    outcome = outcome_from_directory(copy, "frame-x", "key-x", r2scan_protocol())
    assert (outcome.status, outcome.failure.reason) == ("killed", "interrupted")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***", "wall_time"),
        ("slurmstepd: error: Detected 3 oom-kill event(s) in StepId=7.0.", "out_of_memory"),
        ("forrtl: No space left on device", "no_space_left"),
        ("srun: error: n1: task 0: Segmentation fault", "signal"),
    ],
)
def test_what_the_scheduler_says_is_the_reason(copy: Path, said: str, reason: str):
    cut(copy, "OUTCAR", 0.5)
    cut(copy, "vasprun.xml", 0.5)
    (copy / "std_err.txt").write_text(f"{said}\n")
    outcome = outcome_from_directory(copy, "frame-x", "key-x", r2scan_protocol())
    assert (outcome.status, outcome.failure.reason, outcome.failure.message) == ("killed", reason, said)


def test_empty_folder_is_killed_and_says_that_nothing_was_written(tmp_path: Path):
    outcome = outcome_from_directory(tmp_path, "frame-x", "key-x", r2scan_protocol())
    assert outcome.status == "killed"
    assert "wrote no OUTCAR" in outcome.failure.message


def test_cut_gzip_is_read_as_nothing(copy: Path):
    path = copy / "OUTCAR.gz"
    path.write_bytes(path.read_bytes()[:1000])
    assert read_text(copy, "OUTCAR") == ""


@pytest.mark.parametrize(("word", "steps"), [("hard", 0), ("soft", 1)])
def test_a_run_stopped_by_stopcar_is_killed_although_it_ended_in_order(copy: Path, word: str, steps: int):
    """A hard stop leaves its last step in the middle of the SCF, below NELM steps; a soft one leaves it whole."""
    (copy / "vasp.out").write_text(f" {word} stop encountered!  aborting job ...\n")
    (copy / "vasp.out.gz").unlink()
    found = read_calculation(copy)
    assert (found.ending, found.failure.reason, found.converged) == ("killed", "wall_time", False)
    assert len(found.steps) == steps
