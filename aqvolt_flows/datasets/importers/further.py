"""What records hold beside energy, forces and stress: moments, charges, band gap, Fermi level, band edges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aqvolt_flows.datasets.columns import BY_NAME
from aqvolt_flows.datasets.importers.published import maybe, moment_list

#: Column of a label → the names that datasets give it, the preferred first.
NAMES: dict[str, tuple[str, ...]] = {
    "magmoms": ("magmoms", "magmom", "magnetic_moments"),
    "charges": ("charges", "bader_charges"),
    "bandgap": ("bandgap", "band_gap", "electronic_band_gap", "band_gap_indirect"),
    "efermi": ("efermi", "fermi_level", "fermi_energy", "e_fermi"),
    "vbm": ("vbm",),
    "cbm": ("cbm",),
}


def further_results(
    record: Mapping[str, Any], n_atoms: int, energy_factor: float = 1.0
) -> tuple[dict[str, Any], set[str]]:
    """Return column → value of what a record holds, and the keys that were read; what is no number is left out.

    Parameters
    ----------
    record
        Key → value.
    n_atoms
        Moments (µB) and charges (e) are one per atom; a ``magmom`` of the whole cell is none.
    energy_factor
        From the unit of the record's energies to eV.
    """
    found: dict[str, Any] = {}
    read: set[str] = set()
    for column, names in NAMES.items():
        for name in names:
            value = record.get(name)
            if value is None:
                continue
            if BY_NAME[column].shape:
                given = np.ravel(value).tolist() if isinstance(value, np.ndarray | list | tuple) else None
                made: Any = moment_list(given, n_atoms)
            else:
                number = maybe(value)
                made = None if number is None else number * energy_factor
            if made is not None:
                found[column] = made
                read.add(name)
                break
    return found, read
