"""The trainer as a child process: its log, the lock it inherits, and signals that are passed on to it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

logger = logging.getLogger(__name__)

#: Seconds since the epoch at which the trainer must have ended; in the trainer's environment.
STOP_AT = "AQVOLT_TRAINER_STOP_AT"


def run_trainer(command: Sequence[str], folder: Path, log: BinaryIO, environment: Mapping[str, str], lock: int) -> int:
    """Run a trainer to its end and return its exit code.

    A SIGTERM to this process is passed on: the trainer writes its checkpoint, and only when it has ended does this
    process die of the signal, as it would have at once. Who watches it sees a killed worker, and the next one goes on
    from the checkpoint.

    Parameters
    ----------
    command
        To start it.
    folder
        Where it runs.
    log
        Its output and errors.
    environment
        All of its variables.
    lock
        File descriptor that it inherits.
    """
    trainer = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=folder, env=environment,
        pass_fds=(lock,),
    )  # fmt: skip
    try:
        with _passed_on(trainer):
            return trainer.wait()
    except BaseException:
        trainer.terminate()
        raise


@contextmanager
def _passed_on(trainer: subprocess.Popen[bytes]) -> Iterator[None]:
    """Pass SIGTERM on to the trainer while the block runs; afterwards die of it."""
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's alone
        yield
        return
    received: list[int] = []

    def pass_on(number: int, _frame: Any) -> None:
        received.append(number)
        logger.warning("SIGTERM: waiting for the trainer to write its checkpoint.")
        trainer.send_signal(number)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
        if received:
            os.kill(os.getpid(), signal.SIGTERM)
