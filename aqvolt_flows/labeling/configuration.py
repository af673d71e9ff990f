"""What a labeler computes: numbers, positions and cell, in double precision, from a frame or a structure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from pymatgen.core import Structure

from aqvolt_flows.chemistry import symbols_of
from aqvolt_flows.frames import Frame

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Configuration:
    """One periodic configuration.

    Attributes
    ----------
    atomic_numbers
        (n_atoms,).
    positions
        (n_atoms, 3), Å.
    cell
        (3, 3), Å, rows are lattice vectors.
    """

    atomic_numbers: NDArray[np.int64]
    positions: Array
    cell: Array

    @classmethod
    def of_frame(cls, frame: Frame) -> Self:
        """Return a frame's configuration; what the exploring potential said of it is left out."""
        numbers = np.asarray(frame.atomic_numbers, dtype=np.int64)
        return cls(numbers, frame.positions.astype(float), frame.cell.astype(float))

    @classmethod
    def of_structure(cls, structure: Structure) -> Self:
        """Return an ordered structure's configuration."""
        numbers = np.array([site.specie.Z for site in structure], dtype=np.int64)
        return cls(numbers, np.array(structure.cart_coords, dtype=float), np.array(structure.lattice.matrix))

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.atomic_numbers)

    def to_atoms(self) -> Atoms:
        """Return periodic ASE Atoms without a calculator."""
        return Atoms(numbers=self.atomic_numbers, positions=self.positions, cell=self.cell, pbc=True)

    def to_structure(self) -> Structure:
        """Return a pymatgen Structure."""
        symbols = symbols_of(self.atomic_numbers)
        return Structure(self.cell, symbols, self.positions, coords_are_cartesian=True)

    def fields(self) -> dict[str, Any]:
        """Return atomic numbers, positions and cell (Å) as an outcome's fields."""
        return {
            "atomic_numbers": [int(z) for z in self.atomic_numbers],
            "positions": self.positions.tolist(),
            "cell": self.cell.tolist(),
        }
