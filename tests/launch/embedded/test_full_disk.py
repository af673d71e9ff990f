"""A disk that fills up under the embedded database, for real: a small tmpfs, where the tests may mount one."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trivial_jobs
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from aqvolt_flows.errors import DatabaseError
from aqvolt_flows.settings import AqvoltSettings, load_settings
from aqvolt_flows.stores import Database, close_clients
from aqvolt_launch import patience
from aqvolt_launch.embedded import server as embedded
from aqvolt_launch.embedded.probe import free_space_fault, refuses_writes
from aqvolt_launch.launchpad import close_launchpads
from aqvolt_launch.submission import holds
from aqvolt_launch.submission.submit import submit
from aqvolt_launch.workers import work

SIZE_MB = 160


@pytest.fixture
def small(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AqvoltSettings]:
    """Settings whose database lies on a disk of its own of 160 MB."""
    disk = project / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a small disk")
    monkeypatch.setenv("AQVOLT_JOB_PACKAGES", "trivial_jobs")
    monkeypatch.setenv("AQVOLT_DATABASE_DIR", str(disk / "db"))
    settings = load_settings()
    try:
        yield settings
    finally:
        embedded.stop(settings)
        close_clients()
        close_launchpads()
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Fill a disk with one file, so that nothing is free."""
    ballast = disk / "ballast"
    with ballast.open("wb") as handle:
        while True:
            try:
                handle.write(b"x" * 65536)
                handle.flush()
            except OSError:
                return ballast


def break_it(settings: AqvoltSettings) -> None:
    """Write until the server takes no more."""
    with MongoClient(settings.database_uri(), retryWrites=False, socketTimeoutMS=20000) as client:
        for _ in range(3000):
            try:
                client.get_default_database()["filler"].insert_one({"x": os.urandom(200_000)})
            except PyMongoError:
                return
    raise AssertionError("the disk never became full")


def test_a_full_disk_is_said_and_with_space_again_nothing_is_lost(small: AqvoltSettings) -> None:
    embedded.start(small)
    database = Database.connect(small)
    database.mongo["kept"].insert_many([{"n": n} for n in range(100)])
    ballast = fill(small.path("disk"))
    break_it(small)
    assert refuses_writes(small.database_uri())
    found = embedded.status(small)
    assert not found.answers
    assert "MiB are free on the disk" in str(found.note)
    with pytest.raises(DatabaseError, match=r"refuses writes .* free space, then run 'aqvolt db start'|MiB are free"):
        embedded.start(small)
    ballast.unlink()
    again = embedded.start(small)
    assert again.answers
    close_clients()
    assert sorted(d["n"] for d in Database.connect(small).mongo["kept"].find()) == list(range(100))
    Database.connect(small).mongo["kept"].insert_one({"n": 100})


def test_a_worker_waits_for_space_and_goes_on(small: AqvoltSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.2)
    monkeypatch.setattr(patience, "LONGEST_WAIT_S", 0.5)
    monkeypatch.setattr(patience, "NEEDED_BYTES", 32 * 2**20)
    embedded.start(small)
    submit([trivial_jobs.add_item(n) for n in range(3)], small)
    freed: list[float] = []
    enforce = holds.enforce

    def free(ballast: Path) -> None:
        time.sleep(3)
        ballast.unlink()
        freed.append(time.monotonic())

    def at_first_fill_the_disk(*args: Any, **kwargs: Any) -> None:
        if not freed and not list(small.path("disk").glob("ballast")):
            ballast = fill(small.path("disk"))
            break_it(small)
            threading.Thread(target=free, args=(ballast,)).start()
        enforce(*args, **kwargs)

    monkeypatch.setattr(holds, "enforce", at_first_fill_the_disk)
    report = work(small, until_empty=True)
    assert report.completed == 3
    assert time.monotonic() >= freed[0], "it waited"


def test_too_little_space_is_said_before_the_start(small: AqvoltSettings) -> None:
    fill(small.path("disk"))
    assert "MiB are free on the disk of" in free_space_fault(small.path("disk") / "not" / "there")
    with pytest.raises(DatabaseError, match=r"is not started: .*free space, then run 'aqvolt db start'"):
        embedded.start(small)
