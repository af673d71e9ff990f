"""Ten hosts of the kinds that the campaign lithiates, each in four cells; cells and coordinates are rounded."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import spglib
from pymatgen.core import Lattice, Structure

HOSTS = {
    "TiCl3 (R-3)": ("R-3", Lattice.hexagonal(6.12, 17.5), ["Ti", "Cl"], [[0, 0, 1 / 3], [0.336, 0.002, 0.0785]]),
    "FeCl3 (R-3)": ("R-3", Lattice.hexagonal(6.065, 17.44), ["Fe", "Cl"], [[0, 0, 1 / 3], [0.332, 0.0, 0.077]]),
    "FeF3 (R-3c)": ("R-3c", Lattice.hexagonal(5.2, 13.33), ["Fe", "F"], [[0, 0, 0], [0.412, 0, 0.25]]),
    "VF3 (R-3c)": ("R-3c", Lattice.hexagonal(5.17, 13.4), ["V", "F"], [[0, 0, 0], [0.395, 0, 0.25]]),
    "NbF3 (ReO3)": ("Pm-3m", Lattice.cubic(3.9), ["Nb", "F"], [[0, 0, 0], [0.5, 0, 0]]),
    "NiF2 (rutile)": ("P4_2/mnm", Lattice.tetragonal(4.65, 3.08), ["Ni", "F"], [[0, 0, 0], [0.302, 0.302, 0]]),
    "CuCl2 (C2/m)": ("C2/m", Lattice.monoclinic(6.9, 3.3, 6.82, 122.2), ["Cu", "Cl"], [[0, 0, 0], [0.506, 0, 0.242]]),
    "K2NiF6 (Fm-3m)": (
        "Fm-3m",
        Lattice.cubic(8.1),
        ["K", "Ni", "F"],
        [[0.25, 0.25, 0.25], [0, 0, 0], [0.22, 0, 0]],
    ),
    "LiMn2O4 without Li": ("Fd-3m", Lattice.cubic(8.03), ["Mn", "O"], [[0.625, 0.625, 0.625], [0.388, 0.388, 0.388]]),
    "TiBr2 (P-3m1)": ("P-3m1", Lattice.hexagonal(3.63, 6.49), ["Ti", "Br"], [[0, 0, 0], [1 / 3, 2 / 3, 0.25]]),
}
CELLS = ("primitive", "conventional", "2x1x1", "niggli of 2x1x1")


@cache
def conventional(name: str) -> Structure:
    group, lattice, species, sites = HOSTS[name]
    return Structure.from_spacegroup(group, lattice, species, sites)


@cache
def in_cell(name: str, cell: str) -> Structure:
    """The host in another cell, its vectors not turned."""
    host = conventional(name)
    matrix = np.asarray(host.lattice.matrix)
    if cell == "primitive":
        numbers = (matrix, host.frac_coords, host.atomic_numbers)
        matrix = spglib.standardize_cell(numbers, to_primitive=True, no_idealize=True, symprec=1e-4)[0]
    elif cell != "conventional":
        matrix = np.diag([2, 1, 1]) @ matrix
        matrix = spglib.niggli_reduce(matrix) if cell.startswith("niggli") else matrix
    return filled(host, matrix)


def filled(host: Structure, matrix: np.ndarray) -> Structure:
    """The crystal's atoms in a cell of other whole combinations of its vectors."""
    shifts = np.array(np.meshgrid(*[range(-2, 3)] * 3)).reshape(3, -1).T
    cart = (host.frac_coords[None] + shifts[:, None]).reshape(-1, 3) @ host.lattice.matrix
    numbers = np.tile(host.atomic_numbers, len(shifts))
    frac = np.mod(np.round(cart @ np.linalg.inv(matrix), 9), 1.0)
    _, first = np.unique(np.round(frac, 5) % 1.0, axis=0, return_index=True)
    order = sorted(first)
    made = Structure(Lattice(matrix), [int(n) for n in numbers[order]], frac[order])
    assert made.volume / len(made) == pytest.approx(host.volume / len(host))
    return made
