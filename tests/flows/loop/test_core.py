"""Doubt, calibration, selection and the rules to stop, on numbers that can be checked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import spearmanr
from sklearn.neighbors import NearestNeighbors

from aqvolt_flows.errors import InputError
from aqvolt_flows.loop.calibration import calibrate
from aqvolt_flows.loop.doubt import FeatureDistance, committee_doubt
from aqvolt_flows.loop.selection import MEANING, Budget, Offered, near_in, select
from aqvolt_flows.loop.stopping import RoundNumbers, decide
from aqvolt_flows.schemas.loop import LoopParameters, StopRules, TrustLevels


class TestDoubt:
    def test_two_members_differ_by_twice_the_deviation(self):
        forces = np.zeros((2, 3, 3))
        forces[0, 1] = [0.3, 0.0, 0.4]  # |ΔF| = 0.5, so each is 0.25 from the mean
        found = committee_doubt(np.array([-10.0, -9.4]), forces)
        np.testing.assert_allclose(found.atoms, [0, 0.25, 0])
        assert found.energy == pytest.approx(0.3 / 3)  # population standard deviation 0.3 eV over 3 atoms
        assert (found.largest, found.mean) == (pytest.approx(0.25), pytest.approx(0.25 / 3))

    def test_it_is_the_root_of_the_summed_component_variances(self):
        forces = np.random.default_rng(1).normal(size=(4, 7, 3))
        expected = np.sqrt(np.var(forces, axis=0).sum(axis=-1))  # DeePMD-kit's formula, by numpy's variance
        np.testing.assert_allclose(committee_doubt(np.zeros(4), forces).atoms, expected)

    @given(st.integers(2, 5), st.integers(1, 6))
    def test_a_shift_common_to_all_members_changes_nothing(self, members, atoms):
        rng = np.random.default_rng(members * 10 + atoms)
        forces, shift = rng.normal(size=(members, atoms, 3)), rng.normal(size=(atoms, 3))
        one, other = (committee_doubt(np.zeros(members), f).atoms for f in (forces, forces + shift))
        np.testing.assert_allclose(one, other, atol=1e-12)

    def test_a_committee_of_one_is_refused(self):
        with pytest.raises(InputError, match="committee of 1 has no spread; give at least two"):
            committee_doubt(np.zeros(1), np.zeros((1, 2, 3)))
        with pytest.raises(InputError, match=r"shape \(2, 3\); expected \(2 members, atoms, 3\)"):
            committee_doubt(np.zeros(2), np.zeros((2, 3)))
        with pytest.raises(ValidationError, match="greater than or equal to 2"):
            LoopParameters(members=1)

    def test_feature_distances_are_those_of_scikit_learn(self):
        rng = np.random.default_rng(2)
        seen, asked = rng.normal(size=(200, 5)) * [1, 10, 0.1, 3, 1], rng.normal(size=(9, 5))
        scale = seen.std(axis=0) * np.sqrt(5)
        expected = NearestNeighbors(n_neighbors=1).fit(seen / scale).kneighbors(asked / scale)[0].ravel()
        found = FeatureDistance(seen).doubts(asked, [4, 5])
        np.testing.assert_allclose(np.concatenate([f.atoms for f in found]), expected)
        assert [len(f.atoms) for f in found] == [4, 5]
        assert math.isnan(found[0].energy)

    def test_what_was_seen_is_at_distance_zero_and_a_constant_column_still_tells_new_from_old(self):
        seen = np.column_stack([np.arange(4.0), np.full(4, 2.0)])
        [old, new] = FeatureDistance(seen).doubts(np.array([[1.0, 2.0], [1.0, 5.0]]), [1, 1])
        assert old.largest == 0.0
        assert new.largest == pytest.approx(3.0 / np.sqrt(2))

    @pytest.mark.parametrize(
        ("seen", "said"),
        [(np.empty((0, 3)), "expected \\(atoms, features\\)"), (np.array([[1.0], [np.nan]]), "first in row 1")],
    )
    def test_a_training_set_that_is_none(self, seen, said):
        with pytest.raises(InputError, match=said):
            FeatureDistance(seen)


class TestCalibration:
    def test_the_scale_is_found_again(self):
        """Errors drawn as |N(0, 2σ)| have Σ e²/Σ σ² = 4: scale 2, and 95 % intervals hold it."""
        rng = np.random.default_rng(3)
        doubts = [rng.uniform(0.01, 0.5, size=20) for _ in range(200)]
        errors = [np.abs(rng.normal(scale=2 * d)) for d in doubts]
        found = calibrate(doubts, errors)
        assert found.scale == pytest.approx(2.0, rel=0.05)
        assert found.interval is not None
        assert found.interval[0] < 2.0 < found.interval[1]
        d, e = np.concatenate(doubts), np.concatenate(errors)
        assert found.rank_correlation == pytest.approx(spearmanr(d, e).statistic)
        assert len(found.curve) == 10
        for doubt, error, count in found.curve:
            assert count == 400
            assert error == pytest.approx(2 * doubt, rel=0.2)

    def test_intervals_cover_about_as_often_as_they_say(self):
        rng = np.random.default_rng(4)
        hits = 0
        for trial in range(60):
            doubts = [rng.uniform(0.1, 0.3, size=6) for _ in range(60)]
            errors = [np.abs(rng.normal(scale=1.5 * d)) for d in doubts]
            low, high = calibrate(doubts, errors, draws=300, seed=trial).interval
            hits += low < 1.5 < high
        assert hits >= 50  # of 60 at 95 %: the chance of fewer is 0.1 % (binomial)

    @pytest.mark.parametrize("doubt", [0.0, np.nan])
    def test_nothing_known_is_said(self, doubt):
        found = calibrate([np.full(20, doubt)], [np.ones(20)])
        assert not found.calibrated
        assert found.as_dict()["scale"] is None
        assert not calibrate([], []).calibrated
        assert not calibrate([np.ones(3)], [np.ones(3)]).calibrated, "three atoms say nothing"

    def test_pairs_that_are_none(self):
        with pytest.raises(InputError, match="different frames or atoms"):
            calibrate([np.ones(3)], [np.ones(4)])


def offered(name, doubt=0.0, environments=0, core_hours=math.nan, n_atoms=10, row=0, labeled=False):
    return Offered(name, row, row * 5, doubt, environments, core_hours, n_atoms, labeled)


def verdicts(items, budget=None, **options):
    found = select(items, 0.05, 0.15, budget or Budget(100), **options)
    return {j.offered.trajectory_id: j.verdict for j in found}


class TestSelection:
    FRAMES = (
        offered("known", 0.01),
        offered("doubtful", 0.1),
        offered("lost", 0.5),
        offered("new", 0.01, environments=2),
        offered("new and lost", 0.5, environments=1),
        offered("undoubted", math.nan),
        offered("old", 0.1, environments=3, labeled=True),
    )

    @pytest.mark.parametrize(
        ("criterion", "chosen"),
        [
            ("both", {"doubtful", "new", "new and lost"}),
            ("doubt", {"doubtful"}),
            ("2direct", {"new", "new and lost"}),
            ("random", {"known", "doubtful", "lost", "new", "new and lost", "undoubted"}),
        ],
    )
    def test_what_each_criterion_takes(self, criterion, chosen):
        found = verdicts(self.FRAMES, criterion=criterion)
        assert {name for name, v in found.items() if v == "chosen"} == chosen
        assert found["old"] == "labeled"

    def test_every_frame_can_say_why(self):
        for judged in select(self.FRAMES, 0.05, 0.15, Budget(1)):
            assert judged.sentence.startswith(MEANING[judged.verdict])
        assert verdicts(self.FRAMES)["lost"] == "too_uncertain"
        assert verdicts(self.FRAMES)["undoubted"] == "known"

    def test_gain_per_core_hour_decides(self):
        """The same gain at half the cost goes first; without a forecast atoms are the cost."""
        dear, cheap = offered("dear", 0.1, core_hours=8), offered("cheap", 0.1, core_hours=4)
        assert verdicts([dear, cheap], Budget(1)) == {"dear": "over_limit", "cheap": "chosen"}
        large, small = offered("large", 0.1, n_atoms=80), offered("small", 0.1, n_atoms=8)
        assert verdicts([large, small], Budget(1)) == {"large": "over_limit", "small": "chosen"}

    def test_core_hours_are_never_exceeded_and_smaller_ones_still_fit(self):
        items = [offered("a", 0.14, core_hours=3), offered("b", 0.12, core_hours=4), offered("c", 0.06, core_hours=2)]
        assert verdicts(items, Budget(9, 5.0)) == {"a": "chosen", "b": "over_budget", "c": "chosen"}

    @given(
        st.lists(st.tuples(st.floats(0, 0.3), st.integers(0, 3), st.floats(0.1, 5)), max_size=30),
        st.integers(1, 10),
        st.floats(0.5, 20),
    )
    def test_limits_hold_whatever_comes(self, rows, most, hours):
        items = [offered(f"t{i}", d, n, c, row=i) for i, (d, n, c) in enumerate(rows)]
        found = select(items, 0.05, 0.15, Budget(most, hours))
        taken = [j for j in found if j.verdict == "chosen"]
        assert len(found) == len(items)
        assert len(taken) <= most
        assert sum(j.offered.core_hours for j in taken) <= hours + 1e-9

    def test_repeats_are_left_out_and_order_of_input_does_not_matter(self):
        items = [offered("a", 0.14), offered("b", 0.13), offered("c", 0.12), offered("d", 0.1, environments=1)]
        points = np.array([[0.0], [0.05], [1.0], [0.01]])
        found = verdicts(items, near=near_in(points, 0.1))
        # gains are 2.8, 2.6, 2.4 and 1 + 2: "d" goes first, and "a" and "b" lie within 0.1 of it
        assert found == {"a": "repeats", "b": "repeats", "c": "chosen", "d": "chosen"}
        swapped = verdicts(items[::-1], near=near_in(points[::-1], 0.1))
        assert swapped == found

    def test_random_frames_are_the_same_for_a_seed(self):
        items = [offered(f"t{i}") for i in range(20)]
        one, other = (verdicts(items, Budget(5), criterion="random", seed=s) for s in (1, 1))
        assert one == other
        assert sum(v == "chosen" for v in one.values()) == 5
        assert one != verdicts(items, Budget(5), criterion="random", seed=2)

    def test_bad_limits_teach(self):
        with pytest.raises(InputError, match=r"0.15 and 0.05 eV/Å; expected 0 < lower < upper"):
            select([], 0.15, 0.05, Budget(1))
        with pytest.raises(InputError, match="leaves nothing to label"):
            Budget(0)
        with pytest.raises(InputError, match="leaves nothing to label"):
            Budget(1, 0.0)
        with pytest.raises(ValidationError, match="not below the upper one"):
            TrustLevels(lower_ev_per_a=0.2, upper_ev_per_a=0.1)
        with pytest.raises(ValidationError, match="greater than 0"):
            LoopParameters(budget_core_hours=0)


def numbers(round_, error=None, width=0.01, share=0.5, chosen=5, hours=1.0):
    interval = None if error is None else (error - width / 2, error + width / 2)
    return RoundNumbers(round_, share, error, interval, chosen, chosen, hours)


class TestStopping:
    RULES = StopRules(rounds=2, max_doubtful_fraction=0.1, max_rounds=6)

    def test_it_goes_on_while_errors_fall(self):
        rounds = [numbers(k, 0.5 / (k + 1)) for k in range(4)]
        assert not decide(rounds, self.RULES).stop

    @pytest.mark.parametrize(
        ("rounds", "rule"),
        [
            ([numbers(0, 0.3), numbers(1, 0.299), numbers(2, 0.298)], "no_gain"),
            ([numbers(0, share=0.01), numbers(1, share=0.02)], "confident"),
            ([numbers(0, chosen=0), numbers(1, chosen=0)], "nothing_new"),
            ([numbers(0, hours=11.0)], "budget"),
            ([numbers(k, 1.0 / (k + 1)) for k in range(6)], "max_rounds"),
        ],
    )
    def test_each_rule_is_named(self, rounds, rule):
        found = decide(rounds, self.RULES, total_core_hours=10.0)
        assert (found.stop, found.rule) == (True, rule)
        assert found.sentence

    @pytest.mark.parametrize(
        "rounds",
        [
            [numbers(0, 0.3), numbers(1, 0.299)],  # one flat step, two are asked for
            [numbers(0, 0.3), numbers(1, 0.2), numbers(2, 0.199)],
            [numbers(0, share=None), numbers(1, share=None)],  # nothing doubted says nothing
            [numbers(0), numbers(1), numbers(2)],  # no hold-out
            [numbers(0, chosen=0), numbers(1, chosen=3)],
        ],
    )
    def test_once_is_not_enough(self, rounds):
        assert not decide(rounds, self.RULES, total_core_hours=10.0).stop

    def test_a_rising_error_stops_too(self):
        assert decide([numbers(0, 0.2), numbers(1, 0.3), numbers(2, 0.4)], self.RULES).rule == "no_gain"
