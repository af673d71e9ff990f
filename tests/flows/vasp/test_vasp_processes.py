"""No VASP outlives its job."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from aqvolt_flows.vasp.processes import RUN_VARIABLE, end_leftovers, leashed, marked


def gone(pid: int, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="util-linux' setpriv is not here")
def test_a_leashed_command_dies_with_the_process_that_started_it():
    """As custodian starts VASP: in a session of its own, which no signal to the parent's group reaches."""
    program = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen({leashed('sleep 60').split()!r}, start_new_session=True)\n"
        "print(child.pid, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    end = time.monotonic() + 30
    while psutil.Process(pid).name() != "sleep":  # setpriv has done its part when it has become the command
        assert time.monotonic() < end
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(pid)


def test_what_a_run_left_is_ended_and_a_shell_in_its_folder_is_not(tmp_path: Path):
    """A rank in a session of its own, and somebody who looks at the files meanwhile."""
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    with marked(tmp_path):
        rank = subprocess.Popen(sleep, cwd="/", start_new_session=True)
    somebody = subprocess.Popen(sleep, cwd=tmp_path)
    try:
        assert RUN_VARIABLE not in os.environ
        assert end_leftovers(tmp_path) == [rank.pid]
        assert gone(rank.pid)
        assert somebody.poll() is None
        assert end_leftovers(tmp_path) == []
    finally:
        for process in (rank, somebody):
            process.kill()
            process.wait()
