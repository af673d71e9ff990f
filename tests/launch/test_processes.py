"""Which process is meant by a PID and a start."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from aqvolt_launch import processes
from aqvolt_launch.processes import is_alive, start_mark


def test_a_process_is_known_by_pid_and_start() -> None:
    first = start_mark(os.getpid())
    assert start_mark(os.getpid()) == first
    assert is_alive(os.getpid(), first) is True
    assert is_alive(os.getpid(), first - 10) is False


def test_start_does_not_move_with_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    first = start_mark(os.getpid())
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: time.time() - 1e6)  # as after a clock was set
    assert start_mark(os.getpid()) == first


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ticks since boot are Linux'")
def test_start_agrees_with_psutil() -> None:
    seconds = start_mark(os.getpid()) / os.sysconf("SC_CLK_TCK") + psutil.boot_time()
    assert seconds == pytest.approx(psutil.Process().create_time(), abs=2)


def test_ended_processes_are_dead_before_they_are_reaped() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        mark = start_mark(child.pid)
        assert is_alive(child.pid, mark)
        child.kill()
        end = time.monotonic() + 10
        while is_alive(child.pid, mark):  # a zombie, as nobody has waited for it
            assert time.monotonic() < end
            time.sleep(0.01)
        assert psutil.pid_exists(child.pid)
    with pytest.raises(psutil.NoSuchProcess):
        start_mark(child.pid)


def test_launches_of_other_hosts_and_of_reused_pids() -> None:
    own = processes.worker_name()
    host, pid, start = processes.host_name(), os.getpid(), start_mark(os.getpid())
    assert processes.is_dead(own) is False
    assert processes.is_dead(f"aqvolt-{host}-{pid}-{start - 1000}") is True, "another process had this PID"
    assert processes.is_dead(f"aqvolt-elsewhere-{pid}-{start - 1000}") is None
    assert processes.is_dead("my fworker") is None
    assert processes.is_dead(f"aqvolt-{host}-{2**22 + 1}-{start}") is True, "above Linux' largest PID"
