"""The product-limit estimate against lifelines and by hand; intervals that resample structures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aqvolt_flows.benchmarks.survival import kaplan_meier, survival_table
from aqvolt_flows.errors import InputError

TEMPERATURES = [300.0, 500.0, 1000.0, 1500.0, 2100.0]


def test_by_hand_with_one_run_interrupted():
    """Four runs: failed at 500, interrupted at 700, failed at 900, completed at 2100; 3/4, then 3/4 × 1/2."""
    found = kaplan_meier(np.array([500.0, 700.0, 900.0, 2100.0]), np.array([True, False, True, False]))
    assert found.temperatures.tolist() == [500.0, 900.0]
    assert found.share == pytest.approx([0.75, 0.375])
    assert found.at([499.9, 500.0, 899.0, 900.0, 2100.0]) == pytest.approx([1, 0.75, 0.75, 0.375, 0.375])
    area = 200 * 1 + 400 * 0.75 + 1200 * 0.375
    assert found.restricted_mean(300.0, 2100.0) == pytest.approx(300 + area)


def test_without_censoring_the_restricted_mean_is_the_mean_of_what_was_seen():
    ends = np.array([400.0, 400.0, 1300.0, 2100.0])
    found = kaplan_meier(ends, np.array([True, True, True, False]))
    assert found.restricted_mean(300.0, 2100.0) == pytest.approx(ends.mean())


@settings(max_examples=60, deadline=None)
@given(
    runs=st.lists(st.tuples(st.integers(min_value=30, max_value=210), st.booleans()), min_size=1, max_size=40),
)
def test_equals_lifelines(runs):
    lifelines = pytest.importorskip("lifelines")
    ends = np.array([10.0 * t for t, _ in runs])
    failed = np.array([f for _, f in runs])
    reference = lifelines.KaplanMeierFitter().fit(ends, event_observed=failed)
    asked = [300.0, 305.0, 700.0, 1200.0, 2100.0]
    expected = [float(reference.predict(t)) for t in asked]
    assert kaplan_meier(ends, failed).at(asked) == pytest.approx(expected, abs=1e-12)


def test_seeds_of_one_structure_do_not_narrow_the_interval():
    """Ten structures of three equal runs know as much as ten runs: the same interval, whatever the number of seeds."""
    rng = np.random.default_rng(1)
    ends = rng.uniform(300, 2100, 10)
    failed = ends < 1800
    once = survival_table(ends, failed, [str(k) for k in range(10)], TEMPERATURES, (300.0, 2100.0))
    thrice = survival_table(
        np.repeat(ends, 3), np.repeat(failed, 3), np.repeat([str(k) for k in range(10)], 3).tolist(), TEMPERATURES,
        (300.0, 2100.0),
    )  # fmt: skip
    assert thrice.share == pytest.approx(once.share)
    assert thrice.low == pytest.approx(once.low, abs=1e-9)
    assert thrice.high == pytest.approx(once.high, abs=1e-9)
    as_if_independent = survival_table(
        np.repeat(ends, 3), np.repeat(failed, 3), [str(k) for k in range(30)], TEMPERATURES, (300.0, 2100.0)
    )
    assert (as_if_independent.high - as_if_independent.low)[2] < 0.75 * (thrice.high - thrice.low)[2]


def test_interval_covers_a_known_curve():
    """Failure temperatures uniform in 300 … 2100 K: S(1200 K) = 1/2; the interval holds it in most of 60 draws."""
    rng = np.random.default_rng(3)
    covered = 0
    for draw in range(60):
        ends = rng.uniform(300, 2100, 25)
        found = survival_table(ends, ends < 2100, [str(k) for k in range(25)], [1200.0], (300.0, 2100.0), 300, draw)
        covered += bool(found.low[0] <= 0.5 <= found.high[0])
    assert covered >= 51  # 57 are expected of 95 %; 51 or fewer have a probability of 1 in 60 at a coverage of 93 %


def test_no_failure_has_no_mean_and_full_survival():
    found = survival_table(np.full(6, 2100.0), np.zeros(6, bool), list("aabbcc"), TEMPERATURES, (300.0, 2100.0))
    assert found.share.tolist() == [1.0] * 5
    assert (found.mean_failure, found.restricted_mean) == (None, 2100.0)


def test_no_run_and_no_number_are_said():
    with pytest.raises(InputError, match="no run"):
        kaplan_meier(np.array([]), np.array([], dtype=bool))
    with pytest.raises(InputError, match="not a number"):
        kaplan_meier(np.array([np.nan]), np.array([True]))
