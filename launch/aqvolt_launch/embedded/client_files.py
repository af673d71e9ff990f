"""FireWorks' LaunchPad file of the embedded database, with the password: ``lpad`` and ``rlaunch`` read no other way."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import yaml

from aqvolt_flows.settings import AqvoltSettings

_WAIT_MS = 10_000


def launchpad_file(settings: AqvoltSettings) -> Path:
    """Return where it is: in the database's folder, which only its owner can enter."""
    return settings.path(settings.database_dir) / "my_launchpad.yaml"


def write_launchpad_file(settings: AqvoltSettings, uri: str) -> None:
    """Write it, readable by its owner only; the address may have changed with a start."""
    values = {
        "uri_mode": True,
        "host": uri,
        "name": settings.database,
        "logdir": None,
        "strm_lvl": "ERROR",
        "user_indices": [],
        "wf_user_indices": [],
        "mongoclient_kwargs": {"serverSelectionTimeoutMS": _WAIT_MS, "connectTimeoutMS": _WAIT_MS},
    }
    text = "# Made by 'aqvolt db start'; holds the password.\n" + yaml.safe_dump(values, sort_keys=False)
    path = launchpad_file(settings)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as handle:
        handle.write(text)
    aside.replace(path)
