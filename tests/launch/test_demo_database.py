"""The demo's database: it ends with the demo, also with the second one where the first was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from in_process import command_of
from waiting import wait_for

from aqvolt_flows.settings import AqvoltSettings, load_settings
from aqvolt_launch.cli import database as database_commands
from aqvolt_launch.demo import database_for
from aqvolt_launch.embedded import server as embedded

KILLED = """
import time
from pathlib import Path
from aqvolt_flows.settings import load_settings
from aqvolt_launch.demo import database_for
with database_for(load_settings()):
    Path("inside").touch()
    time.sleep(60)
"""


@pytest.fixture
def left(project: Path) -> AqvoltSettings:
    """Settings of a folder whose demo was killed while its database ran."""
    process = subprocess.Popen([sys.executable, "-c", KILLED])
    wait_for((project / "inside").exists)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return load_settings()


def test_a_second_demo_stops_what_a_killed_one_left(left: AqvoltSettings) -> None:
    before = embedded.status(left)
    assert before.running, "nobody could stop it"
    with database_for(left) as pids:
        assert pids == [before.pid], "the same server"
    assert not embedded.status(left).running


def test_one_that_somebody_wants_stays(left: AqvoltSettings) -> None:
    try:
        command_of(database_commands)("db", "start")
        with database_for(left):
            pass
        assert embedded.status(left).running
    finally:
        embedded.stop(left)


def test_one_of_a_demo_that_runs_stays_with_it(project: Path) -> None:
    settings = load_settings()
    with database_for(settings):
        with database_for(settings):
            pass
        assert embedded.status(settings).running
    assert not embedded.status(settings).running
