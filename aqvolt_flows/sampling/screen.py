"""Which frames are encoded: those without overlapping atoms."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list


def overlaps(atoms: Atoms, factor: float) -> bool:
    """Return whether two atoms are closer than ``factor`` times the sum of their covalent radii.

    Radii are ASE's (Cordero et al., DOI 10.1039/b801115j). Periodic images count.
    """
    if factor <= 0:
        return False
    cutoffs = factor * covalent_radii[atoms.numbers]
    return bool(len(neighbor_list("i", atoms, list(np.asarray(cutoffs, float)))))
