"""Units with a template: streamed, copied, windowed; once per key whenever the submission is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trivial_jobs

from aqvolt_flows.errors import InputError
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_launch.launchpad import ensure_launchpad, get_launchpad
from aqvolt_launch.submission import window as queue
from aqvolt_launch.submission.submit import CoreHours, SubmitReport, submit
from aqvolt_launch.workers import work


def states(settings: AqvoltSettings) -> dict[str, int]:
    found: dict[str, int] = {}
    for firework in get_launchpad(settings).fireworks.find({}, {"state": 1}):
        found[firework["state"]] = found.get(firework["state"], 0) + 1
    return found


def test_each_key_once_and_all_run(database: Database, settings: AqvoltSettings) -> None:
    trace = str(Path.cwd() / "trace")
    assert submit(trivial_jobs.bulk(7, trace=trace), settings, window=0) == SubmitReport(submitted=7)
    assert submit(trivial_jobs.bulk(9, trace=trace), settings, window=0) == SubmitReport(submitted=2, queued=7)
    assert states(settings) == {"READY": 9}
    launchpad = get_launchpad(settings)
    assert launchpad.get_wf_by_fw_id(3).state == "READY", "lpad reads what we wrote"
    assert launchpad.db[queue.COLLECTION].count_documents({"_id": {"$regex": "^batch:"}}) == 0
    assert work(settings, until_empty=True).completed == 9
    assert sorted(Path(trace).read_text().split()) == [str(n) for n in range(9)]
    assert Path(trace).read_text().split() == [str(n) for n in range(8, -1, -1)], "higher priority first"
    assert submit(trivial_jobs.bulk(9), settings) == SubmitReport(done=9)
    assert sorted(database["outputs"].distinct("metadata.aqvolt.key")) == [f"bulk-{n}" for n in range(9)]


def test_limit_and_budget_take_the_most_important(database: Database, settings: AqvoltSettings) -> None:
    items = trivial_jobs.bulk(10, tags={"chemsys": "Cl-Li"})
    assert submit(items, settings, limit=2, window=0) == SubmitReport(submitted=2, left=8)
    launchpad = get_launchpad(settings)
    keys = {w["metadata"]["aqvolt"]["key"] for w in launchpad.workflows.find({})}
    assert keys == {"bulk-9", "bulk-8"}
    budget = CoreHours(3.5, lambda item: 1.5)
    assert submit(items, settings, budget=budget, window=0) == SubmitReport(
        submitted=2, queued=2, left=6, core_hours=3.0
    )
    assert launchpad.fireworks.find_one({"fw_id": 3})["spec"]["aqvolt"]["key"] == "bulk-7"
    with pytest.raises(InputError, match="A window of -1 was given"):
        submit(items, settings, window=-1)


def test_held_units_are_left_out(database: Database, settings: AqvoltSettings) -> None:
    assert submit(trivial_jobs.bulk(3, held="failure_budget"), settings) == SubmitReport(held=3)
    assert submit(trivial_jobs.bulk(3), settings).submitted == 3


KILL = """
import os, signal
from aqvolt_launch.submission import submit as module
from aqvolt_flows.settings import load_settings
import trivial_jobs

original = module.{name}
def die(launchpad, documents):
    original(launchpad, documents)
    os.kill(os.getpid(), signal.SIGKILL)

module.{name} = die
module.submit(trivial_jobs.bulk(5), load_settings(), window=2)
"""


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("_insert_workflows", SubmitReport(submitted=5)),
        ("_insert_fireworks", SubmitReport(queued=5)),
    ],
)
def test_killed_submission_is_completed_by_the_next(
    database: Database, settings: AqvoltSettings, name: str, second: SubmitReport
) -> None:
    process = subprocess.run([sys.executable, "-c", KILL.format(name=name)], capture_output=True, text=True, timeout=60)
    assert process.returncode == -signal.SIGKILL, process.stderr
    launchpad = get_launchpad(settings)
    assert launchpad.workflows.count_documents({}) == 5
    assert not launchpad.run_exists(), "nothing of a half submission may run"
    assert submit(trivial_jobs.bulk(5), settings, window=2) == second
    assert launchpad.db[queue.COLLECTION].count_documents({"_id": {"$regex": "^batch:"}}) == 0
    assert work(settings, until_empty=True).completed == 5
    assert database["outputs"].count_documents({}) == 5


def test_concurrent_submitters(database: Database, settings: AqvoltSettings) -> None:
    ensure_launchpad(settings)
    code = (
        "import trivial_jobs; from aqvolt_launch.submission.submit import submit\n"
        "from aqvolt_flows.settings import load_settings\n"
        "r = submit(trivial_jobs.bulk(300), load_settings(), window=0); print(r.submitted, r.queued)"
    )
    submitters = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    counts = [tuple(map(int, process.communicate(timeout=90)[0].split())) for process in submitters]
    assert sum(submitted for submitted, _ in counts) == 300
    assert all(sum(count) == 300 for count in counts)
    launchpad = get_launchpad(settings)
    nodes = sorted(i for w in launchpad.workflows.find({}) for i in w["nodes"])
    assert nodes == sorted(f["fw_id"] for f in launchpad.fireworks.find({}))
    assert len(nodes) == 300
