"""MatPES and MP-ALOE documents (Kaplan et al., arXiv:2503.04070), from JSON or from the Parquet tables.

Their energy is VASP's ``e_0_energy`` (eV), their forces are eV/Å, and their stress is six numbers in **kbar** with
VASP's sign, in the order xx yy zz yz xz xy. MP-ALOE adds a few fields; its rows that were taken from the Materials
Project name ``provenance.original_mp_id``, and the paper drops them when it combines both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aqvolt_flows.datasets.importers.published import (
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
    structure_arrays,
    text,
)

STRESS_UNIT = "kbar"
#: Columns of the Parquet tables that are read.
COLUMNS = (
    "structure",
    "cell",
    "atomic_numbers",
    "cart_coords",
    "magmoms",
    "energy",
    "forces",
    "stress",
    "matpes_id",
    "mp_aloe_id",
    "material_id",
    "functional",
    "bandgap",
    "bader_charges",
    "cohesive_energy_per_atom",
    "formation_energy_per_atom",
    "provenance",
    "ionic_step_number",
    "prototype_number",
    "is_charge_balanced",
    "has_overlapping_pseudo_cores",
)
#: Scalars kept as provenance, beside those of the document's own provenance.
_KEPT = (
    "formation_energy_per_atom",
    "ionic_step_number",
    "prototype_number",
    "is_charge_balanced",
    "has_overlapping_pseudo_cores",
)


def identifier(document: Mapping[str, Any]) -> str | None:
    """Return a document's own identifier."""
    names = ("mp_aloe_id", "matpes_id", "material_id", "task_id")
    return next((str(document[n]) for n in names if document.get(n) not in (None, "")), None)


def matpes_entry(document: Mapping[str, Any], where: Mapping[str, Any], options: ImportOptions) -> Entry:
    """Return the label of one document, or why it is left out.

    Parameters
    ----------
    document
        As in the JSON files (``structure``) or the tables (``cell``, ``atomic_numbers``, ``cart_coords``).
    where
        ``file`` and ``record``, for the provenance.
    options
        Functional, and what to do with rows from the Materials Project.

    Raises
    ------
    RecordError
        If a number is missing, of another shape or not finite.
    """
    functional = text(document.get("functional")) or "r2SCAN"
    if options.functional is not None and functional.lower() != options.functional.lower():
        return Skipped("other_functional")
    origin = document.get("provenance")
    origin = dict(origin) if isinstance(origin, Mapping) else {}
    if options.source == "mp-aloe" and not options.keep_mp_rows and origin.get("original_mp_id"):
        return Skipped("from_materials_project")
    name = identifier(document)
    if name is None:
        raise RecordError("it has no matpes_id or mp_aloe_id; a label needs an identity of its own")
    atoms = _atoms(document)
    n_atoms = len(atoms["atomic_numbers"])
    charges = moment_list(document.get("bader_charges"), n_atoms)
    outcome = converged(
        frame_name(options, name),
        external_protocol(options.name, functional),
        atoms,
        energy=finite(document.get("energy"), "energy"),
        forces=array(document.get("forces"), (n_atoms, 3), "forces"),
        stress=stress(document.get("stress"), STRESS_UNIT),
        bandgap=maybe(document.get("bandgap")),
        charges=charges,
    )
    provenance = {**where, "database": options.name, "record_id": name}
    provenance |= {k: v for k, v in origin.items() if v is not None}
    provenance |= {k: document[k] for k in _KEPT if document.get(k) is not None}
    if charges is not None:
        provenance["charges"] = "bader"
    return Imported(
        outcome=outcome,
        provenance=provenance,
        temperature_k=maybe(origin.get("md_temperature")),
        cohesive_energy=maybe(document.get("cohesive_energy_per_atom")),
    )


def frame_name(options: ImportOptions, record_id: str) -> str:
    """Return the identity of a published configuration, e.g. ``matpes-20240214_999484_73``, ``matpes-mp-149``."""
    prefix = options.name.lower().replace(" ", "-")
    return record_id if record_id.startswith(f"{prefix}-") else f"{prefix}-{record_id}"


def _atoms(document: Mapping[str, Any]) -> dict[str, Any]:
    found = document.get("structure")
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except ValueError as error:
            raise RecordError(f"its structure is not JSON ({error})") from None
    if found is not None or document.get("cell") is None:
        return structure_arrays(found)
    numbers = atomic_numbers(document.get("atomic_numbers"))
    return {
        "atomic_numbers": numbers,
        "positions": array(document.get("cart_coords"), (len(numbers), 3), "cart_coords"),
        "cell": array(document["cell"], (3, 3), "cell"),
        "magmoms": moment_list(document.get("magmoms"), len(numbers)),
    }
