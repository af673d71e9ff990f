"""A folder as a release is: card, manifest with hashes, files in folders."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def make(root: Path) -> Path:
    """Make a folder with a large file, one in a deeper folder, a lock file and a hidden one."""
    (root / "data").mkdir(parents=True)
    (root / "exports" / "lmdb" / "train").mkdir(parents=True)
    (root / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# halides\n")
    (root / "data" / "train.parquet").write_bytes(b"PAR1" + bytes(range(256)) * 40)
    (root / "data" / "val.parquet").write_bytes(b"PAR1" + b"\7" * 5000)
    (root / "exports" / "lmdb" / "train" / "data.0000.aselmdb").write_bytes(b"\1" * 3000)
    (root / "exports" / "lmdb" / "train" / "data.0000.aselmdb-lock").write_bytes(b"lock")
    (root / ".hidden").write_text("x")
    seal(root)
    return root


def seal(root: Path) -> None:
    names = sorted(
        p.relative_to(root).as_posix()
        for p in root.rglob("*")
        if p.is_file() and p.name not in {"manifest.json", ".hidden"} and not p.name.endswith("-lock")
    )
    files = {n: {"sha256": hashlib.sha256((root / n).read_bytes()).hexdigest()} for n in names}
    content_hash = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    manifest = {
        "release_id": f"halides@{content_hash[:12]}",
        "content_hash": content_hash,
        "license": "cc-by-4.0",
        "creator": "Example, Ann",
        "counts": {"total": 3, "atoms": 24},
        "files": files,
    }
    (root / "manifest.json").write_text(json.dumps(manifest))


def published(root: Path) -> dict[str, bytes]:
    """Return what of a folder is published."""
    return {
        p.relative_to(root).as_posix(): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file() and p.name != ".hidden" and not p.name.endswith("-lock")
    }
