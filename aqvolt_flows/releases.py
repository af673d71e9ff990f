"""Where the folder of a release is on this machine: the release root, or a copy fetched from the artifact store.

A release is written under the release root and its files go into the artifact store, where every machine finds them.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aqvolt_flows.artifacts import ArtifactStore
from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.schemas.release import ReleaseFile
from aqvolt_flows.stores import Database


def store_folder(artifacts: ArtifactStore, folder: str | Path) -> list[ReleaseFile]:
    """Put every file of a release folder into the artifact store and return what is where, in order of names.

    Hidden files and the lock files of LMDB stay out; a file that is stored already is not stored again.
    """
    root = Path(folder)
    found = []
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        name = path.relative_to(root).as_posix()
        if not any(part.startswith(".") for part in name.split("/")) and not name.endswith("-lock"):
            suffix = "".join(path.suffixes).lstrip(".") or "file"
            found.append(ReleaseFile(name=name, artifact=artifacts.put_file(path, suffix)))
    return found


def release_path(database: Database, release: Mapping[str, Any]) -> Path:
    """Return where the folder of a release belongs on this machine, whether or not it is there."""
    return _inside(database.settings.path(database.settings.release_root), str(release["path"]))


def _inside(folder: Path, name: str) -> Path:
    """Return a path below a folder; a document may not name another place of this machine.

    Raises
    ------
    InputError
        If it would lie elsewhere.
    """
    path = Path(os.path.normpath(folder / name))
    if "\0" in name or not path.is_relative_to(folder) or path == folder:
        raise InputError(f"A release names {name[:100]!r}, which is not below {folder}; correct its document.")
    return path


def release_folder(database: Database, release: Mapping[str, Any]) -> Path:
    """Return the folder of a release; where it is not on this machine its files are fetched from the artifact store.

    Parameters
    ----------
    database
        Names the release root and the artifact store.
    release
        Document of ``releases``, at least ``path``, ``release_id`` and ``files``.

    Raises
    ------
    ResourceError
        If neither this machine nor the artifact store has it.
    """
    folder = release_path(database, release)
    if folder.is_dir():
        return folder
    files = release.get("files") or []
    if not files:
        raise ResourceError(
            f"Release {release['release_id']} is not at {folder} and has no files in the artifact store; copy the "
            "folder there, or create the release again."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
    try:
        for file in files:
            database.artifacts.copy_out(ArtifactRef(**file["artifact"]), _inside(aside, str(file["name"])))
        if not folder.is_dir():  # another process may have been first
            aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def latest_release(database: Database, name: str) -> dict[str, Any] | None:
    """Return the newest release of a name, or None."""
    return database.own("releases").find_one({"name": name}, {"_id": 0}, sort=[("last_updated", -1)])
