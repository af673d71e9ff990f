"""What the log of a worker tells, and what it must not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version

import pytest
import trivial_jobs
from pymongo import MongoClient

from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_flows.work import WorkItem
from aqvolt_launch.submission.submit import submit
from aqvolt_launch.workers import spawn_worker

PASSWORD = "s3cret-of-ann"


@pytest.fixture
def uri_with_password(mongo_uri: str) -> Iterator[str]:
    """The test server's address with a user and a password, with which it answers."""
    with MongoClient(mongo_uri) as client:
        client.admin.command("createUser", "ann", pwd=PASSWORD, roles=["root"])
        yield f"mongodb://ann:{PASSWORD}@{mongo_uri.removeprefix('mongodb://').rpartition('@')[2]}"
        client.admin.command("dropUser", "ann")


def test_the_log_of_a_worker_names_versions_jobs_and_no_password(
    database: Database, settings: AqvoltSettings, uri_with_password: str
) -> None:
    flag = settings.path("flag")
    flag.touch()
    fails = WorkItem("sample", "key-fails", "fails", lambda: trivial_jobs.fail_while(str(flag)))
    submit([trivial_jobs.add_item(1, priority=2), fails], settings)
    worker = spawn_worker(settings.model_copy(update={"mongo_uri": uri_with_password}))
    assert worker.wait(timeout=120) == 0
    log = (settings.path(settings.launch_dir) / "workers.log").read_text()
    for package in ("aqvolt-flows", "jobflow", "fireworks", "atomate2", "pymatgen-core"):
        assert f"{package} {version(package)}" in log
    (name,) = re.findall(r"Worker (\S+) starts: all categories; ", log)
    assert f"-{worker.pid}-" in name
    taken, ended = r"Took Firework \d+ '{}' \({}\), launch \d+\.", r"Firework \d+ '{}' \({}\) ended {} after [\d.]+ s\."
    lines = [
        taken.format("add", "explore key-1"),
        ended.format("add", "explore key-1", "COMPLETED"),
        taken.format("fail_while", "sample key-fails"),
        ended.format("fail_while", "sample key-fails", "FIZZLED"),
        rf"Worker {re.escape(name)} ends: 1 completed, 1 fizzled, [\d.]+ s\.",
    ]
    places = [found.start() for line in lines if (found := re.search(line, log))]
    assert len(places) == len(lines), log
    assert places == sorted(places), "in this order"
    assert re.search(r"Database mongodb://\S+, launch folder ", log)
    assert PASSWORD not in log
