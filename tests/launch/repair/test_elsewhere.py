"""Runs of other machines: rerun when their signs of life stop, whatever their clocks say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trivial_jobs
from fireworks import FWorker, Launch

from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_launch.launchpad import ensure_launchpad
from aqvolt_launch.processes import host_name, worker_name
from aqvolt_launch.repair.elsewhere import FIREWORKS_HEARTBEAT_S, HEARTBEAT_S, MISSING, Watcher
from aqvolt_launch.submission.submit import submit
from aqvolt_launch.workers import work


class Clock:
    """Seconds that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def running(launchpad: Any, number: int, name: str, days: float) -> None:
    """Make a submitted Firework look as if a worker of this name ran it, with a clock that is days off."""
    at = datetime.now(UTC) + timedelta(days=days)
    history = [{"state": "RUNNING", "created_on": at, "updated_on": at}]
    launch = Launch("RUNNING", "/scratch/x", FWorker(name), state_history=history, launch_id=50 + number, fw_id=number)
    launchpad.launches.insert_one(launch.to_db_dict())
    launchpad.fireworks.update_one({"fw_id": number}, {"$set": {"state": "RUNNING", "launches": [50 + number]}})
    change = {"state": "RUNNING", f"fw_states.{number}": "RUNNING"}
    launchpad.workflows.update_one({"nodes": number}, {"$set": change})


@pytest.mark.parametrize("days", [-2.0, 0.0, 2.0])
def test_a_run_whose_heart_stopped_runs_again(database: Database, settings: AqvoltSettings, days: float) -> None:
    submit([trivial_jobs.add_item(n) for n in range(4)], settings)
    launchpad = ensure_launchpad(settings)
    running(launchpad, 1, "aqvolt-other-77-5", days)  # dies
    running(launchpad, 2, "aqvolt-other-78-5", days)  # lives
    running(launchpad, 3, "rlaunch on some node", days)  # beats once an hour only
    running(launchpad, 4, worker_name(), days)  # of this machine: its process can be seen
    assert host_name() != "other"
    clock = Clock()
    watcher = Watcher(settings, clock)
    assert watcher.rerun() == [], "one look says nothing"
    for _ in range(MISSING + 1):
        clock.now += HEARTBEAT_S
        sign = {"$set": {"state_history.0.updated_on": f"beat at {clock.now}"}}
        launchpad.launches.update_one({"launch_id": 52}, sign)
        found = watcher.rerun()
    assert found == [1]
    assert launchpad.fireworks.find_one({"fw_id": 1})["state"] == "READY"
    assert launchpad.launches.find_one({"launch_id": 51})["state"] == "FIZZLED"
    assert {f["fw_id"] for f in launchpad.fireworks.find({"state": "RUNNING"})} == {2, 3, 4}
    clock.now += MISSING * FIREWORKS_HEARTBEAT_S
    launchpad.launches.update_one({"launch_id": 52}, {"$set": {"state_history.0.updated_on": "a beat"}})
    assert watcher.rerun() == [3]
    report = work(settings, until_empty=True, max_launches=2)
    assert report.completed == 2
    assert database["outputs"].count_documents({}) == 2
