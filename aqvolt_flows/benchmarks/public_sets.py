"""Public sets of structures: MLIP Arena's ASE databases, WBM and GNoME as JSON tables, matcalc's equilibrium sets.

=================  =====================================================================================================
format             how it looks
=================  =====================================================================================================
ASE database       SQLite (``.db``), a row per structure, as MLIP Arena keeps its sets
table by columns   JSON of ``pandas.DataFrame.to_json``: column → row → value; matbench-discovery's WBM files
table by rows      JSON: row → columns, or a list of such rows; WBM's own files (``org``, ``opt``), matcalc's benchmarks
OBELiX             a folder with ``all.csv`` and CIFs
=================  =====================================================================================================

JSON may be compressed (``.gz``, ``.bz2``). A structure to start from and one to compare with are kept apart where a row
has both.
"""

from __future__ import annotations

import bz2
import gzip
import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from pymatgen.core import Structure

from aqvolt_flows.benchmarks.items import Item, broken_item, numbered
from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import structure_hash
from aqvolt_flows.structures import to_structure

#: Columns with a structure to start from, first the surest; and with the relaxed one.
_INITIAL = ("initial_structure", "org", "structure_init")
_RELAXED = ("final_structure", "opt", "relaxed_structure", "structure", "computed_structure_entry", "entry")
_NAMES = ("material_id", "MaterialId", "mat_id", "entry_id", "task_id", "wbm_id", "mp_id", "gnome_id", "name", "id")
_FORMATION = (
    "formation_energy_per_atom",
    "e_form_per_atom_mp2020_corrected",
    "e_form_per_atom",
    "Formation Energy Per Atom",
)


def read_public(path: str | Path) -> list[Item] | None:
    """Return the items of a public set, or None if a path is none of the formats above.

    An entry that cannot be read is an item with a reason and without a structure; the others are read. References are
    what the relaxation benchmark compares with: ``structure``, relaxed by DFT, and ``formation_energy_per_atom`` (eV),
    as far as the set has them; OBELiX's are its conductivities.

    Raises
    ------
    InputError
        If there is no such path, or a file of one of these formats cannot be opened.
    """
    place = Path(path)
    if not place.exists():
        raise InputError(f"There is no {place}; give a file or folder of structures.")
    if place.is_dir():
        if not (place / "all.csv").is_file():
            return None
        from aqvolt_flows.benchmarks.obelix import obelix_items

        return list(obelix_items(place).items)
    if _is_sqlite(place):
        return numbered(_ase_rows(place))
    if any(s in {".json"} for s in place.suffixes):
        return _json_items(place)
    return None


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(16) == b"SQLite format 3\x00"


def _ase_rows(path: Path) -> Iterator[Item]:
    """Yield the rows of an ASE database; a damaged row is passed over by its number."""
    import ase.db

    try:  # by sqlite3, which changes nothing: ASE adds its tables to a database of something else
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            ids = [int(i) for (i,) in connection.execute("SELECT id FROM systems ORDER BY id")]
    except sqlite3.Error as error:
        raise InputError(f"{path} is an SQLite file but no ASE database ({error}); expected one of ase.db.") from None
    connect: Any = ase.db.connect
    database = connect(str(path), type="db")
    for number in ids:
        name = f"{path.stem} {number}"
        try:
            row = database.get(id=number)
            pairs = dict(row.key_value_pairs)
            structure = to_structure(row.toatoms())
        except InputError as error:
            yield broken_item(name, path.name, number, str(error))
            continue
        except Exception as error:  # noqa: BLE001 - whatever ASE raises for a damaged row is that row's failure
            yield broken_item(name, path.name, number, f"row {number} cannot be read ({type(error).__name__}: {error})")
            continue
        yield _item(_named(pairs) or name, structure, None, pairs, path.stem)


def _json_items(path: Path) -> list[Item] | None:
    data = _load(path)
    rows = _rows_of(data)
    if rows is None:
        return None
    return numbered(_row_item(path, number, name, row) for number, (name, row) in enumerate(rows, 1))


def _load(path: Path) -> Any:
    opener: Any = {".gz": gzip.open, ".bz2": bz2.open}.get(path.suffix, open)
    try:
        with opener(path, "rt", encoding="utf-8") as handle:
            return json.load(handle)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}); is it complete?") from None


def _rows_of(data: Any) -> Iterable[tuple[str | None, Any]] | None:
    """Return rows with their names; None where the JSON is no table with a column of structures."""
    if isinstance(data, list):
        return [(None, row) for row in data] if any(_columns(row) for row in data) else None
    if not isinstance(data, Mapping) or not data:
        return None
    by_column = [c for c in (*_INITIAL, *_RELAXED) if isinstance(data.get(c), Mapping)]
    if by_column and not any(_is_structure(data[c]) for c in by_column):
        index = list(dict.fromkeys(k for c in by_column for k in data[c]))
        columns = {c: v for c, v in data.items() if isinstance(v, Mapping)}
        names = next((columns[c] for c in _NAMES if c in columns), {})
        return [(str(names.get(k, k)), {c: v.get(k) for c, v in columns.items()}) for k in index]
    return list(data.items()) if any(_columns(row) for row in data.values()) else None


def _columns(row: Any) -> list[str]:
    return [c for c in (*_INITIAL, *_RELAXED) if isinstance(row, Mapping) and isinstance(row.get(c), Mapping)]


def _is_structure(value: Any) -> bool:
    return isinstance(value, Mapping) and {"lattice", "sites"} <= value.keys()


def _row_item(path: Path, number: int, name: str | None, row: Any) -> Item:
    called = name or (_named(row) if isinstance(row, Mapping) else None) or f"{path.name} {number}"
    columns = _columns(row)
    if not columns:
        return broken_item(called, path.name, number, "it has no structure")
    try:
        found = {c: to_structure(_structure_in(row[c])) for c in columns}
    except InputError as error:
        return broken_item(called, path.name, number, str(error))
    initial = next((found[c] for c in _INITIAL if c in found), None)
    relaxed = next((found[c] for c in _RELAXED if c in found), None)
    start = initial or relaxed
    assert start is not None
    return _item(called, start, relaxed, row, path.name.split(".")[0])


def _structure_in(value: Mapping[str, Any]) -> Any:
    return value if _is_structure(value) else value.get("structure", value)


def _item(name: str, structure: Structure, relaxed: Structure | None, about: Mapping[str, Any], source: str) -> Item:
    energy = next((about[c] for c in _FORMATION if isinstance(about.get(c), int | float)), None)
    if energy is not None and not math.isfinite(energy):
        energy = None
    known = {"structure": relaxed, "formation_energy_per_atom": energy}
    reference = {k: v for k, v in known.items() if v is not None} or None
    return Item(name, structure_hash(structure), structure, reference, source=source)


def _named(row: Mapping[str, Any]) -> str | None:
    return next((str(row[c]) for c in _NAMES if isinstance(row.get(c), str | int) and str(row[c])), None)
