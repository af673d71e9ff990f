"""g(r) around lithium: ase's own, an ideal gas, and a crystal's coordination."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from aqvolt_flows.benchmarks.rdf import R_MAX_A, around_lithium, difference, differences


def of(atoms: Atoms):
    return around_lithium(atoms.numbers.astype(np.int64), atoms.positions[None], np.asarray(atoms.cell)[None])


def test_six_chlorine_around_lithium_in_rock_salt_whatever_the_cell():
    """LiCl, a = 5.13 Å: 6 Cl at 2.565 Å, 8 more at 4.443 Å; the primitive cell gives what a supercell gives."""
    primitive, large = bulk("LiCl", "rocksalt", a=5.13), bulk("LiCl", "rocksalt", a=5.13) * (3, 3, 3)
    small = of(primitive)["Cl"]
    assert small.neighbors_within(3.0) == pytest.approx(6.0)
    assert small.neighbors_within(5.0) == pytest.approx(14.0)
    assert difference(small, of(large)["Cl"]) < 1e-6


def test_it_is_ases_where_both_apply():
    from ase.geometry.rdf import get_rdf

    rng = np.random.default_rng(0)
    atoms = bulk("LiCl", "rocksalt", a=5.13, cubic=True) * (3, 3, 3)
    atoms.positions += rng.normal(0, 0.2, atoms.positions.shape)
    found = of(atoms)["Cl"]
    reference, _ = get_rdf(atoms, R_MAX_A, len(found.g), elements=(3, 17))
    # ase's shells are 4πr²dr at the bin's center, and it divides by N²/V of both elements' numbers
    np.testing.assert_allclose(found.g[40:], reference[40:], rtol=1e-2)


def test_an_ideal_gas_is_flat():
    rng = np.random.default_rng(1)
    cell = np.eye(3) * 15.0
    positions = rng.uniform(0, 15, (20, 400, 3))
    numbers = np.array([3] * 200 + [17] * 200)
    found = around_lithium(numbers, positions, np.tile(cell, (20, 1, 1)))["Cl"]
    assert found.g[60:].mean() == pytest.approx(1.0, abs=0.02)


def test_difference_is_zero_for_equal_and_one_without_overlap():
    crystal = of(bulk("LiCl", "rocksalt", a=5.13) * (2, 2, 2))
    other = of(bulk("LiCl", "rocksalt", a=5.5) * (2, 2, 2))
    assert difference(crystal["Cl"], crystal["Cl"]) == 0.0
    assert difference(crystal["Cl"], other["Cl"]) == pytest.approx(1.0)
    assert differences(crystal, {"Cl": other["Cl"], "O": other["Cl"]}) == {"Cl": pytest.approx(1.0)}
