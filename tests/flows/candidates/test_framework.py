"""The comparison of a crystal before and after a relaxation: one verdict, whatever cell it is written in.

Ten hosts of the kinds that the campaign lithiates; cells and coordinates are rounded from the literature, which does
not matter here. Numbers are checked against pymatgen's ``StructureMatcher`` without its reduction to primitive cells.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from hosts_in_cells import CELLS, HOSTS, conventional, in_cell
from pymatgen.core import Lattice, Structure
from pymatgen.core.structure_matcher import StructureMatcher

from aqvolt_flows.candidates.framework import Tolerances, compare, displacements, lattice_change, primitive_basis
from aqvolt_flows.candidates.limits import Host, judge_insertion
from aqvolt_flows.candidates.substitute import framework_change
from aqvolt_flows.schemas.generation import LithiationParameters


def distorted(host: Structure, name: str, strain: np.ndarray, amplitude: float, seed: int = 0) -> Structure:
    """The structure strained, its atoms moved by a field that has the periods of the primitive lattice."""
    primitive = primitive_basis(conventional(name))
    inner = np.round(host.cart_coords @ np.linalg.inv(primitive) % 1.0, 6) % 1.0
    waves = np.random.default_rng(seed).normal(size=(3, 3))
    moves = np.sin(2 * np.pi * inner) @ waves + np.cos(2 * np.pi * inner) @ waves.T
    cart = (host.cart_coords + amplitude * moves) @ (np.eye(3) + strain)
    lattice = Lattice(host.lattice.matrix @ (np.eye(3) + strain))
    return Structure(lattice, host.species, cart, coords_are_cartesian=True)


def rattled(host: Structure, amplitude: float, seed: int) -> Structure:
    cart = host.cart_coords + np.random.default_rng(seed).normal(scale=amplitude, size=(len(host), 3))
    return Structure(Lattice(host.lattice.matrix * 1.01), host.species, cart * 1.01, coords_are_cartesian=True)


STRAIN = np.array([[0.02, 0.012, 0], [0, -0.01, 0.008], [0.005, 0, 0.03]])


@pytest.mark.parametrize("name", HOSTS)
def test_a_host_has_one_verdict_and_one_set_of_numbers_in_four_cells(name: str) -> None:
    found = []
    for cell in CELLS:
        host = in_cell(name, cell)
        change = compare(host, distorted(host, name, STRAIN, 0.05), Tolerances())
        found.append([change.rms_a, change.max_displacement_a, change.length_change, change.angle_change])
        assert change.kept, (cell, change)
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("cell", CELLS)
def test_an_intact_host_without_symmetry_is_kept(name: str, cell: str) -> None:
    """What Li does to the framework: every atom moves by 0.05 Å in its own way."""
    host = in_cell(name, cell)
    after = rattled(host, 0.05, 3)
    ours = compare(host, after, Tolerances())
    assert ours.kept, ours.limit
    if len(host) <= 24:
        theirs = StructureMatcher(primitive_cell=False).get_rms_dist(host, after)
        unit = (host.volume * after.volume) ** (1 / 6) / len(host) ** (1 / 3)
        assert ours.rms_a == pytest.approx(theirs[0] * unit, rel=0.02)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("strain", "amplitude", "said"),
    [
        (np.diag([0.5, -0.2, -0.2]), 0.0, "length of the primitive cell|angle of the primitive cell"),
        (np.array([[0, 0, 0.5], [0, 0, 0], [0, 0, 0]]), 0.0, "angle of the primitive cell"),
        (np.zeros((3, 3)), 1.2, "an atom moved"),
    ],
)
def test_a_changed_framework_is_refused_in_every_cell_with_the_limit(
    cell: str, strain: np.ndarray, amplitude: float, said: str
) -> None:
    host = in_cell("FeF3 (R-3c)", cell)
    change = compare(host, distorted(host, "FeF3 (R-3c)", strain, amplitude), Tolerances())
    assert not change.kept
    assert change.rms_a is None
    assert re.search(said, change.limit)


def test_the_routes_use_it() -> None:
    """The issue's own case: lithiated TiCl3 in the hexagonal cell of 24 atoms, its volume 3 % larger."""
    host = conventional("TiCl3 (R-3)")
    assert len(host) == 24
    assert StructureMatcher().get_rms_dist(host, rattled(host, 0.12, 1)) is None  # 8 atoms against 24
    lithiated = rattled(host, 0.12, 1)
    lithiated.append("Li", [0, 0, 0.5])
    found = judge_insertion(Host(host, host), lithiated, LithiationParameters())
    assert found.kept
    assert found.change.rms_a == pytest.approx(0.12 * 3**0.5, rel=0.3)
    assert found.change.volume_change == pytest.approx(1.01**3 - 1)
    moved = framework_change(host, rattled(host, 0.03, 1))
    assert moved.kept
    assert moved.as_decisions()["limit"] is None
    assert moved.as_decisions()["angle_change_deg"] == pytest.approx(0, abs=1e-5)


def test_atoms_that_swapped_are_matched_as_before() -> None:
    """Two atoms of one element in each other's place are the same crystal, though each moved far."""
    host = conventional("NiF2 (rutile)")
    after = host.copy()
    frac = np.array(after.frac_coords)
    frac[[2, 3]] = frac[[3, 2]]
    swapped = Structure(host.lattice, host.species, frac)
    assert compare(host, swapped, Tolerances()).kept
    assert compare(host, swapped, Tolerances()).rms_a == pytest.approx(0, abs=1e-6)


def test_a_shift_of_the_whole_crystal_is_no_displacement() -> None:
    host = conventional("K2NiF6 (Fm-3m)")
    for shift in (0.1, 0.5, 0.75):
        moved = Structure(host.lattice, host.species, np.array(host.frac_coords) + np.array([shift, -shift, 0.5]))
        assert displacements(host, moved) == pytest.approx((0, 0), abs=1e-9)


def test_a_uniform_change_of_volume_changes_neither_lengths_nor_angles() -> None:
    host = conventional("CuCl2 (C2/m)")
    larger = Structure(Lattice(host.lattice.matrix * 1.1), host.species, host.frac_coords)
    assert lattice_change(host, larger, Tolerances()) == pytest.approx((0, 0), abs=1e-6)
    assert compare(host, larger, Tolerances()).volume_change == pytest.approx(1.1**3 - 1)
