"""Sanity check: LiCl must have its energy minimum near the experimental lattice constant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials.registry import Potential

if TYPE_CHECKING:
    from ase import Atoms

#: Lattice constant of LiCl, Å: 5.13 at room temperature (R. W. G. Wyckoff, Crystal Structures, vol. 1, 1963); r2SCAN
#: potentials give 5.10. Functionals from LDA (4.97) to PBE (5.15) lie within the tolerance.
LICL_A = 5.10
TOLERANCE_A = 0.2
_LATTICE = np.linspace(4.6, 5.6, 11)
_NEEDED = frozenset({3, 17})


@dataclass(frozen=True, eq=False)
class LatticeCheck:
    """Energies of LiCl along its lattice constant.

    Attributes
    ----------
    lattice, energies
        (n,), Å and eV per formula unit.
    minimum
        Lattice constant of least energy, Å, by a parabola; None where the least energy is at an end.
    """

    lattice: np.ndarray
    energies: np.ndarray
    minimum: float | None

    @property
    def plausible(self) -> bool:
        """Whether there is a minimum within :data:`TOLERANCE_A` of :data:`LICL_A`."""
        return self.minimum is not None and abs(self.minimum - LICL_A) < TOLERANCE_A

    @property
    def sentence(self) -> str:
        """What was found, for people."""
        if self.minimum is None:
            return f"LiCl has no minimum between {self.lattice[0]:.1f} and {self.lattice[-1]:.1f} Å (expected 5.1 Å)"
        return f"LiCl has its minimum at {self.minimum:.2f} Å (expected 5.1 Å)"


def lithium_chloride(energies_of: Callable[[Sequence[Atoms]], NDArray[np.floating]]) -> LatticeCheck:
    """Return energies and the minimum of LiCl, 4.6 to 5.6 Å.

    Parameters
    ----------
    energies_of
        Gives the energies of cells of one LiCl, eV; to a positive factor and a constant, if only the minimum matters.
    """
    from ase.build import bulk

    energies = np.asarray(energies_of([bulk("LiCl", "rocksalt", a=a) for a in _LATTICE]), dtype=np.float64)
    least = int(np.argmin(energies)) if np.isfinite(energies).all() else 0
    minimum = None
    if 0 < least < len(_LATTICE) - 1:
        a, b, _ = np.polyfit(_LATTICE[least - 1 : least + 2], energies[least - 1 : least + 2], 2)
        minimum = float(-b / (2 * a))
    return LatticeCheck(_LATTICE, energies, minimum)


def check_physics(potential: Potential) -> LatticeCheck | None:
    """Return the check of a potential, or None where it does not know Li and Cl.

    Raises
    ------
    InputError
        If LiCl has no minimum near 5.1 Å.
    """
    if not potential.elements >= _NEEDED:
        return None
    found = lithium_chloride(lambda cells: np.array([r.energy for r in potential.evaluate(cells)]))
    if not found.plausible:
        raise InputError(
            f"With {potential.name} {found.sentence}; its weights and the installed package do not belong together, "
            "or it is not trained: do not use it."
        )
    return found
