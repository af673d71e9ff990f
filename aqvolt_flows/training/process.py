"""One training as a process in a run folder of its own: started once, resumed if killed, recognized if done."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aqvolt_flows.aside import written_aside
from aqvolt_flows.errors import InputError
from aqvolt_flows.training.records import Recorder, read_records
from aqvolt_flows.training.stages import LOG, OFFLINE, PROGRESS, TrainingError, log_tail, only_one

CONFIG = "config.json"


def run_process(
    command: Sequence[str],
    folder: Path,
    config: Mapping[str, Any],
    weights: Path,
    environment: Mapping[str, str] | None = None,
    conclude: Callable[[], None] | None = None,
) -> Path:
    """Run a trainer's process in its folder until its weights are there, and return its ``progress.jsonl``.

    The process writes ``progress.jsonl`` (:mod:`aqvolt_flows.training.records`) and, before its ``end`` record, the
    weights. A second caller waits for the first.

    Parameters
    ----------
    command
        Program and arguments; the working directory is ``folder``.
    folder
        Run folder.
    config
        Plain values that decide the result; written to ``config.json``, and compared with what a folder was begun with.
    weights
        File that the process leaves.
    environment
        Variables to set.
    conclude
        Called after the process ended without error, e.g. to translate what it wrote.

    Raises
    ------
    InputError
        If the folder was begun with another configuration.
    TrainingError
        If the process fails, with the end of its log, or leaves no weights.
    """
    progress = folder / PROGRESS
    with only_one(folder) as lock:
        _same_config(folder, config)
        if _finished(progress) and weights.is_file():
            return progress
        if not progress.exists() or not _finished(progress):
            Recorder(progress).write("launch", 0)
        with (folder / LOG).open("ab") as log:
            done = subprocess.run(
                list(command),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=folder,
                env={**os.environ, **OFFLINE, **(environment or {})},
                pass_fds=(lock,),
                check=False,
            )
        if done.returncode == 0 and conclude is not None:
            conclude()
    if done.returncode != 0 or not (_finished(progress) and weights.is_file()):
        said = f"with code {done.returncode}" if done.returncode else "without an error but left no weights"
        steps = max((r["step"] for r in read_records(progress)), default=0)
        raise TrainingError(
            f"The trainer in {folder} ended {said} after {steps} steps; expected {weights.name}; the end of {LOG} says "
            f"why:\n{log_tail(folder / LOG)}"
        )
    return progress


def _finished(progress: Path) -> bool:
    events = [r["event"] for r in read_records(progress)]
    return "end" in events and "launch" not in events[events.index("end") :]


def _same_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the configuration, or raise if the folder was begun with another one."""
    file = folder / CONFIG
    wanted = json.loads(json.dumps(config))
    if not file.exists():
        with written_aside(file) as aside:
            aside.write_text(json.dumps(wanted, indent=1, sort_keys=True))
        return
    try:
        begun = json.loads(file.read_text())
    except ValueError:
        begun = {}
    different = sorted(k for k in begun.keys() | wanted.keys() if begun.get(k) != wanted.get(k))
    if different:
        first = different[0]
        raise InputError(
            f"The training in {folder} was begun with other values of {', '.join(different)} ({first} was "
            f"{begun.get(first)!r} and is now {wanted.get(first)!r}); remove the folder to train anew."
        )
