"""ASE-LMDB (``*.aselmdb``): the layout of OMat24, OMC25 and fairchem's other sets, and of our own exports.

A record is zlib-compressed JSON of an ``AtomsRow`` of ASE's database under its number; arrays are
``{"__ndarray__": [shape, dtype, values]}``. Units are ASE's. The format says neither functional nor dataset: give
``--functional`` (OMat24: PBE) and ``--dataset``. ``data`` of a row holds what ``atoms.info`` held. Records are read in
the order in which LMDB keeps their keys.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from aqvolt_flows.datasets.importers.demands import periodic, stated_functional
from aqvolt_flows.datasets.importers.further import NAMES, further_results
from aqvolt_flows.datasets.importers.notes import Notes
from aqvolt_flows.datasets.importers.published import (
    Broken,
    Entry,
    Imported,
    ImportOptions,
    RecordError,
    Skipped,
    array,
    atomic_numbers,
    converged,
    external_protocol,
    finite,
    frame_identity,
    maybe,
    stress,
    text,
)
from aqvolt_flows.datasets.importers.tables import protocol_of_name
from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.schemas.provenance import Protocol
from aqvolt_flows.units import unit_factor

#: Keys of the database that are no records.
_RESERVED = (b"nextid", b"deleted_ids", b"metadata")
#: Names under which ``data`` or the key-value pairs hold an identity, the preferred first.
_IDENTITIES = ("label_id", "sid", "calc_id", "material_id", "mat_id", "source")
_FURTHER = {name for names in NAMES.values() for name in names}
#: Entries of ``data`` that are read.
_KEPT = {*_IDENTITIES, *_FURTHER, "frame_id", "candidate_id", "protocol", "functional", "temperature_k", "head"}


def is_aselmdb(path: Path) -> bool:
    """Return whether a file is an ASE-LMDB, by its name."""
    return path.suffix.lower() in {".aselmdb", ".lmdb"}


def aselmdb_entries(path: Path, options: ImportOptions, notes: Notes) -> Iterator[Entry]:
    """Yield the labels of one file, one record in memory at a time.

    Raises
    ------
    InputError
        If it is no LMDB, or is cut short.
    ResourceError
        If ``lmdb`` is not installed.
    """
    for number, value in _records(path, notes):
        where = {"file": path.name, "record": number}
        try:
            yield aselmdb_entry(_decoded(value), where, options, notes)
        except RecordError as error:
            yield Broken(path.name, number, None, str(error))


def _records(path: Path, notes: Notes) -> Iterator[tuple[int, bytes]]:
    try:
        import lmdb
    except ImportError:
        raise ResourceError(
            "ASE-LMDB needs the package lmdb; install the extra 'train' (pip install aqvolt-flows[train])."
        ) from None
    try:
        environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=True, max_readers=1)
    except lmdb.Error as error:
        raise InputError(f"{path} is not an LMDB database ({error}); expected a .aselmdb file.") from None
    with environment, environment.begin() as transaction:
        # LMDB maps the file: reading a page that is not there would end the process.
        needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if path.stat().st_size < needed:
            raise InputError(f"{path} has {path.stat().st_size} of {needed} bytes; it is cut short, fetch it again.")
        deleted = transaction.get(b"deleted_ids")
        gone = set(orjson.loads(zlib.decompress(deleted))) if deleted is not None else set()
        for key, value in transaction.cursor():
            if key in _RESERVED:
                continue
            if not key.isdigit():
                notes.say(f"{path.name} has the key {key[:40].decode(errors='replace')!r}, which is no record.")
                continue
            if int(key) not in gone:
                yield int(key), bytes(value)


def _decoded(value: bytes) -> Mapping[str, Any]:
    try:
        found = orjson.loads(zlib.decompress(value))
    except zlib.error as error:
        raise RecordError(
            f"its bytes are not zlib-compressed JSON ({error}); pickled objects, as OC20's LMDBs hold them, are not "
            "read, since they can run code"
        ) from None
    except ValueError as error:
        raise RecordError(f"it is not JSON ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(found, dict):
        raise RecordError(f"it is a {type(found).__name__}; expected a row of ASE's database")
    return found


def plain(value: Any) -> Any:
    """Return what ASE's JSON stands for: ``__ndarray__`` becomes an array, mappings are walked.

    Raises
    ------
    RecordError
        If an array does not fit its own shape.
    """
    if isinstance(value, dict):
        if "__ndarray__" in value:
            try:
                shape, dtype, flat = value["__ndarray__"]
                return np.array(flat, dtype=np.dtype(str(dtype))).reshape(shape)
            except (TypeError, ValueError, OverflowError) as error:
                raise RecordError(f"one of its arrays is broken ({' '.join(str(error).split())[:120]})") from None
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list) else value


def aselmdb_entry(
    row: Mapping[str, Any], where: Mapping[str, Any], options: ImportOptions, notes: Notes | None = None
) -> Entry:
    """Return the label of one row.

    Raises
    ------
    RecordError
        If it is not periodic, nobody says its functional, or a number is missing, of another shape or not finite.
    """
    about = _about(row, notes)
    protocol = _protocol(about, where, options)
    if options.functional is not None and options.functional.lower() not in protocol.functional.lower():
        return Skipped("other_functional")
    units = {"energy": "eV", "forces": "eV/A", "stress": "eV/A^3", "length": "A"} | options.named_units()
    periodic(plain(row.get("pbc", (False, False, False))))
    numbers = atomic_numbers(_list(plain(row.get("numbers"))))
    n_atoms = len(numbers)
    length = unit_factor("length", units["length"])
    cell = array(plain(row.get("cell")), (3, 3), "cell") * length
    positions = array(plain(row.get("positions")), (n_atoms, 3), "positions") * length
    energy = unit_factor("energy", units["energy"])
    if row.get("stress") is None:
        raise RecordError("no_stress: it has no stress; a label needs energy, forces and stress")
    results = {k: plain(row[k]) for k in _FURTHER if row.get(k) is not None}
    further, _ = further_results({**about, **results}, n_atoms, energy)
    named = text(about.get("label_id"))
    own = text(about.get("frame_id")) if named else None
    outcome = converged(
        own or frame_identity(numbers, cell, positions),
        protocol,
        {"atomic_numbers": numbers, "positions": positions, "cell": cell},
        energy=finite(row.get("energy", row.get("free_energy")), "energy") * energy,
        forces=array(plain(row.get("forces")), (n_atoms, 3), "forces") * unit_factor("forces", units["forces"]),
        stress=stress(plain(row["stress"]), units["stress"]),
        **further,
    )
    name = next((str(about[k]) for k in _IDENTITIES if text(about.get(k))), text(row.get("unique_id")))
    provenance = {**where, "database": options.name} | ({"record_id": name} if name else {})
    if row.get("constraints"):
        provenance["constrained"] = True
    return Imported(
        outcome=outcome,
        provenance=provenance,
        temperature_k=maybe(about.get("temperature_k")),
        candidate_id=text(about.get("candidate_id")),
    )


def _about(row: Mapping[str, Any], notes: Notes | None) -> dict[str, Any]:
    """Return what a row says beside its numbers: its data and key-value pairs."""
    found: dict[str, Any] = {}
    for holder in ("key_value_pairs", "data"):
        held = row.get(holder)
        if isinstance(held, Mapping):
            found |= held
    if notes is not None:
        notes.unread.update(k for k in found if k not in _KEPT)
    return {k: plain(v) for k, v in found.items() if k in _KEPT}


def _protocol(about: Mapping[str, Any], where: Mapping[str, Any], options: ImportOptions) -> Protocol:
    named = text(about.get("protocol"))
    if named is not None:
        return protocol_of_name(named, options)
    return external_protocol(
        options.name, stated_functional(text(about.get("functional")), options, str(where["file"]))
    )


def _list(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value
