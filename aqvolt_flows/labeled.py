"""Labeled structures as people have them: ASE Atoms with results, or documents of statics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from aqvolt_flows.errors import InputError
from aqvolt_flows.structures import to_structure

Array = NDArray[np.float64]
EXPECTED = (
    "expected ASE Atoms with calculator results, documents of statics (structure, energy, forces, stress), or the "
    "path of a release folder"
)
#: Labels looked at when a job is made; all of them when it runs.
_SAMPLE = 16


@dataclass(frozen=True, eq=False)
class Labeled:
    """A structure with its label.

    Attributes
    ----------
    name
        Its label_id, or its place in the list.
    energy
        Total, eV.
    forces
        (n_atoms, 3), eV/Å.
    stress
        (6,), eV/Å³, ASE sign and order, or None.
    """

    name: str
    structure: Structure
    energy: float
    forces: Array
    stress: Array | None


def labels_as_plain(given: Any) -> Any:
    """Return labels as a job's argument: Atoms with their results as plain values, the others as they are.

    Raises
    ------
    InputError
        If Atoms have no energy or forces: jobflow would carry only their structure.
    """
    if isinstance(given, Path):
        return str(given)
    if hasattr(given, "get_positions"):
        return _of_atoms(given)
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        return [labels_as_plain(one) for one in given]
    return given


def release_path(given: Any) -> Path | None:
    """Return the release folder that a string or path names; None for anything else.

    Raises
    ------
    InputError
        If there is no release there.
    """
    if not isinstance(given, str | Path):
        return None
    folder = Path(given)
    if not (folder / "manifest.json").is_file():
        raise InputError(f"{str(given)!r} is no release folder (it has no manifest.json); {EXPECTED}.")
    return folder


def to_labeled(given: Any, sample: bool = False) -> list[Labeled]:
    """Return labeled structures, checked, in order.

    Parameters
    ----------
    given
        One or a list; a document without energy or forces (a failed static) is refused by its number.
    sample
        Look at the first few only.

    Raises
    ------
    InputError
        If there is none, or for anything else.
    """
    listed = list(given) if isinstance(given, Sequence) and not isinstance(given, Mapping | str) else [given]
    if not listed:
        raise InputError(f"The list of labeled structures is empty; {EXPECTED}.")
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


def _of_document(one: Any, index: int) -> Labeled:
    if hasattr(one, "get_positions"):
        one = _of_atoms(one)
    get = one.get if isinstance(one, Mapping) else lambda name: getattr(one, name, None)
    if not isinstance(one, Mapping) and not hasattr(one, "structure"):
        raise InputError(f"Label {index} is a {type(one).__name__}; {EXPECTED}.")
    structure, energy, forces = get("structure"), get("energy"), get("forces")
    missing = [n for n, v in (("structure", structure), ("energy", energy), ("forces", forces)) if v is None]
    if missing:
        raise InputError(f"Label {index} has no {' and no '.join(missing)}; {EXPECTED}.")
    checked = to_structure(structure, f"structure of label {index}")
    values = np.asarray(forces, dtype=float)
    if values.shape != (len(checked), 3):
        raise InputError(f"Label {index} has forces of shape {values.shape}; expected ({len(checked)}, 3).")
    stress = get("stress")
    six = None if stress is None else np.asarray(stress, dtype=float).reshape(-1)
    if six is not None and six.shape != (6,):
        raise InputError(f"Label {index} has a stress of {six.size} numbers; expected 6, eV/Å³.")
    if not (np.isfinite(float(np.asarray(energy))) and np.isfinite(values).all()):
        raise InputError(f"Label {index} has an energy or forces that are not finite; leave it out.")
    return Labeled(str(get("label_id") or index), checked, float(np.asarray(energy)), values, six)
