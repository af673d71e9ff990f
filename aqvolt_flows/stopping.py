"""Whether this process was asked to stop: long jobs look at it where they can write a checkpoint and end early.

The wish is an environment variable, because whoever asks (a worker's signal handler) and who looks (a stage in the
middle of a batch) know nothing of each other.
"""

from __future__ import annotations

import os

VARIABLE = "AQVOLT_STOP_WANTED"


def ask_to_stop() -> None:
    """Ask the job that runs in this process to end at its next checkpoint."""
    os.environ[VARIABLE] = "1"


def forget() -> None:
    """Take the wish back."""
    os.environ.pop(VARIABLE, None)


def stop_wanted() -> bool:
    """Return whether a job should write its checkpoint and end now."""
    return VARIABLE in os.environ
