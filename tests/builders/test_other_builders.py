"""Benchmark rows and costs."""

from __future__ import annotations

import label_factory
import pytest

from aqvolt_builders.registry import run_builder
from aqvolt_flows.schemas.benchmark import BenchmarkDocument


def row(number: int, **changes) -> BenchmarkDocument:
    values = {
        "key": f"key-{number}",
        "benchmark_id": f"benchmark-{number}",
        "benchmark": "ev_scan",
        "model": "chgnet/r2scan",
        "model_hash": "ab",
        "dataset": "5 candidates",
        "status": "completed",
        "n_items": 5,
        "n_failed": 0,
        "metrics": {"spearman": 0.9},
        "seconds": 7200.0,
    }
    return BenchmarkDocument(**(values | changes))


def output(number: int, **changes):
    return label_factory.output(row(number, **changes).model_dump(mode="json"), f"uuid-{number}", stage="benchmark")


def test_missing_rows_are_restored_and_present_ones_left_alone(database):
    database["outputs"].insert_many([output(1), output(2)])
    database.upsert("benchmarks", [row(1)])
    before = database["benchmarks"].find_one({"benchmark_id": "benchmark-1"})
    assert run_builder("benchmarks") == {"processed": 1, "completed": 1}
    assert run_builder("benchmarks") == {"processed": 0}
    assert database["benchmarks"].find_one({"benchmark_id": "benchmark-1"}) == before
    assert database["benchmarks"].find_one({"benchmark_id": "benchmark-2"})["metrics"] == {"spearman": 0.9}


def test_an_output_that_is_no_row_becomes_a_failed_row_once(database):
    database["outputs"].insert_one(label_factory.output({"something": "else"}, "uuid-1", stage="benchmark"))
    assert run_builder("benchmarks") == {"processed": 1, "failed": 1}
    stored = database["benchmarks"].find_one({})
    assert stored["failure"]["reason"] == "bad_output"
    assert "uuid-1" in stored["dataset"]
    assert run_builder("benchmarks") == {"processed": 0}


def test_costs_are_sums_with_failures_counted(database):
    label_factory.fill(database, 4)
    database["outputs"].insert_one(label_factory.output(label_factory.outcome(4, status="killed"), "uuid-4"))
    run_builder("labels")
    database.upsert("benchmarks", [row(1), row(2, status="failed", n_failed=5)])
    assert run_builder("costs")["processed"] == 3
    label = database["costs"].find_one({"stage": "label"})
    assert (label["n_documents"], label["n_failed"], label["failures"]) == (5, 1, {"killed": 1})
    assert label["core_hours"] == pytest.approx(5 * 0.5), "what failed cost something too"
    assert label["n_atoms"] == 4 * 8 + 8
    assert database["costs"].find_one({"stage": "benchmark"})["core_hours"] == pytest.approx(4.0)
    assert run_builder("costs") == {"processed": 0}
    database.upsert("benchmarks", [row(3)])
    assert run_builder("costs")["processed"] == 1
    assert database["costs"].find_one({"stage": "benchmark"})["n_documents"] == 3
