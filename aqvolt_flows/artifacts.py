"""The artifact store: arrays live in files named by their content, MongoDB keeps the pointer.

A file's address is ``sha256/ab/abcdef….suffix`` under one root, a folder by default and any
``fsspec`` URL (``s3://…``) when configured. Storing the same bytes twice stores them once; a file is
written aside and renamed, so that a killed process leaves no half file under a valid address.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec

from aqvolt_flows.aside import written_aside
from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.identity import file_sha256
from aqvolt_flows.schemas.provenance import ArtifactRef

#: Bytes that stay free on a local disk when a file is stored, so that databases and logs beside it can go on.
SPARE_BYTES = 64 * 1024 * 1024
_BLOCK = 4 * 1024 * 1024
_ADDRESS = re.compile(r"^sha256/[0-9a-f]{2}/(?P<digest>[0-9a-f]{64})(\.[A-Za-z0-9.]+)?$")


class ArtifactStore:
    """A content-addressed store of files.

    Parameters
    ----------
    root
        A folder, or any URL that ``fsspec`` understands.
    cache
        Where files of a remote root are kept once fetched; ignored for a local root.
    """

    def __init__(self, root: str | Path, cache: str | Path | None = None) -> None:
        self.root = str(root)
        filesystem, path = fsspec.core.url_to_fs(self.root)
        self._fs: Any = filesystem
        self._path = str(path).rstrip("/")
        self._local = "file" in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,))
        self._cache = Path(cache) if cache else Path(tempfile.gettempdir()) / "aqvolt-artifact-cache"

    def put_file(self, path: str | Path, format: str) -> ArtifactRef:
        """Store a file and return its pointer; the given file stays where it is.

        Parameters
        ----------
        path
            The file to store.
        format
            What the file is, used as suffix: ``"parquet"``, ``"npz"``, ``"tar.gz"`` …
        """
        source = Path(path)
        digest = file_sha256(source)
        ref = ArtifactRef(sha256=digest, format=format, bytes=source.stat().st_size)
        target = f"{self._path}/{ref.path}"
        if not (self._fs.exists(target) and self._fs.size(target) == ref.bytes):
            aside = f"{target}.{uuid.uuid4().hex}.part"
            self._check_space(ref.bytes)
            try:
                self._fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
                self._fs.put_file(str(source), aside)
                self._fs.mv(aside, target)
            except OSError as error:
                with contextlib.suppress(OSError):
                    self._fs.rm_file(aside)
                raise ResourceError(
                    f"The artifact store at {self.root} cannot be written ({error}); free space or set artifact_root "
                    "to a place that can."
                ) from error
        return ref

    def _check_space(self, needed: int) -> None:
        """Raise :class:`ResourceError` before a file is written that would fill a local disk."""
        if not self._local:
            return
        folder = Path(self._path)
        free = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
        if free < needed + SPARE_BYTES:
            raise ResourceError(
                f"The artifact store at {self.root} has {free / 2**20:.0f} MiB free, and {needed / 2**20:.1f} MiB are "
                "to be written beside a reserve; free space or set artifact_root to another place."
            )

    def damaged(self) -> Iterator[tuple[str, str]]:
        """Yield path and fault of every stored file whose bytes are not those that its address says; reads them all.

        Files that a killed process left half-written are named, too; they are under no valid address and harmless.
        """
        for path in sorted(self._fs.find(self._path)):
            inside = str(path).removeprefix(self._path).lstrip("/")
            parts = inside.split("/")
            named = _ADDRESS.match(inside)
            if parts[0] != "sha256":
                continue
            if inside.endswith(".part"):
                yield inside, "left half-written by a killed process; it can be removed"
            elif named is None or named["digest"][:2] != parts[1]:
                yield inside, "its name is no address; somebody put it there"
            else:
                seen = self._digest(path)
                if seen != named["digest"]:
                    yield inside, f"its bytes hash to {seen[:12]}…; restore it from a copy"

    def count(self) -> int:
        """Return how many files are stored."""
        return sum(1 for path in self._fs.find(self._path) if "/sha256/" in f"/{path}")

    def _digest(self, path: str) -> str:
        digest = hashlib.sha256()
        try:
            with self._fs.open(path, "rb") as handle:
                while block := handle.read(_BLOCK):
                    digest.update(block)
        except OSError as error:
            return f"nothing ({error.strerror or error})"
        return digest.hexdigest()

    def put_bytes(self, data: bytes, format: str) -> ArtifactRef:
        """Store ``data`` and return its pointer."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "data"
            path.write_bytes(data)
            return self.put_file(path, format)

    def local_path(self, ref: ArtifactRef) -> Path:
        """Return a path of this machine at which the file can be read, fetching it once if it is remote."""
        if self._local:
            path = Path(self._path) / ref.path
        else:
            path = self._cache / ref.path
            if not path.exists() and self._fs.exists(f"{self._path}/{ref.path}"):
                with written_aside(path) as aside:
                    self._fs.get_file(f"{self._path}/{ref.path}", str(aside))
        if not path.exists():
            raise ResourceError(
                f"Artifact {ref.path} is not in the store at {self.root}; point artifact_root at the store that the "
                "document was written with."
            )
        return path

    def exists(self, ref: ArtifactRef) -> bool:
        """Return whether the store holds the file with its full size."""
        target = f"{self._path}/{ref.path}"
        return bool(self._fs.exists(target) and self._fs.size(target) == ref.bytes)

    def verify(self, ref: ArtifactRef) -> None:
        """Raise :class:`InputError` unless the stored bytes still have the pointer's hash."""
        seen = file_sha256(self.local_path(ref))
        if seen != ref.sha256:
            raise InputError(
                f"Artifact {ref.path} was changed: its bytes hash to {seen[:12]}…, its address says "
                f"{ref.sha256[:12]}…; restore it from a copy."
            )

    def copy_out(self, ref: ArtifactRef, target: str | Path) -> Path:
        """Copy a stored file to ``target`` (written aside, then renamed) and return the target."""
        path = Path(target)
        with written_aside(path) as aside:
            shutil.copyfile(self.local_path(ref), aside)
        return path
