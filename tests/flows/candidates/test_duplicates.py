"""Deduplication: the same crystal otherwise described is one, another framework is not."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from aqvolt_flows.candidates.duplicates import unique

CRYSTAL = Structure(
    Lattice.orthorhombic(4.1, 5.3, 6.2),
    ["Li", "Ti", "Cl", "Cl"],
    [[0, 0, 0], [0.5, 0.5, 0.4], [0.5, 0, 0.6], [0, 0.5, 0.2]],
)


@given(st.integers(0, 10_000), st.sampled_from([(1, 1, 1), (2, 1, 1), (1, 2, 2)]))
@settings(max_examples=25, deadline=None)
def test_supercells_permutations_translations_and_rotations_are_duplicates(seed, size):
    rng = np.random.default_rng(seed)
    grown = CRYSTAL * size
    order = rng.permutation(len(grown))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    frac = grown.frac_coords[order] + rng.random(3)
    moved = Structure(Lattice(grown.lattice.matrix @ turn), [grown[int(i)].specie for i in order], frac)
    assert unique({"a": CRYSTAL, "b": moved}) == {"a": None, "b": "a"}


def test_another_lattice_beyond_the_tolerance_is_another_crystal():
    """1.9 times as long along one axis: at equal volume the lengths differ by more than ltol = 0.2."""
    strained = Structure(Lattice.orthorhombic(4.1, 5.3, 6.2 * 1.9), CRYSTAL.species, CRYSTAL.frac_coords)
    assert unique({"a": CRYSTAL, "b": strained}) == {"a": None, "b": None}
