from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aqvolt_flows.labeling.protocols import surrogate_protocol
from aqvolt_flows.labeling.validate import MAX_DRIFT_EV_PER_A, check_result, computed, drift

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
