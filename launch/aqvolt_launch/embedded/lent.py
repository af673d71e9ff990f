"""An embedded database that a command started for itself: whoever comes after its death knows that nobody needs it.

A note beside the server's record names the process that will stop the server. ``aqvolt db start`` removes the note,
because then somebody wants the server to stay.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from aqvolt_flows.settings import AqvoltSettings
from aqvolt_launch.processes import is_alive, start_mark


def _note(settings: AqvoltSettings) -> Path:
    return settings.path(settings.database_dir) / "lent.json"


def lend(settings: AqvoltSettings) -> None:
    """Note that this process stops the server when it ends."""
    with contextlib.suppress(OSError):
        _note(settings).write_text(json.dumps({"pid": os.getpid(), "mark": start_mark(os.getpid())}))


def keep(settings: AqvoltSettings) -> None:
    """Note that the server stays, whoever started it."""
    _note(settings).unlink(missing_ok=True)


def left_behind(settings: AqvoltSettings) -> bool:
    """Return whether the process that was to stop the server has ended without doing so."""
    try:
        found = json.loads(_note(settings).read_text())
        return is_alive(int(found["pid"]), int(found["mark"])) is False
    except (OSError, ValueError, KeyError, TypeError):
        return False
