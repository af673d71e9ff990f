"""Checkpoints by path load only if their hash is known: written behind the path, trusted by the user, or in ``models``.

A hash is written as ``fairchem:PATH@sha256:HASH``, or kept in the user's list of trusted models
(``aqvolt model trust PATH``), a file that only the user can write. The collection ``models`` holds the hashes of what
was trained here.
"""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from aqvolt_flows.errors import AqvoltError, ResourceError

#: Length of a SHA-256 in hexadecimal digits.
_DIGITS = 64


def trust_file() -> Path:
    """Return where the user's list is: ``aqvolt/trusted_models.txt`` below ``XDG_CONFIG_HOME`` or ``~/.config``."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "aqvolt" / "trusted_models.txt"


def trusted_hashes() -> dict[str, str]:
    """Return SHA-256 → what was said with it (date and path) of the user's list; empty without one.

    Raises
    ------
    ResourceError
        If somebody else can write the list, or it cannot be read.
    """
    path = trust_file()
    try:
        about = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ResourceError(f"{path} cannot be read ({error.strerror}); make it readable to you.") from None
    if about.st_uid not in {0, os.geteuid()} or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ResourceError(
            f"{path} can be written by others, so nothing in it is trusted; make it yours alone with "
            f"'chown $USER {path}; chmod 600 {path}' after looking through its lines."
        )
    known: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, said = line.strip().partition(" ")
        if len(digest) == _DIGITS and set(digest) <= set("0123456789abcdef"):
            known[digest] = said.strip()
    return known


def trust(digest: str, path: Path) -> bool:
    """Add a hash to the user's list; return whether it was new.

    Parameters
    ----------
    digest
        SHA-256 of the file, or of the folder's members.
    path
        Where it was seen, for whoever reads the list.

    Raises
    ------
    ResourceError
        If the list cannot be written, or others can.
    """
    known = trusted_hashes()
    if digest in known:
        return False
    target = trust_file()
    said = " ".join(str(path.resolve()).split())
    lines = [f"{d} {words}".rstrip() for d, words in known.items()]
    lines.append(f"{digest} {datetime.now(UTC).date().isoformat()} {said}")
    aside = target.with_name(f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as handle:
            handle.write("\n".join(lines) + "\n")
        aside.replace(target)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise ResourceError(f"{target} cannot be written ({error.strerror}); set XDG_CONFIG_HOME.") from None
    return True


def is_trusted(digest: str) -> bool:
    """Return whether the user's list or the collection ``models`` of the settings holds a hash."""
    return digest in trusted_hashes() or _in_models(digest)


def _in_models(digest: str) -> bool:
    """Return whether a model that was trained here has this checkpoint; False where no database answers."""
    from pymongo.errors import PyMongoError

    from aqvolt_flows.stores import Database

    query: Mapping[str, object] = {"checkpoint.sha256": digest, "status": "trained"}
    try:
        return Database.connect()["models"].find_one(dict(query), {"_id": 1}) is not None
    except (AqvoltError, PyMongoError):
        return False
