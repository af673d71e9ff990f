"""Labels that failed for a reason that another run may cure run again when asked to, and only those."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import typer
from fake_vasp.fixtures import StoreFrames, rock_salt, store_frames
from typer.testing import CliRunner

from aqvolt_builders.labels import LabelBuilder
from aqvolt_flows.campaign import load_campaign
from aqvolt_flows.labeling.plan import plan_label
from aqvolt_flows.schemas.hold import HoldDocument
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_launch.cli import stages
from aqvolt_launch.launchpad import get_launchpad
from aqvolt_launch.repair.salvage import settle
from aqvolt_launch.submission.again import run_again
from aqvolt_launch.submission.submit import SubmitReport, submit
from aqvolt_launch.workers import work

__all__ = ["store_frames"]


@pytest.fixture
def configured() -> dict[str, str]:
    return {"campaign": "demo"}


@pytest.fixture
def failed(store_frames: StoreFrames, database: Database, settings: AqvoltSettings):
    """Two frames whose file is away while they are labelled, and what brings it back."""
    frame_ids = store_frames([rock_salt(5.10), rock_salt(5.20)])
    path = database.artifacts.local_path(
        ArtifactRef(**database["frames"].find_one({"frame_id": frame_ids[0]})["artifact"])
    )
    away = path.with_name("away")
    path.rename(away)
    assert submit(items(database), settings) == SubmitReport(submitted=2)
    assert work(settings, until_empty=True).completed == 2
    return lambda: away.rename(path)


def items(database: Database):
    return list(plan_label(load_campaign("demo"), database).items)


def reasons(database: Database) -> list[str]:
    return [(d["output"]["failure"] or {}).get("reason", "") for d in database["outputs"].find({})]


def test_again_means_again_and_the_new_outcome_replaces_the_old(failed, database: Database, settings: AqvoltSettings):
    assert reasons(database) == ["missing_artifact"] * 2
    LabelBuilder().run()
    assert database["labels"].count_documents({"status": "rejected", "failure.reason": "missing_artifact"}) == 2
    assert [(i.done, i.again) for i in items(database)] == [(True, "missing_artifact")] * 2
    assert submit(items(database), settings) == SubmitReport(failed=2)
    failed()
    assert submit(items(database), settings, rerun_failed=True) == SubmitReport(rerun=2)
    assert not any(i.done for i in items(database))
    assert submit(items(database), settings, rerun_failed=True) == SubmitReport(queued=2)
    assert work(settings, until_empty=True).completed == 2
    assert reasons(database) == ["", ""]
    assert submit(items(database), settings, rerun_failed=True) == SubmitReport(done=2)
    LabelBuilder().run()
    assert database["labels"].count_documents({}) == database["labels"].count_documents({"status": "valid"}) == 2


def test_a_failure_that_stays_is_left_alone(failed, database: Database, settings: AqvoltSettings):
    database["outputs"].update_many({}, {"$set": {"output.failure.reason": "electronic"}})
    assert [(i.done, i.again) for i in items(database)] == [(True, "")] * 2
    assert submit(items(database), settings, rerun_failed=True) == SubmitReport(done=2)


def test_a_result_beside_a_failure_stands(failed, database: Database):
    document = database["outputs"].find_one({}, {"_id": 0})
    key = document["metadata"]["aqvolt"]["key"]
    document["output"] |= {"status": "converged", "failure": None}
    database["outputs"].insert_one(document | {"uuid": "another"})
    assert {i.key: i.again for i in items(database)}[key] == ""


def test_held_ones_wait_and_lost_workflows_are_made_anew(failed, database: Database, settings: AqvoltSettings):
    first, second = items(database)
    launchpad = get_launchpad(settings)
    launchpad.workflows.delete_one({"metadata.aqvolt.key": first.key})
    failed()
    held = replace(second, held="gone")
    assert submit([first, held], settings, rerun_failed=True) == SubmitReport(submitted=1, held=1)
    database.upsert("holds", [HoldDocument.of("frame", second.arguments[0], "gone", "")])
    assert submit(items(database)[1:], settings, rerun_failed=True) == SubmitReport(held=1)


def test_a_worker_killed_in_the_new_run_is_not_settled_by_the_old_outcome(
    failed, database: Database, settings: AqvoltSettings
):
    launchpad = get_launchpad(settings)
    (item, other) = items(database)
    assert run_again(launchpad, settings, [item]) == (1, [])
    firework, launch_id = launchpad.checkout_fw(settings_worker(), ".")
    assert firework.spec["aqvolt"]["key"] == item.key
    assert settle(launchpad, database, firework.fw_id, launch_id) == ""
    untouched = launchpad.fireworks.find_one({"spec.aqvolt.key": other.key})
    assert settle(launchpad, database, untouched["fw_id"]) == "stored"


def settings_worker():
    from fireworks import FWorker

    return FWorker()


def test_the_command_says_what_may_run_again(failed, database: Database):
    app = typer.Typer()
    stages.register(app)

    def call(*arguments: str):
        result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result

    assert json.loads(call("plan", "label", "--json").stdout)["again"] == {"missing_artifact": 2}
    assert "--rerun-failed" in call("submit", "label").output
    failed()
    assert json.loads(call("submit", "label", "--rerun-failed", "--json").stdout)["rerun"] == 2
    assert json.loads(call("plan", "label", "--json").stdout)["in_queue"] == {"READY": 2}
