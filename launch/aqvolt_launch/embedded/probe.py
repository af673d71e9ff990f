"""Whether the embedded database answers and takes writes, and whether there is space for them.

After a full disk WiredTiger stops all writes for good while the server still answers pings, so a ping says little.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

#: WiredTiger writes its journal in files of 10 MB and a checkpoint beside the data, bytes.
NEEDED_BYTES = 64 * 1024 * 1024
#: What :func:`refuses_writes` says begins so where no server spoke.
SILENT = "no answer"


def answers(uri: str, timeout_s: float) -> bool:
    """Return whether a server answers a ping, and knows the user and password of the URI."""
    milliseconds = int(timeout_s * 1000)
    try:
        with MongoClient[dict[str, Any]](
            uri, serverSelectionTimeoutMS=milliseconds, connectTimeoutMS=milliseconds, socketTimeoutMS=4 * milliseconds
        ) as client:
            client.admin.command("ping")
    except PyMongoError:
        return False
    return True


def refuses_writes(uri: str, timeout_s: float = 10.0) -> str:
    """Return what a server says to one small write; empty where it takes it, and :data:`SILENT` … where none speaks."""
    milliseconds = int(timeout_s * 1000)
    try:
        with MongoClient[dict[str, Any]](
            uri,
            serverSelectionTimeoutMS=milliseconds,
            connectTimeoutMS=milliseconds,
            socketTimeoutMS=2 * milliseconds,
            retryWrites=False,
        ) as client:
            probe = client.get_default_database()["aqvolt_probe"]
            probe.update_one({"_id": "write"}, {"$inc": {"n": 1}}, upsert=True)
    except OperationFailure as error:  # also of a server too broken to look up a user
        return str((error.details or {}).get("errmsg") or error)[:200]
    except PyMongoError as error:
        return f"{SILENT} ({type(error).__name__})"
    return ""


def free_space_fault(folder: Path, needed: int = NEEDED_BYTES) -> str:
    """Return a sentence if there is too little space below a folder (which need not exist yet); else nothing."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free >= needed:
        return ""
    return (
        f"{free / 2**20:.0f} MiB are free on the disk of {os.fspath(folder)}, {needed / 2**20:.0f} MiB are needed; "
        "free space, then run 'aqvolt db start'."
    )
