"""Submission: once per key, whoever submits, and whenever it is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trivial_jobs
from bson import json_util

from aqvolt_flows import __version__
from aqvolt_flows.errors import InputError
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_launch.launchpad import ensure_launchpad, get_launchpad
from aqvolt_launch.submission.submit import SubmitReport, submit
from aqvolt_launch.workers import work


def run_python(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_each_key_once(database: Database, settings: AqvoltSettings) -> None:
    items = [trivial_jobs.add_item(n) for n in (0, 1, 1, 2)]
    assert submit(items, settings) == SubmitReport(submitted=3)
    assert submit(items, settings) == SubmitReport(queued=3)
    launchpad = get_launchpad(settings)
    assert launchpad.fireworks.count_documents({"state": "READY"}) == launchpad.workflows.count_documents({}) == 3
    work(settings, until_empty=True)
    assert submit(items, settings) == SubmitReport(done=3)
    assert database["outputs"].count_documents({}) == 3


def test_finished_items_make_no_job_and_no_launchpad(database: Database, settings: AqvoltSettings) -> None:
    def never() -> object:
        raise AssertionError("a finished unit must not be built")

    item = trivial_jobs.add_item(0, done=True)
    object.__setattr__(item, "make", never)
    assert submit([item], settings) == SubmitReport(done=1)
    assert database.mongo.list_collection_names(filter={"name": "workflows"}) == []


def test_limit_leaves_the_rest(database: Database, settings: AqvoltSettings) -> None:
    items = [trivial_jobs.add_item(n) for n in range(5)]
    assert submit(items, settings, limit=2) == SubmitReport(submitted=2, left=3)
    assert submit(items, settings, limit=2) == SubmitReport(submitted=2, queued=2, left=1)
    assert submit(items, settings) == SubmitReport(submitted=1, queued=4)
    with pytest.raises(InputError, match="limit of -1"):
        submit(items, settings, limit=-1)


def test_what_a_firework_carries(database: Database, settings: AqvoltSettings) -> None:
    submit([trivial_jobs.flow_item()], settings)
    launchpad = get_launchpad(settings)
    workflow = launchpad.workflows.find_one({})
    assert workflow["metadata"] == {"aqvolt": {"stage": "sample", "key": "flow"}}
    assert workflow["name"] == "a flow"
    fireworks = list(launchpad.fireworks.find({}))
    assert sorted(f["state"] for f in fireworks) == ["READY", "READY", "WAITING"]
    for firework in fireworks:
        assert firework["spec"]["_category"] == "gpu"
        assert firework["spec"]["_priority"] == 3
        assert firework["spec"]["aqvolt"] == {"stage": "sample", "key": "flow", "version": __version__}
    text = json_util.dumps([workflow, fireworks])
    assert "mongodb:" not in text, "no address may be written into a Firework"
    assert "127.0.0.1" not in text
    assert launchpad.get_wf_by_fw_id(fireworks[0]["fw_id"]).name == "a flow", "lpad reads what we wrote"
    work(settings, until_empty=True)
    assert database["outputs"].find_one({"name": "total"})["output"] == 10
    assert {d["metadata"]["aqvolt"]["stage"] for d in database["outputs"].find()} == {"sample"}


KILL = """
import os, signal
from aqvolt_launch.submission import submit as module
from aqvolt_flows.settings import load_settings
import trivial_jobs

def die(launchpad, what):
    if what:
        os.kill(os.getpid(), signal.SIGKILL)
    return set()

module.{name} = die
module.submit([trivial_jobs.add_item(0), trivial_jobs.flow_item()], load_settings())
"""


@pytest.mark.parametrize(
    ("name", "workflows", "second"),
    [
        ("_insert_workflows", 0, SubmitReport(submitted=2)),  # killed after the Fireworks, before the workflows
        ("release_staged", 2, SubmitReport(completed=2)),  # killed after the workflows, before they may run
    ],
)
def test_killed_submission_is_completed_by_the_next(
    database: Database, settings: AqvoltSettings, name: str, workflows: int, second: SubmitReport
) -> None:
    items = [trivial_jobs.add_item(0), trivial_jobs.flow_item()]
    process = run_python(KILL.format(name=name))
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, complaint
    launchpad = get_launchpad(settings)
    assert launchpad.workflows.count_documents({}) == workflows
    staged = {f["fw_id"] for f in launchpad.fireworks.find({})}
    assert len(staged) == 4
    assert not launchpad.run_exists(), "nothing of a half submission may run"
    assert submit(items, settings) == second
    assert launchpad.workflows.count_documents({}) == 2
    known = {fw_id for w in launchpad.workflows.find({}) for fw_id in w["nodes"]}
    assert len(known) == 4
    if workflows:
        assert known == staged, "the same Fireworks go on"
    assert work(settings, until_empty=True).completed == 4
    assert submit(items, settings) == SubmitReport(done=2)
    assert database["outputs"].count_documents({}) == 4


def test_worker_completes_a_killed_submission_too(database: Database, settings: AqvoltSettings) -> None:
    process = run_python(KILL.format(name="release_staged"))
    process.communicate(timeout=60)
    report = work(settings, until_empty=True)
    assert (report.completed, report.recovered) == (4, 3)  # two roots of the flow and the single job were staged


def test_concurrent_submitters_make_one_workflow_each(database: Database, settings: AqvoltSettings) -> None:
    ensure_launchpad(settings)
    code = "import json, trivial_jobs; print(json.dumps(trivial_jobs.submit_many(60)))"
    processes = [run_python(code) for _ in range(3)]
    reports = []
    for process in processes:
        out, complaint = process.communicate(timeout=90)
        assert process.returncode == 0, complaint
        reports.append(json.loads(out))
    assert sum(r["submitted"] for r in reports) == 60
    assert all(r["submitted"] + r["queued"] + r["completed"] == 60 for r in reports)
    launchpad = get_launchpad(settings)
    keys = [w["metadata"]["aqvolt"]["key"] for w in launchpad.workflows.find({})]
    assert len(keys) == len(set(keys)) == 60
    nodes = {fw_id for w in launchpad.workflows.find({}) for fw_id in w["nodes"]}
    fireworks = {f["fw_id"]: f["state"] for f in launchpad.fireworks.find({})}
    assert set(fireworks) == nodes
    assert set(fireworks.values()) == {"READY"}


def test_failed_work_is_reported_and_reruns_only_when_asked(database: Database, settings: AqvoltSettings) -> None:
    flag = Path.cwd() / "flag"
    flag.touch()
    items = [trivial_jobs.WorkItem("explore", "f", "fails", lambda: trivial_jobs.fail_while(str(flag)))]
    submit(items, settings)
    assert work(settings, until_empty=True).fizzled == 1
    assert submit(items, settings) == SubmitReport(failed=1)
    assert work(settings, until_empty=True).completed == 0
    flag.unlink()
    assert submit(items, settings, rerun_failed=True) == SubmitReport(rerun=1)
    assert work(settings, until_empty=True).completed == 1
    assert submit(items, settings) == SubmitReport(done=1)


def test_launchpad_is_never_wiped(database: Database, settings: AqvoltSettings) -> None:
    submit([trivial_jobs.add_item(0)], settings)
    launchpad = get_launchpad(settings)
    launchpad.fw_id_assigner.delete_many({})  # as on a database restored without it
    ensure_launchpad(settings)
    ensure_launchpad(settings)
    assert launchpad.fw_id_assigner.count_documents({}) == 1
    assert launchpad.fireworks.count_documents({}) == 1
    submit([trivial_jobs.add_item(1)], settings)
    assert sorted(f["fw_id"] for f in launchpad.fireworks.find({})) == [1, 2]
    assert os.environ.get("AQVOLT_CONFIG_FILE")
