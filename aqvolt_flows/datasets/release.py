"""A release: from ``labels`` to a folder that can be verified, cited and trained on.

Two passes over the labels: the first reads, filters and hashes every one (and keeps identities, not arrays), the second
writes the rows that passed, in the order of their identities. The folder is written aside and renamed; a folder that
already holds the same content stays as it is.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import batched
from pathlib import Path
from typing import Any

from aqvolt_flows import __version__
from aqvolt_flows.datasets import card, folder
from aqvolt_flows.datasets.duplicates import Configuration, DuplicateFinder
from aqvolt_flows.datasets.filters import describe_reason, is_other_protocol, reason_to_drop
from aqvolt_flows.datasets.formats import read_rows, write_parquet, write_split
from aqvolt_flows.datasets.records import ROUNDING, Row, release_hash, row_from_label
from aqvolt_flows.datasets.splits import SPLITS, Assignment, assign
from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.identity import content_hash, content_key, file_sha256
from aqvolt_flows.schemas.parameters import ReleaseParameters
from aqvolt_flows.schemas.release import ReleaseDocument
from aqvolt_flows.stores import Database

FORMAT = "aqvolt-release/1"
_READ = 512


@dataclass(slots=True)
class _Entry:
    """What the first pass keeps of a label."""

    frame_id: str
    label_id: str
    group: str
    source: str
    protocol: str
    n_atoms: int
    digest: str
    cohesive_known: bool
    split: str = ""


@dataclass
class _Survey:
    """The outcome of the first pass."""

    entries: list[_Entry] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    rejected: dict[str, int] = field(default_factory=dict)
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)
    as_of: datetime | None = None


def create_release(
    database: Database, parameters: ReleaseParameters, out_root: str | Path, key: str | None = None
) -> ReleaseDocument:
    """Write a release of the labels in the database and return its document, which the caller stores.

    Parameters
    ----------
    database
        Where ``labels`` are.
    parameters
        Name, filters, split and exports.
    out_root
        The release root; the folder is ``<name>-<first 12 digits of content_hash>`` in it.
    key
        Key of the unit of work; by default that of the stored document, or one made from the content.

    Raises
    ------
    InputError
        If no label passes the filters, protocols are mixed without leave, or a folder of this name was changed.
    ResourceError
        If the release root cannot be written.
    """
    survey = _read_labels(database, parameters)
    _refuse_mixture(survey, parameters)
    if not survey.entries:
        raise InputError(_nothing_left(survey, parameters))
    assignment = _split(survey, parameters)
    digest = release_hash((e.frame_id, e.label_id, e.split, e.digest) for e in survey.entries)
    target = Path(out_root) / f"{parameters.name}-{digest[:12]}"
    if target.exists():
        folder.verify_files(target)
        _add_exports(target, parameters.exports)
    else:
        _write_folder(database, parameters, survey, assignment, digest, target)
    return _document(database, folder.read_manifest(target), target.name, key)


def labels_fingerprint(database: Database, parameters: ReleaseParameters) -> str:
    """Return a hash that changes when a release with these parameters would; it reads scalars of valid labels only."""
    fields = ("label_id", "energy", "max_force", "pressure_gpa", "n_atoms")
    cursor = database["labels"].find({"status": "valid"}, dict.fromkeys(fields, 1) | {"_id": 0})
    rows = sorted([label[name] for name in fields] for label in cursor)
    return content_hash({"labels": rows, "parameters": parameters})


def _read_labels(database: Database, parameters: ReleaseParameters) -> _Survey:
    survey = _Survey()
    finder = DuplicateFinder(parameters.duplicate_tolerance_a)
    unused = dict.fromkeys(("_id", "magmoms", "bandgap", "elements", "other_sources"), 0)
    for label in database["labels"].find({"status": "valid"}, unused, batch_size=_READ):
        if is_other_protocol(label, parameters):
            survey.dropped["other_protocol"] += 1
            continue
        try:
            row = row_from_label(label)
        except InputError:
            survey.dropped["incomplete"] += 1
            continue
        reason = reason_to_drop(row, parameters)
        if reason is not None:
            survey.dropped[reason] += 1
            continue
        if parameters.duplicate_tolerance_a > 0:
            finder.add(row.label_id, row.atomic_numbers, row.positions, row.cell, kind=label["protocol_id"])
        survey.entries.append(_entry(row, parameters))
        survey.protocols.setdefault(row.protocol, label["protocol"])
        survey.as_of = max(survey.as_of or label["last_updated"], label["last_updated"])
    repeats = finder.repeats(lambda ids: _configurations(database, ids))
    survey.dropped["duplicate"] += len(repeats)
    survey.entries = sorted(
        (e for e in survey.entries if e.label_id not in repeats), key=lambda e: (e.frame_id, e.label_id)
    )
    for label in database["labels"].find({"status": "rejected"}, {"failure.reason": 1, "_id": 0}):
        reason = label["failure"]["reason"]
        survey.rejected[reason] = survey.rejected.get(reason, 0) + 1
    return survey


def _entry(row: Row, parameters: ReleaseParameters) -> _Entry:
    group = {
        "frame": row.frame_id,
        "trajectory": row.trajectory_id,
        "candidate": row.candidate_id,
        "formula": row.formula,
        "chemsys": row.chemsys,
    }[parameters.group_by]
    known = row.cohesive_energy_per_atom is not None
    return _Entry(
        row.frame_id, row.label_id, group or row.frame_id, row.source, row.protocol, row.n_atoms, row.digest(), known
    )


def _configurations(database: Database, ids: Sequence[str]) -> dict[str, Configuration]:
    rows = [row_from_label(label) for label in database.find_by_ids("labels", ids)]
    return {row.label_id: (row.atomic_numbers, row.positions, row.cell) for row in rows}


def _refuse_mixture(survey: _Survey, parameters: ReleaseParameters) -> None:
    counts = Counter(entry.protocol for entry in survey.entries)
    if len(counts) > 1 and not parameters.allow_mixed_protocols:
        listed = ", ".join(f"{name} ({n} labels)" for name, n in sorted(counts.items()))
        raise InputError(
            f"The labels have {len(counts)} protocols: {listed}; a release holds one, so choose it with --filter "
            "protocol=NAME, or set allow_mixed_protocols."
        )


def _nothing_left(survey: _Survey, parameters: ReleaseParameters) -> str:
    reasons = [
        f"{n} by {name} ({describe_reason(name, parameters)})" for name, n in sorted(survey.dropped.items()) if n
    ]
    reasons += [f"{n} rejected as {name}" for name, n in sorted(survey.rejected.items())]
    if not reasons:
        return "There are no labels to release; run labeling jobs and 'aqvolt build labels' first."
    return f"No label passes the filters, dropped were {'; '.join(reasons)}: relax a filter or label more frames."


def _split(survey: _Survey, parameters: ReleaseParameters) -> Assignment:
    fractions = {split: getattr(parameters, f"{split}_fraction") for split in SPLITS}
    assignment = assign((e.group for e in survey.entries), fractions, parameters.split_salt)
    for entry in survey.entries:
        entry.split = assignment.splits[entry.group]
    return assignment


def _rows(database: Database, entries: Sequence[_Entry]) -> Iterator[Row]:
    for block in batched(entries, _READ):
        labels = database.find_by_ids("labels", [entry.label_id for entry in block])
        for entry, label in zip(block, labels, strict=True):
            row = row_from_label(label)
            if row.digest() != entry.digest:
                raise InputError(f"Label {entry.label_id} changed while the release was written; create it again.")
            yield row


def _write_folder(
    database: Database,
    parameters: ReleaseParameters,
    survey: _Survey,
    assignment: Assignment,
    digest: str,
    target: Path,
) -> None:
    _sweep(target.parent)
    aside = _aside(target)
    try:
        aside.mkdir(parents=True)
        for split in SPLITS:
            entries = [e for e in survey.entries if e.split == split]
            if entries:
                write_parquet(folder.split_path(aside, split), _rows(database, entries))
        for format in sorted(set(parameters.exports)):
            _export(aside, format)
        manifest = _manifest(parameters, survey, assignment, digest)
        stats = card.statistics({s: folder.split_path(aside, s) for s in SPLITS})
        _write_json(aside / "stats.json", stats)
        (aside / "README.md").write_text(card.render(manifest, stats))
        _seal(aside, manifest)
        try:
            aside.rename(target)
        except OSError:
            if not target.exists():
                raise
            folder.verify_files(target)  # another process wrote the same release first
    except OSError as error:
        raise ResourceError(
            f"The release folder {target} cannot be written ({error}); free space or set release_root."
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _aside(target: Path) -> Path:
    """Return a folder beside ``target`` to write in; its name says which process does."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.{socket.gethostname()}.{os.getpid()}.part")


def _sweep(root: Path) -> None:
    """Remove what processes of this machine left half-written when they were killed."""
    here = socket.gethostname()
    for path in root.glob(f".*.{here}.*.part"):
        pid = path.name.removesuffix(".part").rpartition(".")[2]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _manifest(parameters: ReleaseParameters, survey: _Survey, assignment: Assignment, digest: str) -> dict[str, Any]:
    entries = survey.entries
    by_protocol = Counter(e.protocol for e in entries)
    splits = Counter(e.split for e in entries)
    groups = Counter(assignment.splits.values())
    filters = (
        "max_force_ev_per_a",
        "max_cohesive_energy_ev",
        "duplicate_tolerance_a",
        "protocol",
        "allow_mixed_protocols",
    )
    return {
        "format": FORMAT,
        "release_id": f"{parameters.name}@{digest[:12]}",
        "name": parameters.name,
        "content_hash": digest,
        "content_hash_rounding": dict(ROUNDING),
        "counts": {
            "total": len(entries),
            "atoms": sum(e.n_atoms for e in entries),
            "by_split": {s: splits[s] for s in SPLITS},
            "by_source": dict(sorted(Counter(e.source for e in entries).items())),
            "by_protocol": dict(sorted(by_protocol.items())),
            "dropped": {name: n for name, n in sorted(survey.dropped.items()) if n},
            "rejected": dict(sorted(survey.rejected.items())),
            "cohesive_energy_unknown": sum(not e.cohesive_known for e in entries),
        },
        "protocols": {n: {**survey.protocols[n], "labels": by_protocol[n]} for n in sorted(by_protocol)},
        "surrogate": any(survey.protocols[n]["code"] == "surrogate" for n in by_protocol),
        "filters": {name: getattr(parameters, name) for name in filters},
        "filters_explained": {
            name: describe_reason(name, parameters) for name, n in sorted(survey.dropped.items()) if n
        },
        "splits": {
            "fractions": {s: getattr(parameters, f"{s}_fraction") for s in SPLITS},
            "group_by": parameters.group_by,
            "salt": parameters.split_salt,
            "groups": {s: groups[s] for s in SPLITS},
            "borrowed": {
                g: {"hash_says": s, "is_in": assignment.splits[g]} for g, s in sorted(assignment.borrowed.items())
            },
        },
        "license": parameters.license,
        "code_version": __version__,
        "labels_as_of": survey.as_of.isoformat() if survey.as_of else None,
    }


def _export(release: Path, format: str) -> None:
    for split in SPLITS:
        source = folder.split_path(release, split)
        if source.exists():
            write_split(format, read_rows(source), release / "exports" / format, split)


def _add_exports(target: Path, exports: Sequence[str]) -> None:
    """Write exports that an existing release lacks; its data and content hash stay."""
    missing = [format for format in sorted(set(exports)) if not (target / "exports" / format).exists()]
    if not missing:
        return
    for format in missing:
        aside = _aside(target)
        try:
            for split in SPLITS:
                source = folder.split_path(target, split)
                if source.exists():
                    write_split(format, read_rows(source), aside, split)
            (target / "exports").mkdir(exist_ok=True)
            aside.rename(target / "exports" / format)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    _seal(target, {k: v for k, v in folder.read_manifest(target).items() if k != "files"})


def _seal(release: Path, manifest: dict[str, Any]) -> None:
    files = folder.listed_files(release)
    listing = {name: {"sha256": file_sha256(path), "bytes": path.stat().st_size} for name, path in files.items()}
    _write_json(release / "manifest.json", manifest | {"files": listing})


def _write_json(target: Path, value: Any) -> None:
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    aside.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    aside.replace(target)


def _document(database: Database, manifest: dict[str, Any], path: str, key: str | None) -> ReleaseDocument:
    release_id = manifest["release_id"]
    known = database["releases"].find_one({"release_id": release_id}, {"key": 1})
    own = content_key("release/1", name=manifest["name"], content_hash=manifest["content_hash"])
    stored = {k: v for k, v in manifest.items() if k != "files"}
    return ReleaseDocument(
        key=key or (known["key"] if known else own),
        release_id=release_id,
        name=manifest["name"],
        content_hash=manifest["content_hash"],
        counts=manifest["counts"],
        protocols=manifest["counts"]["by_protocol"],
        path=path,
        manifest=stored,
    )
