"""What a killed worker leaves is put right wherever it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import trivial_jobs
from waiting import wait_for

from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_flows.work import WorkItem
from aqvolt_launch.launchpad import get_launchpad
from aqvolt_launch.repair import lost_runs as recovery
from aqvolt_launch.repair.reconcile import reconcile
from aqvolt_launch.submission.submit import submit
from aqvolt_launch.workers import spawn_worker, work

pytestmark = pytest.mark.usefixtures("quick")


def test_worker_killed_in_a_job_is_recovered_and_the_job_completes_once(
    database: Database, settings: AqvoltSettings
) -> None:
    flag, trace = Path.cwd() / "flag", Path.cwd() / "trace"
    submit([WorkItem("explore", "slow", "slow", lambda: trivial_jobs.slow_once(str(flag), str(trace)))], settings)
    victim = spawn_worker(settings)
    wait_for(flag.exists)
    assert reconcile(settings, dry_run=True).lost == [], "a live worker's run is not lost"
    assert recovery.recover_dead(settings).total() == 0
    os.kill(victim.pid, signal.SIGKILL)
    wait_for(lambda: psutil.Process(victim.pid).status() == psutil.STATUS_ZOMBIE)  # dead, though not reaped
    assert reconcile(settings, dry_run=True).lost == [1]
    assert get_launchpad(settings).fireworks.find_one({})["state"] == "RUNNING"
    report = work(settings, until_empty=True)
    victim.wait()
    assert (report.completed, report.recovered) == (1, 1)
    assert trace.read_text().splitlines() == [str(victim.pid), str(os.getpid())]
    outputs = list(database["outputs"].find({}))
    assert [d["output"] for d in outputs] == [7]
    launchpad = get_launchpad(settings)
    assert launchpad.workflows.find_one({})["state"] == "COMPLETED"
    assert sorted(launch["state"] for launch in launchpad.launches.find({})) == ["COMPLETED", "FIZZLED"]


KILLED_WORKER = Path(__file__).parents[1] / "killed_worker.py"
#: Write commands of a worker that runs one Firework: nine before the job, six after it.
WRITES = 15


def run_killed_worker(number: int, when: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(KILLED_WORKER), str(number), when]
    return subprocess.run(command, capture_output=True, text=True, timeout=90)


def test_the_writes_of_one_firework_are_counted(database: Database, settings: AqvoltSettings) -> None:
    submit([trivial_jobs.add_item(1)], settings)
    alive = run_killed_worker(WRITES + 1, "before")
    assert alive.returncode == 0, alive.stderr
    assert int(alive.stdout) == WRITES, "the spread of the next test has to follow"


@pytest.mark.parametrize(
    ("number", "when", "stage", "runs"),
    [
        (1, "after", "label", 1),  # the Firework is reserved, no launch exists
        (4, "before", "label", 1),  # the same, and a launch number is used up
        (5, "before", "label", 1),  # the launch exists, the Firework does not know it
        (6, "before", "label", 1),  # the Firework runs, the workflow does not know it
        (7, "before", "label", 1),  # the same, with the workflow locked
        (7, "after", "label", 1),  # all know, the lock stays
        (9, "after", "label", 1),  # all know, the job is about to start
        (10, "before", "label", 1),  # the job's output is stored, nothing tells of its end
        (10, "before", "explore", 2),  # the same; only labels are never repeated, the output is replaced
        (12, "before", "label", 1),  # the launch has ended, the Firework says it runs
        (13, "after", "explore", 1),  # the Firework is completed, its workflow does not know it, locked
        (14, "after", "label", 1),  # all is done, the lock stays
        (WRITES, "after", "label", 1),  # nothing is left to do
    ],
)
def test_worker_killed_between_any_two_writes(
    database: Database, settings: AqvoltSettings, number: int, when: str, stage: str, runs: int
) -> None:
    trace = Path.cwd() / "trace"
    submit([trivial_jobs.add_item(1, stage=stage, trace=str(trace))], settings)
    victim = run_killed_worker(number, when)
    assert victim.returncode == -signal.SIGKILL, victim.stderr
    time.sleep(0.6)  # older than the grace time
    work(settings, until_empty=True)
    launchpad = get_launchpad(settings)
    workflow = launchpad.workflows.find_one({})
    assert workflow["state"] == "COMPLETED"
    assert workflow["fw_states"] == {"1": "COMPLETED"}
    assert "locked" not in workflow
    assert launchpad.fireworks.find_one({})["state"] == "COMPLETED"
    assert launchpad.launches.count_documents({"state": {"$in": ["RUNNING", "RESERVED"]}}) == 0
    assert database["outputs"].count_documents({}) == 1
    assert len(trace.read_text().splitlines()) == runs
    assert recovery.recover_dead(settings).total() == 0
