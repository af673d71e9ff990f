"""Benchmark rows and costs."""

from __future__ import annotations

import label_factory
import numpy as np
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


def test_costs_by_system_stand_beside_a_forecast_from_other_systems(database):
    """Cost ∝ N², the limit of plane waves: a model from other systems must find it; scikit-learn fits the same line."""
    from sklearn.linear_model import LinearRegression

    from aqvolt_builders.systems import _fold, label_costs

    sizes = {"Cl-Li": 8, "Br-Li": 16, "F-Li": 24, "I-Li": 32, "Cl-Li-Y": 40, "Br-In-Li": 20, "Cl-Li-Na": 12, "Li-O": 28}
    formulas = {s: s.replace("-", "") for s in sizes}
    rng = np.random.default_rng(3)
    labels = [
        {
            "status": "valid" if k else "rejected",
            "chemsys": s,
            "formula": formulas[s],
            "n_atoms": n,
            "frame_id": f"{s}{k}",
        }
        | {"cost_core_hours": 0.01 * n**2 * float(np.exp(rng.normal(0, 0.05)))}
        for s, n in sizes.items()
        for k in range(6)
    ]
    imported = {"status": "valid", "chemsys": "Cl-Li", "formula": "LiCl", "n_atoms": 8, "frame_id": "x"}
    found = label_costs([*labels, imported], {"Cl-Li1": 3, "Cl-Li0": 5, "F-Li2": 1, "gone": 9})
    assert found["new_environments"] == 4, "those of a rejected label and of a frame without label are not gained"
    for system, cost in found["by_chemsys"].items():
        assert cost.n_runs == 6 + (system == "Cl-Li")
        assert cost.n_valid == 5 + (system == "Cl-Li")
        assert cost.core_hours == pytest.approx(sum(d["cost_core_hours"] for d in labels if d["chemsys"] == system))
        others = [d for d in labels if _fold(d["chemsys"]) != _fold(system)]
        line = LinearRegression().fit(
            np.log([[d["n_atoms"]] for d in others]), np.log([d["cost_core_hours"] for d in others])
        )
        independent = 6 * float(np.exp(line.predict(np.log([[sizes[system]]])))[0])
        assert cost.forecast_core_hours == pytest.approx(independent, rel=0.15)
        assert cost.forecast_core_hours == pytest.approx(6 * 0.01 * sizes[system] ** 2, rel=0.2)
    assert found["forecast_actual"] == pytest.approx(sum(d["cost_core_hours"] for d in labels))
    assert label_costs([imported])["by_chemsys"]["Cl-Li"].forecast_core_hours is None


def test_costs_say_what_a_valid_label_and_a_new_environment_took(database):
    label_factory.fill(database, 4)
    database["outputs"].insert_one(label_factory.output(label_factory.outcome(4, status="killed"), "uuid-4"))
    run_builder("labels")
    frame_ids = [d["frame_id"] for d in database["labels"].find({"status": "valid"})]
    database["frames"].update_one({"frame_id": frame_ids[0]}, {"$set": {"atom_clusters": [4, 7, 9]}})
    run_builder("costs")
    label = database["costs"].find_one({"stage": "label"})
    assert (label["n_valid"], label["n_documents"]) == (4, 5)
    assert label["per_valid"] == pytest.approx(5 * 0.5 / 4), "the failed run is paid by the valid ones"
    assert label["core_hours_failed"] == pytest.approx(0.5)
    assert label["new_environments"] == 3
    assert label["per_environment"] == pytest.approx(2.5 / 3)
    assert run_builder("costs") == {"processed": 0}
