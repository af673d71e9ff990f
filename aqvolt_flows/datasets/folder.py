"""What can be asked of a release folder without a database: is it whole, what is in it, how does it differ."""

from __future__ import annotations

import json
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from aqvolt_flows.datasets.formats import EXPORTS, read_rows, write_split
from aqvolt_flows.datasets.rows import Row, release_hash
from aqvolt_flows.datasets.splits import SPLITS
from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.identity import file_sha256


def split_path(release: str | Path, split: str) -> Path:
    """Return where a split's Parquet is; a split without rows has no file."""
    return Path(release) / "data" / f"{split}.parquet"


def split_paths(release: str | Path) -> dict[str, Path]:
    """Return set → Parquet of a release: train, val and test as far as they have rows, then the hold-outs."""
    found = {path.stem: path for path in sorted((Path(release) / "data").glob("*.parquet"))}
    return {name: found[name] for name in [*SPLITS, *found] if name in found}


def read_manifest(release: str | Path) -> dict[str, Any]:
    """Return what ``manifest.json`` says.

    Raises
    ------
    InputError
        If the folder is no release or its manifest is broken.
    """
    path = Path(release) / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
    except OSError:
        raise InputError(
            f"{release} is not a release: it has no readable manifest.json; give a folder that 'aqvolt release create' "
            "wrote."
        ) from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); restore it from a copy.") from None
    if not isinstance(manifest, dict) or not {"content_hash", "counts", "files"} <= set(manifest):
        raise InputError(f"{path} lacks content_hash, counts or files; it is not the manifest of a release.")
    return manifest


def listed_files(release: Path) -> dict[str, Path]:
    """Return the files that a manifest lists, by their path in the folder: all but itself, hidden and lock files."""
    found = {}
    for path in sorted(release.rglob("*")):
        name = path.relative_to(release).as_posix()
        hidden = any(part.startswith(".") for part in name.split("/"))
        if path.is_file() and name != "manifest.json" and not hidden and not name.endswith("-lock"):
            found[name] = path
    return found


def verify_files(release: str | Path) -> dict[str, Any]:
    """Rehash every file of a release and return its manifest.

    Raises
    ------
    InputError
        If a file was changed, is missing or was added; all are named.
    """
    root = Path(release)
    manifest = read_manifest(root)
    present = listed_files(root)
    faults = [f"{name} is missing" for name in manifest["files"] if name not in present]
    faults += [f"{name} is not in the manifest" for name in present if name not in manifest["files"]]
    for name, path in present.items():
        said = manifest["files"].get(name)
        if said and file_sha256(path) != said["sha256"]:
            faults.append(f"{name} was changed")
    if faults:
        raise InputError(
            f"{root} is not what was released: {'; '.join(sorted(faults))}; restore it from a copy, or move it away "
            "and create the release again."
        )
    return manifest


def verify(release: str | Path) -> dict[str, Any]:
    """Verify a release: file hashes, then content hash and counts recomputed from the Parquet.

    Returns
    -------
    dict
        release_id, content_hash, counts, files (how many).

    Raises
    ------
    InputError
        If anything differs from the manifest.
    """
    root = Path(release)
    manifest = verify_files(root)
    splits: Counter[str] = Counter()
    atoms = 0
    sources: Counter[str] = Counter()
    protocols: Counter[str] = Counter()
    seen = []
    for split, row in read_release(root):
        splits[split] += 1
        sources[row.source] += 1
        protocols[row.protocol] += 1
        atoms += row.n_atoms
        seen.append((row.frame_id, row.label_id, split, row.digest()))
    counts = manifest["counts"]
    computed = {
        "content_hash": (release_hash(seen), manifest["content_hash"]),
        "release_id": (f"{manifest.get('name')}@{manifest['content_hash'][:12]}", manifest.get("release_id")),
        "counts.total": (len(seen), counts.get("total")),
        "counts.atoms": (atoms, counts.get("atoms")),
        "counts.by_split": (
            {s: splits[s] for s in [*SPLITS, *sorted(splits.keys() - set(SPLITS))]},
            counts.get("by_split"),
        ),
        "counts.by_source": (dict(sources), counts.get("by_source")),
        "counts.by_protocol": (dict(protocols), counts.get("by_protocol")),
    }
    for name, (found, said) in computed.items():
        if found != said:
            where = _altered(root, seen) if name == "content_hash" else ""
            raise InputError(
                f"{root / 'manifest.json'} says {name} {said}, its data give {found}{where}; restore the folder from a "
                "copy."
            )
    return {
        "release_id": manifest["release_id"],
        "content_hash": manifest["content_hash"],
        "counts": counts,
        "files": len(manifest["files"]),
    }


def _altered(root: Path, seen: list[tuple[str, str, str, str]]) -> str:
    """Return which rows differ from those that ``frames.tsv`` lists, for a message."""
    try:
        listed = {line.rstrip("\n") for line in (root / "frames.tsv").read_text().splitlines()[1:]}
    except OSError:
        return ""
    other = sorted(
        (split, frame_id)
        for frame_id, *rest in seen
        for split in [rest[1]]
        if "\t".join((frame_id, *rest)) not in listed
    )
    if not other:
        return " and frames.tsv lists frames that they lack" if len(listed) > len(seen) else ""
    split, frame_id = other[0]
    return f", where {len(other)} rows are not as frames.tsv lists them, first {frame_id} in {split}"


def read_release(release: str | Path) -> Iterator[tuple[str, Row]]:
    """Yield (split, row) of every row of a release, in bounded memory."""
    for split, path in split_paths(release).items():
        for row in read_rows(path):
            yield split, row


def _index(release: str | Path) -> dict[str, dict[str, tuple[str, str]]]:
    """Return frame → label → (split, digest), from ``frames.tsv`` or, in releases that lack it, from the data.

    Raises
    ------
    InputError
        If ``frames.tsv`` is not the file whose hash the manifest gives.
    """
    manifest = read_manifest(release)
    found: dict[str, dict[str, tuple[str, str]]] = {}
    listing = Path(release) / "frames.tsv"
    if not listing.exists():
        for split, row in read_release(release):
            found.setdefault(row.frame_id, {})[row.label_id] = (split, row.digest())
        return found
    if file_sha256(listing) != manifest["content_hash"]:
        raise InputError(f"{listing} was changed; verify the release and restore the file from a copy.")
    with listing.open() as lines:
        next(lines)
        for line in lines:
            frame_id, label_id, split, digest = line.rstrip("\n").split("\t")
            found.setdefault(frame_id, {})[label_id] = (split, digest)
    return found


def diff(a: str | Path, b: str | Path) -> dict[str, Any]:
    """Return how release ``b`` differs from release ``a``.

    Returns
    -------
    dict
        Lists of frame ids: ``added``, ``removed``, ``relabelled`` (another label or other numbers), ``moved`` (another
        split: frame → [from, to]); ``protocols`` and ``filters`` that differ; ``same`` when nothing does.
    """
    old, new = _index(a), _index(b)
    common = sorted(old.keys() & new.keys())
    relabelled = [f for f in common if {k: v[1] for k, v in old[f].items()} != {k: v[1] for k, v in new[f].items()}]
    places = {f: (sorted({v[0] for v in old[f].values()}), sorted({v[0] for v in new[f].values()})) for f in common}
    moved = {f: ["+".join(was), "+".join(now)] for f, (was, now) in places.items() if was != now}
    first, second = read_manifest(a), read_manifest(b)
    names = (first["counts"]["by_protocol"], second["counts"]["by_protocol"])
    filters = {
        name: [first["filters"].get(name), second["filters"].get(name)]
        for name in sorted(first["filters"].keys() | second["filters"].keys())
        if first["filters"].get(name) != second["filters"].get(name)
    }
    added, removed = sorted(new.keys() - old.keys()), sorted(old.keys() - new.keys())
    return {
        "a": first["release_id"],
        "b": second["release_id"],
        "same": first["content_hash"] == second["content_hash"],
        "added": added,
        "removed": removed,
        "relabelled": relabelled,
        "moved": moved,
        "protocols": {
            "added": sorted(names[1].keys() - names[0].keys()),
            "removed": sorted(names[0].keys() - names[1].keys()),
        },
        "filters": filters,
    }


def export(release: str | Path, format: str, out: str | Path) -> dict[str, int]:
    """Write every split of a release in another format under ``out``; return split → rows.

    Raises
    ------
    InputError
        If the format is unknown, the folder is no release, or a target exists.
    """
    if format not in EXPORTS:
        raise InputError(f"There is no export format {format!r}; known are {', '.join(EXPORTS)}.")
    read_manifest(release)
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists and is not an empty folder; give another --out, nothing was written.")
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        written = {s: write_split(format, path, aside, s) for s, path in split_paths(release).items()}
        aside.rename(target)
    except OSError as error:
        raise ResourceError(f"{target} cannot be written ({error}); free space or give another --out.") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return written


def frame_split(release: str | Path, frame_id: str) -> dict[str, str]:
    """Return label id → split of a frame's labels in a release; only row groups that may hold it are read."""
    found: dict[str, str] = {}
    for split, path in split_paths(release).items():
        table = pq.read_table(path, columns=["label_id"], filters=[("frame_id", "=", frame_id)])
        found |= dict.fromkeys(table.column("label_id").to_pylist(), split)
    return found
