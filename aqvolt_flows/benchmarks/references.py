"""What people have as references: Atoms with results, documents of statics, a release folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Structure

from aqvolt_flows.benchmarks.force_bins import Reference
from aqvolt_flows.benchmarks.release_data import read_release
from aqvolt_flows.errors import InputError
from aqvolt_flows.structures import to_structure

EXPECTED = (
    "expected ASE Atoms with calculator results, documents of statics (structure, energy, forces, stress), or the "
    "path of a release folder"
)
#: References looked at when a job is made; all of them when it runs.
_SAMPLE = 16


@dataclass(frozen=True, eq=False)
class Referenced:
    """A structure and what a model is compared with."""

    structure: Structure
    reference: Reference


def references_as_plain(given: Any) -> Any:
    """Return references as a job's argument: Atoms with their results as plain values, the others as they are.

    Raises
    ------
    InputError
        If Atoms have no energy or forces: jobflow would carry only their structure.
    """
    if isinstance(given, list | tuple):
        return [references_as_plain(one) for one in given]
    if isinstance(given, Path):
        return str(given)
    return _of_atoms(given) if hasattr(given, "get_positions") else given


def read_references(given: Any, split: str = "all", sample: bool = False) -> list[Referenced]:
    """Return references, checked, in order.

    Parameters
    ----------
    given
        See :data:`EXPECTED`; a document without energy or forces (a failed static) is refused by its number.
    split
        Of a release.
    sample
        Look at the first few only.

    Raises
    ------
    InputError
        If there is none, or for anything else.
    """
    if isinstance(given, str | Path):
        folder = Path(given)
        if not (folder / "manifest.json").is_file():
            raise InputError(f"{given!r} is no release folder (it has no manifest.json); {EXPECTED}.")
        rows = [] if sample else [item for batch in read_release(folder, split) for item in batch]
        if not rows and not sample:
            raise InputError(f"The split {split!r} of {given} has no labels; choose another split.")
        return [Referenced(to_structure(item.atoms), item.reference) for item in rows]
    listed = list(given) if isinstance(given, Sequence) and not isinstance(given, Mapping) else [given]
    if not listed:
        raise InputError(f"The list of references is empty; {EXPECTED}.")
    return [_of_document(one, index) for index, one in enumerate(listed[:_SAMPLE] if sample else listed)]


def _of_atoms(atoms: Any) -> dict[str, Any]:
    results = dict(getattr(atoms.calc, "results", {}) or {}) if atoms.calc is not None else {}
    if not {"energy", "forces"} <= results.keys():
        raise InputError(
            f"The Atoms {atoms.symbols} carry no energy and forces; {EXPECTED}: read them with ase.io from a file that "
            "has them, or attach a SinglePointCalculator."
        )
    stress = results.get("stress")
    return {
        "structure": to_structure(atoms),
        "energy": float(results["energy"]),
        "forces": np.asarray(results["forces"], dtype=float).tolist(),
        "stress": None if stress is None else np.asarray(stress, dtype=float).reshape(-1).tolist(),
        "label_id": str(atoms.info.get("label_id", "")),
    }


def _of_document(one: Any, index: int) -> Referenced:
    get = one.get if isinstance(one, Mapping) else lambda name: getattr(one, name, None)
    if not isinstance(one, Mapping) and not hasattr(one, "structure"):
        raise InputError(f"Reference {index} is a {type(one).__name__}; {EXPECTED}.")
    structure, energy, forces = get("structure"), get("energy"), get("forces")
    missing = [n for n, v in (("structure", structure), ("energy", energy), ("forces", forces)) if v is None]
    if missing:
        raise InputError(f"Reference {index} has no {' and no '.join(missing)}; {EXPECTED}.")
    checked = to_structure(structure, f"structure of reference {index}")
    values = np.asarray(forces, dtype=float)
    if values.shape != (len(checked), 3):
        raise InputError(f"Reference {index} has forces of shape {values.shape}; expected ({len(checked)}, 3).")
    stress = get("stress")
    six = None if stress is None else np.asarray(stress, dtype=float).reshape(-1)
    if six is not None and six.shape != (6,):
        raise InputError(f"Reference {index} has a stress of {six.size} numbers; expected 6, eV/Å³.")
    return Referenced(checked, Reference(str(get("label_id") or index), float(np.asarray(energy)), values, six))
