"""VASP's processes: none outlives its job, and none is left when its run is over.

Custodian starts VASP in a session of its own and ends that session's process group when it stops a run. Two ways to
a ghost are left (custodian#208, #410, #414): the job's own process is killed, and ranks survive their launcher.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import psutil

#: Seconds that a leftover process has to end by itself after SIGTERM.
GRACE_S = 5.0
#: By this variable a process tells for which run's folder it was started.
RUN_VARIABLE = "AQVOLT_RUN_FOLDER"


@cache
def _leash() -> tuple[str, ...]:
    """Return the prefix that lets a command end with its parent: util-linux' setpriv, where there is one that can."""
    found = shutil.which("setpriv")
    if found is None:
        return ()
    prefix = (found, "--pdeathsig", "TERM")
    try:
        done = subprocess.run([*prefix, "true"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return prefix if done.returncode == 0 else ()


def leashed(command: str) -> str:
    """Return the command such that the kernel sends it SIGTERM when the process that started it dies, however it dies.

    ``srun`` and ``mpirun`` end their ranks on SIGTERM. Where setpriv is missing (macOS) the command is returned as it
    is, and a VASP whose job was killed with SIGKILL runs to its end.
    """
    prefix = _leash()
    return " ".join([*prefix, command]) if prefix else command


@contextlib.contextmanager
def marked(folder: Path) -> Iterator[None]:
    """Let every process that is started meanwhile carry the folder's name in its environment, ranks included."""
    before = os.environ.get(RUN_VARIABLE)
    os.environ[RUN_VARIABLE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[RUN_VARIABLE]
        else:
            os.environ[RUN_VARIABLE] = before


def end_leftovers(folder: Path) -> list[int]:
    """End what a run started in a folder (:func:`marked`) and is still there, and return the PIDs.

    Called when the run is over. Processes without the mark, such as a shell in which somebody looks at the files, stay.
    """
    found = [process for process in psutil.process_iter() if _started_for(process, folder)]
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(found, timeout=GRACE_S) if found else ([], [])
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    if alive:
        psutil.wait_procs(alive, timeout=GRACE_S)
    return [process.pid for process in found]


def _started_for(process: psutil.Process, folder: Path) -> bool:
    if process.pid == os.getpid():
        return False
    try:
        return process.environ().get(RUN_VARIABLE) == str(folder)
    except (psutil.Error, OSError):  # another user's, or gone meanwhile
        return False
