from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from fake_vasp.fixtures import rock_salt
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aqvolt_flows.labeling.protocols import surrogate_protocol
from aqvolt_flows.labeling.validate import MAX_DRIFT_EV_PER_A, check_result, computed, drift, structure_fault

FORCES = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
STRESS = np.zeros(6)


def test_a_sound_result_passes():
    assert check_result(-1.0, FORCES, STRESS, 2) is None


@pytest.mark.parametrize(
    ("energy", "forces", "stress", "reason"),
    [
        (-1.0, FORCES[:1], STRESS, "wrong_shape"),
        (-1.0, FORCES, np.zeros((3, 3)), "wrong_shape"),
        (float("nan"), FORCES, STRESS, "not_finite"),
        (-1.0, np.full((2, 3), np.inf), STRESS, "not_finite"),
        (-1.0, FORCES, STRESS + np.nan, "not_finite"),
        (-1.0, FORCES + 0.1, STRESS, "force_drift"),
    ],
)
def test_each_fault_has_its_reason(energy, forces, stress, reason):
    assert check_result(energy, forces, stress, 2).reason == reason


def test_large_forces_may_drift_by_their_rounding():
    forces = np.array([[400.0, 0.0, 0.0], [-399.5, 0.0, 0.0]])
    assert drift(forces) > MAX_DRIFT_EV_PER_A
    assert check_result(-1.0, forces, STRESS, 2) is None


@given(arrays(float, (5, 3), elements=st.floats(-100, 100)), st.floats(-1, 1))
def test_forces_without_their_mean_pass_and_a_shift_is_seen(forces, shift):
    balanced = forces - forces.mean(axis=0)
    assert check_result(0.0, balanced, STRESS, 5) is None
    shifted = balanced + np.array([shift, 0, 0])
    assert drift(shifted) == pytest.approx(abs(shift), abs=1e-9)
    limit = max(0.05, 1e-3 * np.linalg.norm(shifted, axis=1).max())
    assume(abs(drift(shifted) - limit) > 1e-9)
    assert (check_result(0.0, shifted, STRESS, 5) is None) == (abs(shift) < limit)


def test_a_refused_result_carries_no_numbers():
    outcome = computed(
        frame_id="f",
        key="k",
        protocol=surrogate_protocol("chgnet/r2scan"),
        atomic_numbers=[3, 17],
        positions=np.zeros((2, 3)),
        cell=np.eye(3),
        energy=float("inf"),
        forces=FORCES,
        stress=STRESS,
        cost_core_hours=1.0,
        details={"scf_steps": 3},
    )
    assert (outcome.status, outcome.failure.reason) == ("bad_output", "not_finite")
    assert outcome.energy is None
    assert outcome.forces is None
    assert outcome.details["scf_steps"] == 3


def with_cell(factor, rows=(0, 1, 2)):
    frame = rock_salt()
    return replace(frame, cell=(frame.cell[list(rows)] * factor).astype(np.float32))


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (replace(rock_salt(), positions=np.zeros((2, 3), np.float32)), r"Atoms 0 and 1 are 0\.00 Å apart"),
        (rock_salt(0.6), r"are 0\.\d\d Å apart"),
        (with_cell(4.0), r"1080 Å³ per atom, mostly vacuum"),
        (with_cell(1.0, rows=(1, 0, 2)), "left-handed"),
        (with_cell(1.0, rows=(0, 0, 2)), "volume is"),
        (replace(rock_salt(), positions=np.full((2, 3), np.nan, np.float32)), "not finite"),
        (replace(rock_salt(), positions=np.zeros((3, 3), np.float32)), "have shape"),
    ],
)
def test_structures_that_vasp_would_refuse_or_waste_days_on(frame, said):
    """0.6 Å is a rock salt whose ions are nearer than half an H₂ bond; 4 × 5.13 Å has 64 × 16.9 Å³ per atom."""
    fault = structure_fault(frame)
    assert fault.reason == "bad_structure"
    assert re.search(said, fault.message)


def test_the_shortest_bond_and_the_most_dilute_metal_pass():
    """H₂ in a box of 4 Å (0.74 Å, NIST), and bcc caesium (6.14 Å, 116 Å³ per atom)."""
    hydrogen = replace(
        rock_salt(),
        atomic_numbers=np.array([1, 1], np.int16),
        positions=np.array([[0, 0, 0], [0.74, 0, 0]], np.float32),
        cell=4.0 * np.eye(3, dtype=np.float32),
    )
    caesium = replace(hydrogen, atomic_numbers=np.array([55, 55], np.int16), cell=6.14 * np.eye(3, dtype=np.float32))
    caesium = replace(caesium, positions=np.array([[0, 0, 0], [3.07, 3.07, 3.07]], np.float32))
    assert structure_fault(hydrogen) is None
    assert structure_fault(caesium) is None
