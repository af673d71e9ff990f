"""Batches that a killed submission announced are undone."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import trivial_jobs

from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_launch import processes
from aqvolt_launch.launchpad import ensure_launchpad
from aqvolt_launch.repair import lost_runs as recovery
from aqvolt_launch.submission import announced
from aqvolt_launch.submission import window as queue
from aqvolt_launch.submission.submit import submit


def test_announcements_of_the_living_and_of_other_hosts_are_left_alone(
    database: Database, settings: AqvoltSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    launchpad = ensure_launchpad(settings)
    submit(trivial_jobs.bulk(2), settings, window=0)
    launchpad.fireworks.delete_many({})
    now = datetime.now(UTC)
    first = {"first": 1, "last": 2, "at": now}
    for number, by in enumerate([processes.worker_name(), "aqvolt-elsewhere-1-1"]):
        launchpad.db[queue.COLLECTION].insert_one({"_id": f"batch:{number}", "by": by} | first)
    assert announced.undo_killed_batches(launchpad) == 0
    launchpad.db[queue.COLLECTION].update_many({}, {"$set": {"at": now - 2 * announced.ANNOUNCED}})
    assert recovery.recover_dead(settings).undone == 2
    assert launchpad.workflows.count_documents({}) == 0
    assert [d["_id"] for d in launchpad.db[queue.COLLECTION].find({"_id": {"$regex": "^batch"}})] == ["batch:0"]
