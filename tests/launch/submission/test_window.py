"""The window: so many Fireworks are READY, the others wait in the order of their priority."""

from __future__ import annotations

from pathlib import Path

import trivial_jobs

from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_launch.launchpad import get_launchpad
from aqvolt_launch.submission import window as queue
from aqvolt_launch.submission.submit import submit
from aqvolt_launch.workers import work


def states(settings: AqvoltSettings) -> dict[str, int]:
    found: dict[str, int] = {}
    for firework in get_launchpad(settings).fireworks.find({}, {"state": 1}):
        found[firework["state"]] = found.get(firework["state"], 0) + 1
    return found


def test_window_keeps_so_many_ready_and_workers_top_up(database: Database, settings: AqvoltSettings) -> None:
    trace = str(Path.cwd() / "trace")
    report = submit(trivial_jobs.bulk(12, trace=trace), settings, window=4)
    assert report.submitted == 12
    assert states(settings) == {"READY": 4, "PAUSED": 8}
    launchpad = get_launchpad(settings)
    ready = [f["spec"]["_priority"] for f in launchpad.fireworks.find({"state": "READY"})]
    assert sorted(ready) == [80, 90, 100, 110], "the most important first"
    ids = [f["fw_id"] for f in launchpad.fireworks.find({"state": "READY"})]
    assert all(launchpad.workflows.find_one({"nodes": i})["state"] == "READY" for i in ids)
    assert queue.top_up(launchpad) == 0, "enough are ready"
    launchpad.resume_fw(1)  # by hand, as lpad does; it was behind the window
    assert work(settings, until_empty=True).completed == 12
    assert len(Path(trace).read_text().split()) == 12
    assert queue.behind_window(launchpad) is False
    assert {w["state"] for w in launchpad.workflows.find({})} == {"COMPLETED"}
    assert launchpad.fireworks.count_documents({queue.HELD_FIELD: {"$exists": True}}) == 0


def test_default_window_is_of_the_embedded_database(database: Database, settings: AqvoltSettings, monkeypatch) -> None:
    monkeypatch.setattr(queue, "EMBEDDED_WINDOW", 3)
    submit(trivial_jobs.bulk(5), settings)
    embedded = queue.is_embedded(get_launchpad(settings))
    assert states(settings) == ({"READY": 3, "PAUSED": 2} if embedded else {"READY": 5})
    submit(trivial_jobs.bulk(5), settings, window=0)
    assert states(settings) == {"READY": 5}, "the window was taken away"
