"""VASP's processes: none outlives its job, and none is left in a folder that a run has ended in.

Custodian starts VASP in a session of its own and ends that session's process group when it stops a run. Two ways to
a ghost are left (custodian#208, #410, #414): the job's own process is killed, and ranks survive their launcher.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from functools import cache
from pathlib import Path

import psutil

#: Seconds that a leftover process has to end by itself after SIGTERM.
GRACE_S = 5.0


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


def end_leftovers(folder: Path) -> list[int]:
    """End processes of ours that still work in a folder, and return their PIDs; called when its run is over."""
    found = [process for process in psutil.process_iter() if _works_in(process, folder)]
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


def _works_in(process: psutil.Process, folder: Path) -> bool:
    if process.pid == psutil.Process().pid:
        return False
    try:
        return Path(process.cwd()) == folder
    except (psutil.Error, OSError):  # another user's, or gone meanwhile
        return False
