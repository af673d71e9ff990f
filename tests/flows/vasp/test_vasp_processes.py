"""No VASP outlives its job."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from aqvolt_flows.vasp.processes import end_leftovers, leashed


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


def test_processes_left_in_a_folder_are_ended_and_others_are_not(tmp_path: Path):
    (tmp_path / "run").mkdir()
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_DFL); time.sleep(60)"
    here = subprocess.Popen([sys.executable, "-c", stubborn], cwd=tmp_path / "run", start_new_session=True)
    beside = subprocess.Popen([sys.executable, "-c", stubborn], cwd=tmp_path)
    try:
        assert end_leftovers(tmp_path / "run") == [here.pid]
        assert gone(here.pid)
        assert beside.poll() is None
        assert end_leftovers(tmp_path / "run") == []
    finally:
        for process in (here, beside):
            process.kill()
            process.wait()
