"""LeMat-Bulk and LeMat-Traj (https://huggingface.co/LeMaterial): OPTIMADE's columns with results of VASP.

Energies are eV, forces eV/Å, and ``stress_tensor`` is 3 × 3 in kbar with VASP's sign, as the Materials Project's tasks
have it, from which these rows are copied unchanged; of rows from Alexandria and OQMD no document says the unit, and
they are read the same way (``--units stress=…`` says otherwise). LeMat-Traj's energy is VASP's free energy,
LeMat-Bulk's the task's energy; ``energy_corrected`` is not read. ``dos_ef`` is a Fermi level in rows of the Materials
Project and a density of states in those of Alexandria, so it is kept as provenance only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pymatgen.core import Element

from aqvolt_flows.datasets.importers.columnar import row_entries, row_outcome, table_rows
from aqvolt_flows.datasets.importers.demands import periodic, stated_functional
from aqvolt_flows.datasets.importers.notes import Notes
from aqvolt_flows.datasets.importers.published import (
    Entry,
    Imported,
    ImportOptions,
    RecordError,
    Skipped,
    external_protocol,
    stress,
    text,
)

REQUIRED = ("species_at_sites", "cartesian_site_positions", "lattice_vectors", "energy", "forces", "stress_tensor")
_NUMBERS = {
    "cell": "lattice_vectors",
    "positions": "cartesian_site_positions",
    "energy": "energy",
    "forces": "forces",
}
#: Scalars kept as provenance.
KEPT = ("relaxation_step", "relaxation_number", "cross_compatibility", "total_magnetization", "dos_ef")
COLUMNS = (
    *REQUIRED,
    *KEPT,
    "immutable_id",
    "id",
    "functional",
    "dimension_types",
    "magnetic_moments",
    "charges",
    "band_gap_indirect",
)


def lemat_entries(path: Path, options: ImportOptions, notes: Notes) -> Iterator[Entry]:
    """Yield the labels of a table, a few hundred rows in memory at a time.

    Raises
    ------
    InputError
        If the file is not whole or lacks columns.
    """

    def entry(row: Mapping[str, Any], where: Mapping[str, Any]) -> Entry:
        if "stress" not in options.named_units() and not (_name(row) or "").startswith("mp-"):
            notes.say(
                "No document says the unit of stress of rows that are not the Materials Project's; it is taken as "
                "kbar with VASP's sign (--units stress=… for another)."
            )
        return lemat_entry(row, where, options)

    rows = table_rows(path, COLUMNS, REQUIRED, "LeMat's layout", notes)
    yield from row_entries(path, rows, entry, _name)


def lemat_entry(row: Mapping[str, Any], where: Mapping[str, Any], options: ImportOptions) -> Entry:
    """Return the label of one row.

    Raises
    ------
    RecordError
        If it is not periodic, nobody says its functional, or a number is missing, of another shape or not finite.
    """
    functional = stated_functional(text(row.get("functional")), options, f"{where['file']} (column functional)")
    if options.functional is not None and functional.lower() != options.functional.lower():
        return Skipped("other_functional")
    periodic(row["dimension_types"] if row.get("dimension_types") is not None else (True, True, True))
    if row.get("stress_tensor") is None:
        raise RecordError("no_stress: its stress_tensor is missing; a label needs energy, forces and stress")
    units = {"energy": "eV", "forces": "eV/A", "stress": "kbar", "length": "A"} | options.named_units()
    numbers = _numbers(row.get("species_at_sites"))
    protocol = external_protocol(options.name, functional)
    outcome = row_outcome(
        row, _NUMBERS, numbers, protocol, units, lambda _cell: stress(row["stress_tensor"], units["stress"])
    )
    kept = {k: row[k] for k in KEPT if row.get(k) is not None}
    name = _name(row)
    provenance = {**where, "database": options.name} | ({"record_id": name} if name else {}) | kept
    return Imported(outcome=outcome, provenance=provenance)


def _name(row: Mapping[str, Any]) -> str | None:
    """Return the row's identity; a step of a trajectory carries its numbers."""
    name = text(row.get("immutable_id")) or text(row.get("id"))
    steps = [str(row[k]) for k in ("relaxation_number", "relaxation_step") if row.get(k) is not None]
    return "-".join([name, *steps]) if name else None


def _numbers(species: Any) -> list[int]:
    if not isinstance(species, list) or not species:
        raise RecordError("it has no atoms")
    try:
        return [int(Element(str(symbol)).Z) for symbol in species]
    except ValueError:
        raise RecordError("its species_at_sites are not symbols of elements; a label is of whole atoms") from None
