"""What ``--structures`` names: a file, a folder or a zip of structures, a release folder, or a collection."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aqvolt_flows.errors import InputError

if TYPE_CHECKING:
    from aqvolt_flows.benchmarks.items import Item, ItemSet
    from aqvolt_flows.stores import Database

COLLECTIONS = ("candidates", "labels")
EXPECTED = (
    "expected a CIF, POSCAR, (ext)xyz, ASE trajectory or JSON file, a folder or zip of such files, a release folder, "
    f"a public set (docs/transport.md), or a collection ({' or '.join(COLLECTIONS)})"
)
#: Bytes that a zip may unpack to.
MAX_UNPACKED = 20 << 30


def is_collection(named: str) -> bool:
    """Return whether ``--structures`` names a collection and no file of that name is here."""
    return named in COLLECTIONS and not Path(named).exists()


def from_database(database: Database, named: str) -> ItemSet:
    """Return the accepted candidates or the valid labels of the campaign.

    Raises
    ------
    InputError
        If there is none.
    """
    from aqvolt_flows.benchmarks.items import CandidateItems, GivenItems
    from aqvolt_flows.benchmarks.labeled_files import label_items
    from aqvolt_flows.schemas.candidate import ACCEPTED

    if named == "candidates":
        ids = [d["candidate_id"] for d in database.own("candidates").find(ACCEPTED, {"candidate_id": 1})]
        found: ItemSet = CandidateItems(database, sorted(ids))
    else:
        labels = database.own("labels").find({"status": "valid"}, {"_id": 0}).sort("label_id", 1)
        items = label_items(labels)
        found = GivenItems(items, f"{len(items)} labels")
    if not len(found):
        raise InputError(f"The collection {named} has no usable document in this campaign yet; see 'aqvolt status'.")
    return found


def from_path(path: Path, labeled: bool) -> ItemSet:
    """Return the structures at a path; an entry that cannot be read is an item with the reason.

    Parameters
    ----------
    path
        See :data:`EXPECTED`.
    labeled
        Whether energies, forces and stresses are wanted.

    Raises
    ------
    InputError
        If there is nothing there, or nothing that could be read at all.
    """
    from aqvolt_flows.benchmarks.items import GivenItems, ReleaseItems, numbered
    from aqvolt_flows.benchmarks.public_sets import read_public

    if not path.exists():
        raise InputError(f"There is nothing at {path}; {EXPECTED}.")
    if (path / "manifest.json").is_file():
        return ReleaseItems(path, "all")
    public = None if labeled else read_public(path)
    if public is not None:
        items = public
    elif zipfile.is_zipfile(path) and path.suffix.lower() == ".zip":
        items = _of_zip(path, labeled)
    elif path.is_dir():
        items = _of_folder(path, labeled)
    else:
        items = _of_file(path, path.name, labeled)
    readable = [i for i in items if i.failure is None]
    if not readable:
        reasons = [i.failure.message for i in items if i.failure is not None]
        why = "; ".join(dict.fromkeys(reasons[:3])) or "it has no structure"
        raise InputError(f"{path} cannot be read ({why}); {EXPECTED}.")
    return GivenItems(numbered(items), path.name)


def _of_zip(path: Path, labeled: bool) -> list[Item]:
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        total = sum(info.file_size for info in archive.infolist())
        if total > MAX_UNPACKED:
            raise InputError(f"{path} unpacks to {total >> 30} GiB; unpack it yourself and give the folder.")
        try:
            archive.extractall(folder)
        except (zipfile.BadZipFile, OSError, RuntimeError) as error:
            raise InputError(f"{path} cannot be unpacked ({error}); {EXPECTED}.") from None
        return _of_folder(Path(folder), labeled)


def _of_folder(folder: Path, labeled: bool) -> list[Item]:
    found: list[Item] = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        parts = path.relative_to(folder).parts
        if not any(part.startswith((".", "__MACOSX")) for part in parts):
            found += _of_file(path, "/".join(parts), labeled)
    return found


def _of_file(path: Path, name: str, labeled: bool) -> list[Item]:
    from aqvolt_flows.benchmarks.items import broken_item
    from aqvolt_flows.benchmarks.labeled_files import read_labeled

    try:
        return read_labeled(path, name) if labeled else _unlabeled(path, name)
    except InputError as error:
        return [broken_item(name, name, 1, str(error))]


def _unlabeled(path: Path, name: str) -> list[Item]:
    from aqvolt_flows.benchmarks.items import Item, broken_item
    from aqvolt_flows.candidates.records import Record
    from aqvolt_flows.candidates.sources import stream_file
    from aqvolt_flows.identity import structure_hash

    found: list[Item] = []
    for entry in stream_file(path):
        if isinstance(entry, Record):
            about: dict[str, Any] = entry.provenance
            source = str(about.get("database") or name)
            found.append(Item(entry.name, structure_hash(entry.structure), entry.structure, source=source))
        else:
            found.append(broken_item(f"{name}:{entry.record - 1}", name, entry.record, entry.reason))
    return found
