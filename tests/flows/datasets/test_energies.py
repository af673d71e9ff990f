"""Energy jumps: the fitted shift is one known by construction, whatever a minority of frames says."""

from __future__ import annotations

import label_factory
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aqvolt_flows.datasets.energies import MIN_SUPPORT, EnergyShift, fit_shift, jump_fault
from aqvolt_flows.datasets.labels import label_from_outcome


def world(shifts, n, seed, noise=0.02):
    """Differences (eV/atom) of random compositions that follow known shifts of elements, with noise."""
    rng = np.random.default_rng(seed)
    elements = sorted(shifts)
    compositions, differences = [], []
    for _ in range(n):
        chosen = rng.choice(elements, size=min(3, len(elements)), replace=False)
        amounts = {str(e): float(k) for e, k in zip(chosen, rng.integers(1, 6, 3), strict=False)}
        total = sum(amounts.values())
        compositions.append(amounts)
        differences.append(sum(shifts[e] * k for e, k in amounts.items()) / total + rng.normal(scale=noise))
    return np.array(differences), compositions


@given(
    st.dictionaries(st.sampled_from(["Li", "Cl", "Y", "F", "In", "Br"]), st.floats(-30, 30), min_size=3, max_size=6),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=25, deadline=None)
def test_shifts_come_back_although_a_fifth_of_the_frames_is_wrong(shifts, seed):
    differences, compositions = world(shifts, 120, seed)
    rng = np.random.default_rng(seed)
    wrong = rng.random(120) < 0.2
    differences[wrong] += rng.choice([-1, 1], wrong.sum()) * rng.uniform(2, 50, wrong.sum())
    found = fit_shift(differences, compositions)
    assert set(found.elements) <= set(shifts)
    for composition in compositions[:20]:
        symbols = [e for e, k in composition.items() for _ in range(int(k))]
        expected = sum(shifts[s] for s in symbols) / len(symbols)
        assert found.of(symbols) / len(symbols) == pytest.approx(expected, abs=0.25)


def test_one_composition_alone_is_its_own_reference():
    found = fit_shift([5.0, 5.1, 4.9, 5.0, 5.0, 9.0], [{"Li": 1, "Cl": 1}] * 6)
    assert found.of(["Li", "Cl"]) / 2 == pytest.approx(5.0, abs=0.1)


def test_too_few_frames_of_an_element_say_nothing():
    found = fit_shift([1.0] * (MIN_SUPPORT - 1), [{"Li": 1}] * (MIN_SUPPORT - 1))
    assert found.of(["Li"]) is None
    assert found.of(["Y"]) is None
    assert fit_shift([float("nan")], [{"Li": 1}]) == EnergyShift()


def test_the_limit_grows_with_the_forces():
    assert jump_fault(1.05, 0.0, 1.0, "x").reason == "energy_jump"
    assert jump_fault(1.05, 10.0, 1.0, "x") is None  # 1 + 0.01 Å × 10 eV/Å
    assert jump_fault(-50.0, 0.0, 0.0, "x") is None


def test_a_label_far_from_what_its_frame_leads_to_expect_is_rejected():
    outcome = label_factory.outcome(1)
    frame = label_factory.frame(1).model_dump() | {"surrogate_energy": outcome.energy - 8 * 2.0}
    good = label_from_outcome(outcome, frame, "uuid", shift=8 * 2.1)
    assert good.status == "valid"
    assert good.surrogate_difference_per_atom == pytest.approx(2.0)
    bad = label_from_outcome(outcome, frame, "uuid", shift=8 * 3.5)
    assert (bad.status, bad.failure.reason) == ("rejected", "energy_jump")
    assert "-1.500 eV/atom" in bad.failure.message
    assert label_from_outcome(outcome, frame, "uuid", shift=8 * 3.5, max_jump_ev_per_atom=0).status == "valid"
