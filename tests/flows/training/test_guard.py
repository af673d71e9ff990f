from __future__ import annotations

import math
import re

import pytest

from aqvolt_flows.training.guard import Guard

GOOD = {"energy": 1.0, "forces": 3.0}


@pytest.mark.parametrize(
    ("losses", "norm", "said"),
    [
        ({"energy": math.nan, "forces": 1.0}, 1.0, r"loss is not finite \(energy nan\)"),
        ({"energy": 1.0, "forces": math.inf}, 1.0, r"forces inf"),
        (GOOD, math.nan, "gradient norm is not finite"),
        (GOOD, math.inf, "gradient norm is not finite"),
        ({"energy": 1.0, "forces": 5e4}, 1.0, "over 10000 times its recent median 4"),
    ],
)
def test_what_cannot_be_right_is_skipped_with_its_reason(losses: dict, norm: float, said: str):
    guard = Guard()
    assert guard.judge(GOOD, 1.0).action == "step"
    verdict = guard.judge(losses, norm)
    assert verdict.action == "skip"
    assert re.search(said, verdict.reason)
    assert (guard.skips, guard.in_a_row) == (1, 1)


def test_a_large_loss_or_gradient_at_the_start_is_no_divergence():
    guard = Guard()
    assert guard.judge({"energy": 1e9}, 1e9).action == "step"
    assert guard.judge({"energy": 1.0}, 1e-3).action == "step"


def test_a_skipped_loss_does_not_raise_the_median():
    guard = Guard(max_loss_ratio=10, max_consecutive_skips=1000)
    guard.judge({"energy": 1.0}, 1.0)
    assert [guard.judge({"energy": 11.0}, 1.0).action for _ in range(200)].count("skip") == 100  # then max_skips


def test_a_loss_of_zero_does_not_forbid_every_other():
    guard = Guard()
    assert guard.judge({"energy": 0.0}, 0.0).action == "step"
    assert guard.judge({"energy": 1.0}, 1.0).action == "step"


def test_too_many_in_a_row_end_the_training():
    guard = Guard(max_consecutive_skips=2)
    bad = {"energy": math.nan}
    assert [guard.judge(bad, 1.0).action for _ in range(2)] == ["skip", "skip"]
    assert guard.judge(GOOD, 1.0).action == "step"
    assert [guard.judge(bad, 1.0).action for _ in range(3)] == ["skip", "skip", "stop"]


def test_too_many_in_all_end_the_training():
    guard = Guard(max_skips=3)
    actions = []
    for _ in range(4):
        actions += [guard.judge({"energy": math.nan}, 1.0).action, guard.judge(GOOD, 1.0).action]
    assert actions == ["skip", "step", "skip", "step", "skip", "step", "stop", "step"]


def test_stop_stops_at_the_first():
    assert Guard(on_divergence="stop").judge({"energy": math.nan}, 1.0).action == "stop"
