"""ColabFit's Parquet (https://huggingface.co/colabfit): one row a configuration with the results of one calculation.

The columns are those of ColabFit's own schema, in eV, eV/Å and Å. ``cauchy_stress`` is 3 × 3, eV/Å³; where
``cauchy_stress_volume_normalized`` is true it was multiplied by the volume. ColabFit does not say its sign: it is taken
as a Cauchy stress is defined, tension positive, and ``--units stress=-eV/A^3`` says otherwise. ``method`` is the
functional (``DFT-PBE``). Many sets have no stress; their rows are no labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aqvolt_flows.datasets.importers.columnar import row_entries, row_outcome, table_rows
from aqvolt_flows.datasets.importers.demands import periodic, stated_functional
from aqvolt_flows.datasets.importers.notes import Notes
from aqvolt_flows.datasets.importers.published import (
    Entry,
    Imported,
    ImportOptions,
    RecordError,
    Skipped,
    atomic_numbers,
    external_protocol,
    stress,
    text,
)

REQUIRED = ("atomic_numbers", "positions", "cell", "energy", "atomic_forces", "cauchy_stress")
_NUMBERS = {"cell": "cell", "positions": "positions", "energy": "energy", "forces": "atomic_forces"}
#: Scalars kept as provenance.
KEPT = ("dataset_id", "configuration_id", "software", "method", "formation_energy", "energy_above_hull")
COLUMNS = (
    *REQUIRED,
    *KEPT,
    "cauchy_stress_volume_normalized",
    "electronic_band_gap",
    "property_id",
    "pbc",
    "names",
)


def colabfit_entries(path: Path, options: ImportOptions, notes: Notes) -> Iterator[Entry]:
    """Yield the labels of a table, a few hundred rows in memory at a time.

    Raises
    ------
    InputError
        If the file is not whole or lacks columns.
    """
    if "stress" not in options.named_units():
        notes.say(
            "ColabFit does not say the sign of its stresses; they are taken as tension positive (--units "
            "stress=-eV/A^3 for the other)."
        )
    rows = table_rows(path, COLUMNS, REQUIRED, "ColabFit's layout", notes)
    yield from row_entries(path, rows, lambda row, where: colabfit_entry(row, where, options), _name)


def colabfit_entry(row: Mapping[str, Any], where: Mapping[str, Any], options: ImportOptions) -> Entry:
    """Return the label of one row.

    Raises
    ------
    RecordError
        If it is not periodic, nobody says its functional, or a number is missing, of another shape or not finite.
    """
    functional = stated_functional(text(row.get("method")), options, f"{where['file']} (column method)")
    if options.functional is not None and functional.lower() != options.functional.lower():
        return Skipped("other_functional")
    periodic(row["pbc"] if row.get("pbc") is not None else (True, True, True))
    units = {"energy": "eV", "forces": "eV/A", "stress": "eV/A^3", "length": "A"} | options.named_units()
    numbers = atomic_numbers(row.get("atomic_numbers"))
    protocol = external_protocol(options.name, functional, text(row.get("software")) or "")
    outcome = row_outcome(row, _NUMBERS, numbers, protocol, units, lambda cell: _stress(row, cell, units["stress"]))
    name = _name(row)
    kept = {k: row[k] for k in KEPT if row.get(k) not in (None, "")}
    provenance = {**where, "database": options.name} | ({"record_id": name} if name else {}) | kept
    return Imported(outcome=outcome, provenance=provenance)


def _name(row: Mapping[str, Any]) -> str | None:
    return text(row.get("property_id"))


def _stress(row: Mapping[str, Any], cell: Any, unit: str) -> Any:
    given = row.get("cauchy_stress")
    if given is None or len(given) == 0:
        raise RecordError("no_stress: its cauchy_stress is missing; a label needs energy, forces and stress")
    found = stress(given, unit)
    if not row.get("cauchy_stress_volume_normalized"):
        return found
    volume = abs(float(np.linalg.det(cell)))
    if volume < 1e-6:
        raise RecordError("flat_cell: its cell has no volume, by which its stress was multiplied")
    return found / volume
