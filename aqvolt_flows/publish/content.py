"""What of a folder is published: its files with sizes and hashes, and what card and manifest say of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from aqvolt_flows.errors import InputError

CARD = "README.md"
MANIFEST = "manifest.json"
#: What exported models have instead of a manifest: a list of hashes as sha256sum writes it, and what loads the weights.
HASHES, MODEL = "SHA256SUMS", "aqvolt_model.json"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class PublishedFile:
    """One file of a folder.

    Attributes
    ----------
    name
        Path in the folder, with ``/``.
    path
        Where it is.
    bytes
        Size.
    sha256, md5, git
        Hashes in hex: of the content, and git's of a blob.
    """

    name: str
    path: Path
    bytes: int
    sha256: str
    md5: str
    git: str


def read_file(name: str, path: Path) -> PublishedFile:
    """Return a file with its hashes, read once in blocks."""
    size = path.stat().st_size
    sha, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    git = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            for digest in (sha, md5, git):
                digest.update(block)
    return PublishedFile(name, path, size, sha.hexdigest(), md5.hexdigest(), git.hexdigest())


@dataclass(frozen=True)
class Content:
    """A folder that can be published.

    Attributes
    ----------
    folder
        Where it is.
    files
        All but hidden and lock files, in order of names.
    manifest
        What ``manifest.json`` says; empty without one.
    """

    folder: Path
    files: tuple[PublishedFile, ...]
    manifest: Mapping[str, Any]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(f.bytes for f in self.files)

    @property
    def identity(self) -> str:
        """What it is called: ``release_id``, ``model_id``, or the name of the folder."""
        return str(self.manifest.get("release_id") or self.manifest.get("model_id") or self.folder.name)

    @cached_property
    def content_hash(self) -> str:
        """The manifest's, or the SHA-256 over names and hashes of the files."""
        said = self.manifest.get("content_hash")
        lines = "".join(f"{f.name}\t{f.sha256}\n" for f in self.files)
        return str(said) if said else hashlib.sha256(lines.encode()).hexdigest()


def listed(folder: Path) -> dict[str, Path]:
    """Return name → path of the files that are published: all but hidden ones and LMDB's lock files."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(p.startswith(".") for p in name.split("/")) and not name.endswith("-lock"):
            found[name] = path
    return found


def read_content(folder: str | Path) -> Content:
    """Return a folder's content after comparing its files with its manifest, if it has one.

    Raises
    ------
    InputError
        If it is no folder, has no card, or differs from its manifest.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"There is no folder {root}; give the folder of a release or of an exported model.")
    if not (root / CARD).is_file():
        raise InputError(f"{root} has no {CARD}; what is published needs a card that says what it is.")
    manifest = read_manifest(root)
    files = tuple(read_file(name, path) for name, path in listed(root).items())
    faults = differences(manifest, files)
    if faults:
        raise InputError(f"{root} is not what its {MANIFEST} lists: {'; '.join(faults)}; restore it from a copy first.")
    return Content(root, files, manifest)


def read_manifest(root: Path) -> dict[str, Any]:
    """Return what the manifest of a folder says, or for an exported model its identity and the list of hashes.

    Raises
    ------
    InputError
        If it is broken; empty where there is none.
    """
    if (root / MANIFEST).is_file():
        return _json(root / MANIFEST)
    found: dict[str, Any] = {}
    if (root / MODEL).is_file():
        about = _json(root / MODEL)
        # not its content_hash, which is that of the release it learned from
        found |= {name: about[name] for name in ("model_id", "name", "license", "creator") if about.get(name)}
    if (root / HASHES).is_file():
        found["files"] = _hashes(root / HASHES)
    return found


def _hashes(path: Path) -> dict[str, dict[str, str]]:
    lines = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not all(len(words) == 2 and len(words[0]) == 64 for words in lines):
        raise InputError(f"{path} is not a list of SHA-256 hashes as sha256sum writes it; restore it from a copy.")
    return {name.lstrip("*"): {"sha256": digest} for digest, name in lines}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); restore it from a copy.") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} is not a JSON object; restore it from a copy.")
    return found


def differences(manifest: Mapping[str, Any], files: tuple[PublishedFile, ...]) -> list[str]:
    """Return one phrase for each file that a manifest lists otherwise; none where it lists no files."""
    said = manifest.get("files")
    if not isinstance(said, Mapping):
        return []
    present = {f.name: f for f in files if f.name not in {MANIFEST, HASHES}}
    faults = [f"{name} is missing" for name in said if name not in present]
    faults += [f"{name} is not listed" for name in present if name not in said]
    faults += [f"{n} was changed" for n, f in present.items() if n in said and said[n].get("sha256") != f.sha256]
    return sorted(faults)


def sized(number: int) -> str:
    """Return a number of bytes for people.

    Examples
    --------
    >>> sized(123), sized(4_500_000)
    ('123 B', '4.5 MB')
    """
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
