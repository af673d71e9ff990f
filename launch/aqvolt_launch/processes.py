"""Processes of this machine: which one is meant by a PID, and whether it is alive.

A PID alone may have been given to another process since. With the time at which the process started it
is unique; that time is taken from the kernel in ticks since boot, because times of day jump when clocks
are set, and a live worker must never look like another one.
"""

from __future__ import annotations

import os
import re
import socket
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    pass

#: Where there is no /proc, starts are seconds since 1970; clocks that are set may move them by so much.
_CLOCK_TOLERANCE_S = 3


def start_mark(pid: int) -> int:
    """Return when a process started: ticks since boot on Linux (proc(5), field 22 of stat), else seconds since 1970.

    Raises
    ------
    psutil.NoSuchProcess
        If there is none, or it is a zombie (ended, not yet reaped by its parent).
    """
    process = psutil.Process(pid)
    if process.status() == psutil.STATUS_ZOMBIE:
        raise psutil.ZombieProcess(pid)
    stat = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self/stat").exists():
        return int(process.create_time())
    try:
        return int(stat.read_text().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        raise psutil.NoSuchProcess(pid) from None


def is_alive(pid: int, mark: int) -> bool | None:
    """Return whether the process that had this PID and start still runs; None if that cannot be seen."""
    try:
        difference = abs(start_mark(pid) - mark)
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, OSError):
        return None
    return difference <= (0 if Path("/proc/self/stat").exists() else _CLOCK_TOLERANCE_S)


_NAME = re.compile(r"^aqvolt-(?P<host>.+)-(?P<pid>\d+)-(?P<start>\d+)$")


@cache
def host_name() -> str:
    """Return this machine's name as worker names carry it."""
    return socket.gethostname() or "localhost"


def worker_name() -> str:
    """Return the name of a worker in this process: host, PID, and when it started."""
    return f"aqvolt-{host_name()}-{os.getpid()}-{start_mark(os.getpid())}"


def is_ours(name: str) -> bool:
    """Return whether a worker's name is one that ``aqvolt work`` gives itself, on whatever machine."""
    return _NAME.match(name) is not None


def is_dead(name: str) -> bool | None:
    """Return whether the worker of this name is gone; None if it cannot be judged from here."""
    match = _NAME.match(name)
    if match is None or match["host"] != host_name():
        return None
    alive = is_alive(int(match["pid"]), int(match["start"]))
    return None if alive is None else not alive
