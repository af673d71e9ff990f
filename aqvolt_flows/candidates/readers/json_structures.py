"""Structures in JSON: pymatgen's and ASE's, one, a list, a mapping or one a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Structure

from aqvolt_flows.candidates.records import plain_structure, structure_from_arrays, structure_from_dict
from aqvolt_flows.candidates.refusals import RecordError
from aqvolt_flows.streams import Item, first_character, stream_documents, stream_lines

#: Keys of ASE's database in JSON that hold no row.
_ASE_KEYS = {"ids", "nextid", "__len__", "metadata"}
_EXPECTED = "expected a pymatgen Structure or ASE Atoms"


def is_structure(value: Any) -> bool:
    """Return whether a JSON value looks like a structure: pymatgen's, an entry with one, or ASE's."""
    if not isinstance(value, Mapping):
        return False
    keys = value.keys()
    return (
        {"lattice", "sites"} <= keys
        or {"numbers", "positions"} <= keys
        or "atoms_json" in keys
        or (isinstance(value.get("structure"), Mapping) and "lattice" in value["structure"])
        or value.get("@class") in ("Molecule", "IMolecule")
    )


def documents(path: Path) -> Iterator[Item]:
    """Yield the documents of a JSON file: those of a list or mapping, one a line, or the one that the file is.

    The value of an item of a mapping is a (key, document) tuple, as in
    :func:`~aqvolt_flows.streams.stream_documents`.
    """
    if first_character(path) != "{":
        yield from stream_documents(path)
        return
    first = next(stream_lines(path), None)
    if first is not None and is_structure(first.value):
        yield from stream_lines(path)
        return
    items = stream_documents(path)
    head = next(items, None)
    keyed = head.value if head is not None and isinstance(head.value, tuple) else ("", None)
    if head is None or head.error or is_structure(keyed[1]) or keyed[0] in _ASE_KEYS:
        yield from (item for item in stream_documents(path) if not _is_index(item))
        return
    yield _whole([head, *items])


def _is_index(item: Item) -> bool:
    return isinstance(item.value, tuple) and item.value[0] in _ASE_KEYS and not is_structure(item.value[1])


def _whole(items: list[Item]) -> Item:
    """Return the file as one document, put together from its keys; the first error among them if there is one."""
    broken = next((item for item in items if item.error), None)
    if broken is not None:
        return Item(1, broken.line, error=broken.error, fatal=broken.fatal)
    return Item(1, 1, dict(item.value for item in items if isinstance(item.value, tuple)))


def json_structure(value: Any) -> tuple[Structure, list[str]]:
    """Return the structure of one document, and remarks on what was left out.

    Parameters
    ----------
    value
        ``Structure.as_dict()``, an entry or another mapping with it under ``structure``, ``Atoms.todict()``, a row of
        ASE's JSON database, or pymatgen's ``MSONAtoms``.

    Raises
    ------
    RecordError
        If it is none of these, or not periodic.
    """
    if isinstance(value, str) and value.lstrip()[:1] == "{":  # ase.io.jsonio writes text
        value = _loads(value)
    if not isinstance(value, Mapping):
        raise RecordError(f"it is a {type(value).__name__}; {_EXPECTED}", "not_json")
    if "atoms_json" in value:
        value = _loads(value["atoms_json"])
    if {"numbers", "positions"} <= value.keys():
        return _ase(value)
    found = value if "sites" in value else value.get("structure")
    if isinstance(found, Mapping) and "sites" in found and "lattice" not in found:
        raise RecordError("it is a molecule without a cell; expected a crystal", "not_periodic")
    if not isinstance(found, Mapping) or "sites" not in found:
        seen = ", ".join(map(str, list(value)[:8])) or "no keys"
        raise RecordError(f"it has {seen}; {_EXPECTED}", "no_structure")
    pbc = found["lattice"].get("pbc") if isinstance(found["lattice"], Mapping) else None
    if pbc is not None and not np.all(pbc):
        raise RecordError(f"it is periodic as {pbc}; expected a crystal", "not_periodic")
    remarks = []
    properties = {k for s in found["sites"] if isinstance(s, Mapping) for k in (s.get("properties") or ())}
    if properties:
        remarks.append(f"left out: {', '.join(sorted(map(str, properties)))} of its sites")
    return structure_from_dict(found), remarks


def _loads(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        raise RecordError("its atoms_json is not JSON", "not_json") from None


def _ase(value: Mapping[str, Any]) -> tuple[Structure, list[str]]:
    cell = value.get("cell")
    cell = _array(cell["array"] if isinstance(cell, Mapping) and "array" in cell else cell)
    pbc = _array(value.get("pbc"))
    if cell.shape == (3,):
        cell = np.diag(cell)
    if pbc.dtype.kind not in "biu" or not pbc.size or not pbc.all() or not np.any(cell):
        raise RecordError(f"pbc is {np.array(pbc).tolist()}; expected a crystal with a cell", "not_periodic")
    numbers = _array(value["numbers"])
    if numbers.dtype.kind not in "iu" or numbers.ndim != 1 or not ((numbers > 0) & (numbers < 119)).all():
        raise RecordError("numbers is not a list of atomic numbers", "unknown_element")
    structure = structure_from_arrays(cell, numbers.tolist(), _array(value["positions"]), cartesian=True)
    plain, remarks = plain_structure(structure)
    dropped = sorted({"magmoms", "initial_magmoms", "momenta", "initial_charges"} & value.keys())
    return plain, [*remarks, *([f"left out: {', '.join(dropped)} of its atoms"] if dropped else [])]


def _array(value: Any) -> np.ndarray[Any, Any]:
    """Return an array that ASE wrote, as a list or as ``{"__ndarray__": [shape, dtype, values]}``."""
    try:
        if isinstance(value, Mapping) and "__ndarray__" in value:
            shape, dtype, values = value["__ndarray__"]
            if np.dtype(dtype).kind not in "biuf":
                raise RecordError(f"an array is of type {str(dtype)[:20]}; expected numbers")
            return np.array(values, dtype=dtype).reshape(shape)
        return np.array(value if value is not None else [])
    except RecordError:
        raise
    except (TypeError, ValueError, OverflowError, KeyError):
        raise RecordError("an array cannot be read") from None
