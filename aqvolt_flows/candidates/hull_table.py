"""Energies above the hull that come in a table of their own, for structures whose files have none (CIF, POSCAR)."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aqvolt_flows.candidates.records import Quarantined, Record, finite
from aqvolt_flows.errors import InputError

#: Names of the column of energies, eV/atom.
ENERGY_COLUMNS = ("e_above_hull_ev_per_atom", "e_above_hull", "energy_above_hull")
#: Names of the column of names.
NAME_COLUMNS = ("name", "id", "file", "material_id", "record_id")


@dataclass(eq=False)
class HullTable:
    """Energies above the hull by name.

    Attributes
    ----------
    file
        Where they are from; stored as ``e_above_hull_reference``.
    energies
        Name → eV/atom.
    used
        The names that a record had.
    """

    file: str
    energies: dict[str, float]
    used: set[str] = field(default_factory=set)

    @property
    def unused(self) -> list[str]:
        """Names that no record had."""
        return sorted(set(self.energies) - self.used)

    def applied(self, entries: Iterable[Record | Quarantined]) -> Iterator[Record | Quarantined]:
        """Yield records with the energies of the table; one that the table does not name stays as it is."""
        for entry in entries:
            yield self._with_energy(entry) if isinstance(entry, Record) else entry

    def _with_energy(self, record: Record) -> Record:
        name = next((n for n in _names(record) if n in self.energies), None)
        if name is None:
            return record
        self.used.add(name)
        given = {"e_above_hull_ev_per_atom": self.energies[name], "e_above_hull_reference": self.file}
        return replace(record, provenance=record.provenance | given)


def _names(record: Record) -> list[str]:
    """Return what a table may call a record: identifier, name, and for the first of a file that file."""
    origin = record.provenance
    names = [str(origin.get("record_id") or ""), record.name, record.name.split(" ")[0]]
    file = str(origin.get("file") or "")
    if file and int(origin.get("record") or 1) == 1:
        stem = file
        names.append(file)
        while "." in stem:
            stem = stem.rsplit(".", 1)[0]
            names.append(stem)
    return [name for name in names if name]


def read_hull_table(path: Path) -> HullTable:
    """Return a table of energies above the hull.

    Parameters
    ----------
    path
        CSV with a column of names and one of energies in eV/atom (:data:`NAME_COLUMNS`, :data:`ENERGY_COLUMNS`), or a
        JSON object of names and energies.

    Raises
    ------
    InputError
        If it is neither, an energy is no finite number, or a name stands twice with two energies.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"There is no file {path}; give a CSV or JSON table of energies above the hull.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text ({error}); give a CSV or JSON table.") from None
    rows = _json_rows(text, path) if text.lstrip().startswith(("{", "[")) else _csv_rows(text, path)
    energies: dict[str, float] = {}
    for where, name, value in rows:
        energy = finite(_number(value))
        if energy is None:
            raise InputError(f"{path}, {where}: {name!r} has the energy {value!r}; expected eV/atom above the hull.")
        if energies.get(name, energy) != energy:
            raise InputError(f"{path}, {where}: {name!r} has {energies[name]:g} and {energy:g} eV/atom; leave one.")
        energies[name] = energy
    if not energies:
        raise InputError(f"{path} has no row; expected a name and an energy above the hull in each.")
    return HullTable(path.name, energies)


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return None


def _json_rows(text: str, path: Path) -> list[tuple[str, str, Any]]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); expected an object of names and energies.") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} is a JSON list; expected an object of names and energies above the hull.")
    return [(f"key {name!r}", str(name), value) for name, value in found.items()]


def _csv_rows(text: str, path: Path) -> list[tuple[str, str, Any]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    delimiter = next((d for d in (",", ";", "\t") if lines and d in lines[0]), ",")
    reader = csv.DictReader(lines, delimiter=delimiter, skipinitialspace=True)
    columns = [c.strip() for c in reader.fieldnames or [] if c]
    name = next((c for c in NAME_COLUMNS if c in columns), None)
    energy = next((c for c in ENERGY_COLUMNS if c in columns), None)
    if name is None or energy is None:
        raise InputError(
            f"{path} has the columns {', '.join(columns) or 'none'}; expected one of {', '.join(NAME_COLUMNS)} and one "
            f"of {', '.join(ENERGY_COLUMNS)}."
        )
    rows = [{(k or "").strip(): v for k, v in row.items()} for row in reader]
    return [(f"row {n}", str(row[name] or "").strip(), row[energy]) for n, row in enumerate(rows, 1)]
