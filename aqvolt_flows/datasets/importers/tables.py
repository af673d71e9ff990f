"""Labels in Parquet: MatPES' and MP-ALOE's tables, and AQVolt26's, which are the releases of this package.

A column may declare its unit in the field's metadata (``unit``); one that differs from what the format means is
refused, and so is an unknown one: a silent factor of 1602 in every stress is worse than no import.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aqvolt_flows.datasets.columns import BY_NAME, COLUMNS, RESULTS
from aqvolt_flows.datasets.importers import matpes
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
    maybe,
    moment_list,
    stress,
    text,
)
from aqvolt_flows.errors import InputError
from aqvolt_flows.labelers import known_code
from aqvolt_flows.schemas.provenance import Protocol

#: Columns that every release of this package has.
RELEASE_COLUMNS = ("frame_id", "protocol", "atomic_numbers", "positions", "cell", "energy", "forces", "stress")
_RELEASE_OPTIONAL = ("label_id", "source", *(c.name for c in COLUMNS if c.nullable and c.name != "provenance"))
#: Spellings of a unit, in lower case.
_SPELLINGS = {
    "energy": {"ev"},
    "forces": {"ev/a", "ev/å", "ev/ang", "ev/angstrom"},
    "stress": {"kbar"},
}
_RELEASE_STRESS = {"ev/a^3", "ev/å³", "ev/å^3", "ev/a3", "ev/ang^3", "ev/angstrom^3"}
_ROWS = 256
#: Columns that follow from others, so that nothing is lost when they are not read.
_FOLLOWING = ("formula", "chemsys", "n_atoms", "max_force", "pressure_gpa", "provenance", "head")
UNVERIFIED = (
    "The layout of the published AQVolt26 could not be verified: the file is read as its columns are named, in the "
    "units of a release of this package (eV/Å³) or of MatPES (kbar); compare a few rows with the dataset's card."
)


def is_parquet(path: Path) -> bool:
    """Return whether a file is Parquet, by its name or its first bytes."""
    if path.suffix.lower() in {".parquet", ".pq"}:
        return True
    with path.open("rb") as handle:
        return handle.read(4) == b"PAR1"


def parquet_entries(path: Path, options: ImportOptions, notes: Notes | None = None) -> Iterator[Entry]:
    """Yield the labels of a Parquet table, a few hundred rows in memory at a time.

    Raises
    ------
    InputError
        If the file is not whole, lacks columns, or declares a unit that is not the format's.
    """
    try:
        table = pq.ParquetFile(path, pre_buffer=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{path} is not a whole Parquet file ({' '.join(str(error).split())}); fetch it again."
        ) from None
    with table:
        names = table.schema_arrow.names
        ours = set(RELEASE_COLUMNS) <= set(names)
        wanted = (*RELEASE_COLUMNS, *_RELEASE_OPTIONAL) if ours else matpes.COLUMNS
        present = [name for name in wanted if name in names]
        if not ours and not _is_matpes(present):
            raise InputError(
                f"{path} has the columns {', '.join(names[:12])}; expected those of a release "
                f"({', '.join(RELEASE_COLUMNS)}) or of MatPES (structure, or cell, atomic_numbers and cart_coords; "
                "energy, forces, stress, matpes_id)."
            )
        _check_units(path, table.schema_arrow, ours)
        protocols = known_protocols(path) if ours else {}
        if notes is not None:
            notes.unread.update(name for name in names if name not in wanted and name not in _FOLLOWING)
            if options.source == "aqvolt26" and not protocols:
                notes.say(UNVERIFIED)
        record = 0
        try:
            for batch in table.iter_batches(batch_size=_ROWS, columns=present, use_threads=False):
                for row in batch.to_pylist():
                    record += 1
                    yield _entry(row, path.name, record, options, protocols if ours else None)
        except (pa.ArrowException, OSError, ValueError) as error:
            said = f"the table cannot be read any further ({' '.join(str(error).split())})"
            yield Broken(path.name, record + 1, None, said, fatal=True)


def _is_matpes(present: list[str]) -> bool:
    atoms = {"cell", "atomic_numbers", "cart_coords"} <= set(present) or "structure" in present
    return atoms and {"energy", "forces", "stress"} <= set(present)


def _check_units(path: Path, schema: pa.Schema, ours: bool) -> None:
    for name, allowed in _SPELLINGS.items():
        said = (schema.field(name).metadata or {}).get(b"unit")
        expected = _RELEASE_STRESS if ours and name == "stress" else allowed
        if said is not None and said.decode(errors="replace").strip().lower() not in expected:
            raise InputError(
                f"{path} says that {name} is in {said.decode(errors='replace')!r}; expected {sorted(expected)[0]}, as "
                "its format means: convert the column, or import extxyz with --stress-unit."
            )


def _entry(
    row: Mapping[str, Any], file: str, record: int, options: ImportOptions, protocols: Mapping[str, Protocol] | None
) -> Entry:
    where = {"file": file, "record": record}
    try:
        if protocols is None:
            return matpes.matpes_entry(row, where, options)
        return release_entry(row, where, options, protocols)
    except RecordError as error:
        name = row.get("frame_id") or matpes.identifier(row)
        return Broken(file, record, None, str(error), record_id=text(name))


def release_entry(
    row: Mapping[str, Any], where: Mapping[str, Any], options: ImportOptions, protocols: Mapping[str, Protocol]
) -> Entry:
    """Return the label of one row of a release, with the identity and the protocol it had there.

    Raises
    ------
    RecordError
        If a number is missing, of another shape or not finite.
    """
    frame_id = text(row.get("frame_id"))
    if frame_id is None:
        raise RecordError("it has no frame_id; a label needs an identity of its own")
    named = text(row.get("protocol")) or "unknown"
    protocol = protocols.get(named) or protocol_of_name(named, options)
    if options.functional is not None and not _is_functional(protocol, options.functional):
        return Skipped("other_functional")
    numbers = atomic_numbers(row.get("atomic_numbers"))
    n_atoms = len(numbers)
    atoms = {
        "atomic_numbers": numbers,
        "positions": array(row.get("positions"), (n_atoms, 3), "positions"),
        "cell": array(row.get("cell"), (3, 3), "cell"),
    }
    outcome = converged(
        frame_id,
        protocol,
        atoms,
        energy=finite(row.get("energy"), "energy"),
        forces=array(row.get("forces"), (n_atoms, 3), "forces"),
        stress=stress(row.get("stress"), "eV/A^3"),
        **{name: _result(row.get(name), name, n_atoms) for name in RESULTS},
    )
    named = text(row.get("record_id")) or text(row.get("label_id")) or frame_id
    provenance = {**where, "database": options.name, "record_id": named}
    return Imported(
        outcome=outcome,
        provenance=provenance | ({"source": row["source"]} if row.get("source") else {}),
        temperature_k=maybe(row.get("temperature_k")),
        cohesive_energy=maybe(row.get("cohesive_energy_per_atom")),
        candidate_id=text(row.get("candidate_id")),
        trajectory_id=text(row.get("trajectory_id")),
        judged=text(row.get("protocol")) in protocols,
    )


def _result(value: Any, name: str, n_atoms: int) -> Any:
    """Return what a calculation gave beside energy, forces and stress: a number, or one per atom; None if absent."""
    return moment_list(value, n_atoms) if BY_NAME[name].shape else maybe(value)


def _is_functional(protocol: Protocol, functional: str) -> bool:
    said = protocol.functional.lower()
    return said == functional.lower() or (protocol.code == "surrogate" and functional.lower() in said)


def known_protocols(path: Path) -> dict[str, Protocol]:
    """Return the protocols that the manifest of the release around a Parquet file names; none without a manifest."""
    for folder in (path.parent, path.parent.parent):
        manifest = folder / "manifest.json"
        if not manifest.is_file():
            continue
        try:
            found = json.loads(manifest.read_text())["protocols"]
            return {
                name: Protocol(**{k: v for k, v in p.items() if k in Protocol.model_fields})
                for name, p in found.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise InputError(
                f"{manifest} does not name the protocols of its release ({error}); restore it, or move the Parquet out "
                "of the folder to import it by the names in its rows."
            ) from None
    return {}


@cache
def protocol_of_name(name: str, options: ImportOptions) -> Protocol:
    """Return the protocol that a row's ``code:functional@settings`` names; without a manifest its hash stays short."""
    code, _, rest = name.partition(":")
    functional, _, settings = rest.rpartition("@")
    if known_code(code) and functional:
        return Protocol.model_validate(
            {"code": code, "version": "", "functional": functional, "settings_hash": settings}
        )
    return external_protocol(options.name, "r2SCAN" if "r2scan" in name.lower() else name)
