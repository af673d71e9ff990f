"""A release: from ``labels`` to a folder that can be verified, cited and trained on.

The labels are read once, judged and hashed into a spool beside the release (:mod:`~aqvolt_flows.datasets.survey`); the
rows that passed are then written from it in the order of their identities, and all else is computed from the Parquet
files. The folder is written aside and renamed; a folder that already holds the same content stays as it is.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from aqvolt_flows import __version__
from aqvolt_flows.aside import written_aside
from aqvolt_flows.datasets import card, croissant, folder, plots
from aqvolt_flows.datasets.filters import describe_reason
from aqvolt_flows.datasets.formats import write_split, write_tables
from aqvolt_flows.datasets.licenses import card_license, licenses_of
from aqvolt_flows.datasets.rows import ROUNDING, content_lines, release_hash
from aqvolt_flows.datasets.splits import SPLITS, Assignment
from aqvolt_flows.datasets.spool import Spool
from aqvolt_flows.datasets.stats import statistics
from aqvolt_flows.datasets.survey import (
    Survey,
    base_query,
    nothing_left,
    read_labels,
    refuse_mixture,
    split_entries,
)
from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.identity import content_hash, content_key, file_sha256
from aqvolt_flows.releases import store_folder
from aqvolt_flows.schemas.parameters import ReleaseParameters
from aqvolt_flows.schemas.release import ReleaseDocument
from aqvolt_flows.stores import Database

FORMAT = "aqvolt-release/1"
FILTERS = (
    "max_force_ev_per_a",
    "max_cohesive_energy_ev",
    "duplicate_tolerance_a",
    "protocol",
    "allow_mixed_protocols",
)


def create_release(
    database: Database, parameters: ReleaseParameters, out_root: str | Path, key: str | None = None
) -> ReleaseDocument:
    """Write a release of the labels in the database and return its document, which the caller stores.

    Parameters
    ----------
    database
        Where ``labels`` are.
    parameters
        Name, query, filters, split, hold-outs and exports.
    out_root
        The release root; the folder is ``<name>-<first 12 digits of content_hash>`` in it.
    key
        Key of the unit of work; by default that of the stored document, or one made from the content.

    Raises
    ------
    InputError
        If no label passes the filters, protocols are mixed without leave, a query is refused, or a folder of this name
        was changed.
    ResourceError
        If the release root cannot be written.
    """
    root = Path(out_root)
    made_root = not root.exists()
    aside = _aside(root / parameters.name)
    try:
        _sweep(root)
        aside.mkdir(parents=True)
        spooled = aside / ".rows.arrow"
        with Spool(spooled) as spool:
            survey = read_labels(database, parameters, spool)
            refuse_mixture(survey, parameters)
            if not survey.entries:
                raise InputError(nothing_left(survey, parameters))
            assignment = split_entries(database, parameters, survey)
            digest = release_hash(_contents(survey))
            target = root / f"{parameters.name}-{digest[:12]}"
            if not target.exists():
                _write_data(spool, survey, aside)
        spooled.unlink()
        if target.exists():
            folder.verify_files(target)
            _add_exports(target, parameters.exports)
        else:
            _describe(
                aside, _manifest(parameters, survey, assignment, digest, _labels_of(database)), parameters.exports
            )
            _move(aside, target)
    except OSError as error:
        raise ResourceError(
            f"The release root {root} cannot be written ({error}); free space or set release_root."
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if made_root:
            with suppress(OSError):
                root.rmdir()  # succeeds only when nothing was released
    return _document(database, target, key, survey.as_of)


def document_of(database: Database, release: Path) -> ReleaseDocument:
    """Return the document of a folder in the release root that came from elsewhere; the caller stores it.

    Raises
    ------
    InputError
        If the folder is no release or differs from its manifest.
    """
    folder.verify_files(release)
    return _document(database, release, None, None)


def labels_fingerprint(database: Database, parameters: ReleaseParameters) -> str:
    """Return a hash that changes when a release with these parameters would; it reads scalars of valid labels only."""
    fields = ("label_id", "energy", "max_force", "pressure_gpa", "n_atoms")
    cursor = database["labels"].find(base_query(database, parameters), dict.fromkeys(fields, 1) | {"_id": 0})
    rows = sorted([label[name] for name in fields] for label in cursor)
    return content_hash({"labels": rows, "parameters": parameters})


def _contents(survey: Survey) -> list[tuple[str, str, str, str]]:
    return [(e.frame_id, e.label_id, e.split, e.digest) for e in survey.entries]


def _write_data(spool: Spool, survey: Survey, release: Path) -> None:
    for split in survey.splits():
        places = [e.place for e in survey.entries if e.split == split]
        if places:
            write_tables(folder.split_path(release, split), spool.tables(places))
    with (release / "frames.tsv").open("wb") as handle:
        handle.writelines(content_lines(_contents(survey)))


def _describe(release: Path, manifest: dict[str, Any], exports: Sequence[str]) -> None:
    """Write all that is computed from the data: exports, statistics, pictures, card, Croissant and manifest."""
    for format in sorted(set(exports)):
        _export(release, format, release / "exports" / format)
    stats = statistics(folder.split_paths(release))
    _write_json(release / "stats.json", stats)
    if plots.available():
        for name, data in plots.pictures(stats).items():
            (release / "plots").mkdir(exist_ok=True)
            (release / "plots" / name).write_bytes(data)
        manifest["plots"] = sorted(f"plots/{path.name}" for path in (release / "plots").iterdir())
    (release / "README.md").write_text(card.render(manifest, stats))
    _write_json(release / "croissant.json", croissant.describe(release, manifest))
    _seal(release, manifest)


def _move(aside: Path, target: Path) -> None:
    try:
        aside.rename(target)
    except OSError:
        if not target.exists():
            raise
        folder.verify_files(target)  # another process wrote the same release first


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


def _labels_of(database: Database) -> list[str]:
    """Return the campaigns whose labels a release takes."""
    if database.all_campaigns:
        return database.known_campaigns() or [database.campaign]
    return [database.campaign]


def _manifest(
    parameters: ReleaseParameters, survey: Survey, assignment: Assignment, digest: str, campaigns: Sequence[str]
) -> dict[str, Any]:
    entries = survey.entries
    by_protocol = Counter(e.protocol for e in entries)
    licenses = licenses_of(survey.licenses(), parameters.license)
    splits = Counter(e.split for e in entries)
    return {
        "format": FORMAT,
        "release_id": f"{parameters.name}@{digest[:12]}",
        "name": parameters.name,
        "content_hash": digest,
        "content_hash_rounding": dict(ROUNDING),
        "campaigns": list(campaigns),
        "counts": {
            "total": len(entries),
            "atoms": sum(e.n_atoms for e in entries),
            "by_split": {s: splits[s] for s in survey.splits()},
            "by_source": dict(sorted(Counter(e.source for e in entries).items())),
            "by_protocol": dict(sorted(by_protocol.items())),
            "dropped": {name: n for name, n in sorted(survey.dropped.items()) if n},
            "rejected": dict(sorted(survey.rejected.items())),
            "cohesive_energy_unknown": sum(not e.cohesive_known for e in entries),
        },
        "protocols": {n: {**survey.protocols[n], "labels": by_protocol[n]} for n in sorted(by_protocol)},
        "surrogate": any(survey.protocols[n]["code"] == "surrogate" for n in by_protocol),
        "query": json.dumps(parameters.query, sort_keys=True, default=str),
        "filters": {name: getattr(parameters, name) for name in FILTERS},
        "filters_explained": {
            name: describe_reason(name, parameters) for name, n in sorted(survey.dropped.items()) if n
        },
        "splits": _splits(parameters, survey, assignment),
        "license": card_license(licenses),
        "licenses": licenses,
        "published": parameters.published,
        "creator": parameters.creator,
        "url": parameters.url,
        **({"is_hold_out": True} if parameters.is_hold_out else {}),
        "code_version": __version__,
        "plots": [],
    }


def _splits(parameters: ReleaseParameters, survey: Survey, assignment: Assignment) -> dict[str, Any]:
    held = {name: json.dumps(rule, sort_keys=True, default=str) for name, rule in sorted(parameters.hold_out.items())}
    groups = Counter(assignment.splits.values())
    own = {name: len({e.group for e in survey.entries if e.split == name}) for name in held}
    return {
        "fractions": {s: getattr(parameters, f"{s}_fraction") for s in SPLITS},
        "group_by": parameters.group_by,
        "salt": parameters.split_salt,
        "groups": {s: groups[s] for s in SPLITS} | own,
        "borrowed": {
            g: {"hash_says": s, "is_in": assignment.splits[g]} for g, s in sorted(assignment.borrowed.items())
        },
        "hold_out": held,
    }


def _export(release: Path, format: str, out: Path) -> None:
    for split, path in folder.split_paths(release).items():
        write_split(format, path, out, split)


def _add_exports(target: Path, exports: Sequence[str]) -> None:
    """Write exports that an existing release lacks; its data and content hash stay."""
    missing = [format for format in sorted(set(exports)) if not (target / "exports" / format).exists()]
    if not missing:
        return
    for format in missing:
        aside = _aside(target)
        try:
            _export(target, format, aside)
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
    with written_aside(target) as aside:
        aside.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def _document(database: Database, target: Path, key: str | None, as_of: datetime | None) -> ReleaseDocument:
    manifest = folder.read_manifest(target)
    release_id = manifest["release_id"]
    known = database["releases"].find_one({"release_id": release_id}, {"key": 1, "publications": 1})
    own = content_key("release/1", name=manifest["name"], content_hash=manifest["content_hash"])
    stored = {k: v for k, v in manifest.items() if k != "files"}
    # the date of the newest label is of this database, not of the labels: the folder does not have it
    stored["labels_as_of"] = as_of.isoformat() if as_of else None
    return ReleaseDocument(
        key=key or (known["key"] if known else own),
        release_id=release_id,
        name=manifest["name"],
        content_hash=manifest["content_hash"],
        counts=manifest["counts"],
        protocols=manifest["counts"]["by_protocol"],
        path=target.name,
        manifest=stored,
        publications=(known or {}).get("publications", []),
        files=store_folder(database.artifacts, target),
    )
