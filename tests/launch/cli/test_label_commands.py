"""``aqvolt plan label`` and ``aqvolt submit label``: preflight, forecast, budget."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple

import label_factory
import pytest
import typer
from fake_vasp.fixtures import stand_in
from typer.testing import CliRunner

from aqvolt_flows.errors import InputError
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_launch.cli import stages
from aqvolt_launch.launchpad import get_launchpad
from aqvolt_launch.project import preflight

__all__ = ["stand_in"]


@pytest.fixture
def configured() -> dict[str, str]:
    return {"campaign": "demo"}


@pytest.fixture
def invoke(settings: AqvoltSettings):
    app = typer.Typer()
    stages.register(app)

    def call(*arguments: str) -> dict:
        result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return call


def finished(database: Database, hours: float, n: int, code: str) -> None:
    """Write n finished runs of 8 atoms of LiCl, about as long as each other."""
    for number in range(n):
        cost = hours * (0.9 if number % 2 else 1.1)
        output = {"status": "converged", "protocol": {"code": code, "settings_hash": "x"}, "cost_core_hours": cost}
        output["atomic_numbers"] = [3, 17] * 4
        document = {"uuid": f"run-{number}", "index": 1, "output": output}
        database["outputs"].insert_one(document | {"metadata": {"aqvolt": {"stage": "label", "key": f"k{number}"}}})


def test_plan_submit_plan(invoke, database: Database, settings: AqvoltSettings) -> None:
    database.in_campaign("demo").upsert("frames", [label_factory.frame(n) for n in range(6)])
    plan = invoke("plan", "label")
    assert {k: plan[k] for k in ("frames", "to_run", "labelled", "in_queue", "held", "missing")} == {
        "frames": 6,
        "to_run": 6,
        "labelled": {},
        "in_queue": {},
        "held": {},
        "missing": [],
    }
    assert plan["forecast_core_hours"] is None
    assert "No surrogate run has finished yet" in plan["forecast_from"]
    with pytest.raises(InputError, match="submit a first few with --limit"):
        invoke("submit", "label", "--budget-core-hours", "5")
    assert invoke("submit", "label", "--limit", "2")["submitted"] == 2
    finished(database, 0.5, 4, "surrogate")
    plan = invoke("plan", "label")
    assert (plan["to_run"], plan["in_queue"]) == (4, {"READY": 2})
    assert plan["forecast_core_hours"] == pytest.approx(6 * 0.5), "what waits is to be paid, too"
    assert 0 < plan["forecast_error"] < 1
    assert plan["forecast_from"].startswith("4 finished runs by their mean; one run is typically off by a factor of 1.")
    report = invoke("submit", "label", "--budget-core-hours", "1.2")
    assert (report["submitted"], report["queued"], report["left"]) == (2, 2, 2)
    assert report["core_hours"] == pytest.approx(1.0)
    assert get_launchpad(settings).fireworks.count_documents({"spec.aqvolt.chemsys": "Cl-Li"}) == 4
    with pytest.raises(InputError, match="only labels have a forecast"):
        invoke("submit", "explore", "--budget-core-hours", "1")


def test_vasp_preflight_names_every_potcar_and_what_is_missing(
    invoke, stand_in, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.in_campaign("demo").upsert("frames", [label_factory.frame(0), label_factory.frame(1, "LiF")])
    plan = invoke("plan", "label", "--labeler", "vasp")
    assert plan["missing"] == []
    assert sorted(plan["potcars"]) == ["Cl", "F", "Li"]
    assert plan["potcars"]["Li"].startswith("Li_sv, SHA-256 ")
    assert "No vasp run has finished yet" in plan["forecast_from"]
    database["frames"].update_one({"frame_id": "frame-0001"}, {"$set": {"elements": ["Lu"]}})
    monkeypatch.delenv("VASP_CMD")
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**30))
    missing = " ".join(invoke("plan", "label", "--labeler", "vasp")["missing"])
    for part in ("VASP_CMD is not set", "VASP: POTCAR Lu: missing", "scratch space: 1.0 GiB free"):
        assert part in missing
    assert preflight.frame_elements(database.in_campaign("demo")) == ["Cl", "Li", "Lu"]
