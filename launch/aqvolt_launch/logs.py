"""Where log lines go: one place that configures Python's logging for our packages, and nothing else's."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

from aqvolt_flows.errors import ConfigError

#: The variable that sets the level where ``--log-level`` does not.
VARIABLE = "AQVOLT_LOG_LEVEL"
LEVELS = ("debug", "info", "warning", "error")
_OURS = ("aqvolt_flows", "aqvolt_builders", "aqvolt_launch")
_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def configure(level: str | None = None) -> None:
    """Send log lines of our packages to standard error from a level on.

    Parameters
    ----------
    level
        One of :data:`LEVELS`; None: that of ``AQVOLT_LOG_LEVEL``, or warning.

    Raises
    ------
    ConfigError
        If there is no such level.
    """
    chosen = (level or os.environ.get(VARIABLE) or "warning").lower()
    if chosen not in LEVELS:
        source = "--log-level" if level else VARIABLE
        raise ConfigError(f"{source} is {chosen!r}; expected {', '.join(LEVELS)}.")
    for name in _OURS:
        logger = logging.getLogger(name)
        logger.setLevel(chosen.upper())
        if not any(isinstance(handler, _Lines) for handler in logger.handlers):
            logger.addHandler(_Lines())


class _Lines(logging.StreamHandler):  # type: ignore[type-arg]
    """Lines on the standard error that the process was started with, also while a job's output goes to its folder."""

    def __init__(self) -> None:
        try:
            stream: TextIO = os.fdopen(os.dup(2), "w", buffering=1)
        except OSError:  # there is none, as in some notebooks
            stream = sys.stderr
        super().__init__(stream)
        self.setFormatter(logging.Formatter(_FORMAT, "%Y-%m-%d %H:%M:%S"))
