"""Models compared on the structures that both computed, and the one-line summary."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_rel

from aqvolt_flows.benchmark_registry import benchmark_named
from aqvolt_flows.benchmarks.paired import column, magnitude, paired
from aqvolt_flows.benchmarks.summary import summary_row, wilson_percent


def rows(values: dict[str, float | None], group: str = "") -> list[dict]:
    return [
        {"item_id": i, "group": group or i, "x": v, "failure_reason": None if v is not None else "no"}
        for i, v in values.items()
    ]


def test_only_what_both_computed_is_compared() -> None:
    a = rows({"1": 1.0, "2": 2.0, "3": None, "4": 4.0})
    b = rows({"1": 1.5, "2": 1.0, "3": 9.0, "5": 5.0})
    (found,) = paired({"b": b, "a": a}, {"x": column("x")})
    assert (found["a"], found["b"], found["n_both"], found["n_only_a"], found["n_only_b"]) == ("a", "b", 2, 1, 2)
    assert (found["mean_a"], found["mean_b"], found["difference"]) == (1.5, 1.25, -0.25)
    (none,) = paired({"a": a, "b": rows({"9": 1.0})}, {"x": column("x")})
    assert (none["n_both"], none["difference"], none["interval"]) == (0, None, None)


def test_the_interval_of_many_pairs_is_that_of_a_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=200) * 5  # structures differ far more than models do
    a = {str(i): float(v) for i, v in enumerate(base)}
    b = {str(i): float(v + 0.3 + 0.5 * e) for i, (v, e) in enumerate(zip(base, rng.normal(size=200), strict=True))}
    (found,) = paired({"a": rows(a), "b": rows(b)}, {"x": column("x")})
    expected = ttest_rel(list(b.values()), list(a.values())).confidence_interval(0.95)
    assert found["interval"] == pytest.approx([expected.low, expected.high], abs=0.015)
    assert found["difference"] == pytest.approx(np.mean(list(b.values())) - np.mean(base))


def test_seeds_of_a_structure_are_averaged_and_frames_of_a_candidate_resampled_together() -> None:
    a = [{"item_id": "1", "group": "c", "x": x, "failure_reason": None} for x in (1.0, 3.0)]
    b = [{"item_id": "1", "group": "c", "x": 5.0, "failure_reason": None}]
    (found,) = paired({"a": a, "b": b}, {"x": column("x")})
    assert (found["mean_a"], found["difference"]) == (2.0, 3.0)
    assert found["interval"] is None, "one candidate has no spread"


def test_uncovered_and_unreadable_structures_are_in_no_comparison() -> None:
    scan = benchmark_named("ev_scan")
    blank = {"spearman_compression_energy": None, "spearman_compression_derivative": None}
    reasons_a, reasons_b = [None, "flips", "not_covered", "unreadable"], ["flips", "flips", None, "unreadable"]
    tables = {
        model: [{"item_id": str(i), "group": str(i), "failure_reason": r, **blank} for i, r in enumerate(reasons)]
        for model, reasons in {"a": reasons_a, "b": reasons_b}.items()
    }
    failed = next(row for row in scan.pairs(tables) if row["quantity"] == "failed (%)")
    assert (failed["n_both"], failed["mean_a"], failed["mean_b"]) == (2, 50.0, 100.0)
    assert (failed["n_only_a"], failed["n_only_b"]) == (0, 1)
    assert magnitude("x")({"x": -2.0}) == 2.0
    assert magnitude("x")({}) is None


@pytest.mark.parametrize(("failed", "total"), [(0, 10), (3, 10), (10, 10), (2, 1000)])
def test_wilson_s_interval_is_scipy_s(failed: int, total: int) -> None:
    expected = binomtest(failed, total).proportion_ci(0.95, method="wilson")
    assert wilson_percent(failed, total) == pytest.approx([100 * expected.low, 100 * expected.high])
    assert wilson_percent(0, 0) is None


def test_a_line_says_value_interval_hash_and_speed_of_old_documents_too() -> None:
    old = {"model": "m", "benchmark": "ev_scan", "dataset": "d", "status": "completed", "n_items": 4, "n_failed": 1}
    old |= {"model_hash": "ab", "key": "k", "seconds": 2.0, "metrics": {"failed_percent": 25.0}}
    line = summary_row(benchmark_named("ev_scan"), old)
    assert (line["value_name"], line["value"], line["interval"]) == ("failed_percent", 25.0, None)
    assert (line["n_structures"], line["coverage_percent"], line["atom_steps_per_s"]) == (4, None, None)
    new = old | {"atom_steps": 1000, "n_not_covered": 2, "metrics": {"failed_percent_interval": [1.0, 50.0]}}
    line = summary_row(benchmark_named("ev_scan"), new)
    assert (line["interval"], line["atom_steps_per_s"], line["n_not_covered"]) == ([1.0, 50.0], 500.0, 2)
