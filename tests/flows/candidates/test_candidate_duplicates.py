"""Deduplication: the same crystal otherwise described is one, another framework is not."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
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


def test_the_kept_ones_are_the_first_of_pymatgens_groups():
    """``StructureMatcher.group_structures`` is the independent computation: same groups, first member kept."""
    rng = np.random.default_rng(4)
    made = {}
    for n, halogen in enumerate(["F", "Cl", "Cl", "Br"]):
        for m, (metal, stretch) in enumerate([("Ti", 1.0), ("Ti", 1.9), ("V", 1.0)]):
            cell = Lattice.orthorhombic(4.1, 5.3, 6.2 * stretch)
            crystal = Structure(cell, ["Li", metal, halogen, halogen], CRYSTAL.frac_coords)
            for k in range(3):
                copy = crystal * ([1, 1, 2] if k == 1 else [1, 1, 1])
                copy.translate_sites(range(len(copy)), rng.random(3))
                copy.perturb(0.05 * k, seed=n * 100 + m * 10 + k)
                made[f"{n}-{m}-{k}"] = copy
    found = unique(made)
    names = {id(s): name for name, s in made.items()}
    groups = StructureMatcher().group_structures(list(made.values()))
    kept = {name for name, original in found.items() if original is None}
    order = list(made)
    assert kept == {min((names[id(s)] for s in group), key=order.index) for group in groups}
    for group in groups:
        first, *others = sorted((names[id(s)] for s in group), key=order.index)
        assert {found[name] for name in others} <= {first}
