"""Ordered mixtures: distinct choices of sites, against counting by hand and pymatgen's comparison of structures."""

from __future__ import annotations

import itertools

import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.core.structure_matcher import StructureMatcher

from aqvolt_flows.candidates.orderings import Orderings, find_orderings, site_permutations
from aqvolt_flows.candidates.substitute import linear_scale, substitute
from aqvolt_flows.schemas.provenance import Failure


def salt(size: tuple[int, int, int] = (1, 1, 1)) -> Structure:
    corners = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    others = [[x + 0.5 for x in c] for c in corners]
    return Structure(Lattice.cubic(4.02), ["Li"] * 4 + ["F"] * 4, corners + others) * size


def test_in_the_cube_of_rock_salt_all_pairs_of_anions_are_one() -> None:
    """The four anions of the conventional cell are equivalent, and so are their six pairs."""
    for share in (0.25, 0.5, 0.75):
        found = find_orderings(salt(), "F", share, 99)
        assert isinstance(found, Orderings)
        assert (len(found.chosen), found.n_distinct) == (1, 1)
    assert find_orderings(salt(), "F", 1.0, 99) == Orderings([(4, 5, 6, 7)], 1)


def test_distinct_choices_are_those_that_pymatgen_calls_distinct() -> None:
    """All 70 ways to replace four of eight F in a double cube, grouped with pymatgen's matcher at equal volume."""
    parent = salt((2, 1, 1))
    found = find_orderings(parent, "F", 0.5, 99)
    assert isinstance(found, Orderings)
    sites = [i for i, s in enumerate(parent) if s.specie.symbol == "F"]
    made = [substitute(parent, "F", "Cl", c) for c in itertools.combinations(sites, 4)]
    groups = StructureMatcher(primitive_cell=False, ltol=1e-3, stol=1e-3, angle_tol=0.1).group_structures(made)
    ours = [substitute(parent, "F", "Cl", c) for c in found.chosen]
    assert len(ours) == found.n_distinct
    matcher = StructureMatcher(primitive_cell=False, ltol=1e-3, stol=1e-3, angle_tol=0.1)
    assert all(any(matcher.fit(g[0], s) for s in ours) for g in groups)  # none is missing
    assert len(groups) <= len(ours) <= len(groups) + 1  # the cell of 2 x 1 x 1 is less symmetric than the crystal


def test_a_limit_takes_seeded_ones_and_the_same_again() -> None:
    parent = salt((2, 2, 1))
    first, again = (find_orderings(parent, "F", 0.5, 5) for _ in range(2))
    assert first == again
    assert isinstance(first, Orderings)
    assert len(first.chosen) == 5 < first.n_distinct
    assert len(set(first.chosen)) == 5


def test_shares_that_are_no_whole_number_are_a_reason() -> None:
    found = find_orderings(salt(), "F", 0.3, 9)
    assert isinstance(found, Failure)
    assert (found.reason, "0.3 of 4 F sites" in found.message) == ("no_ordering", True)


def test_permutations_are_a_group_of_the_right_order() -> None:
    """In the cube, rotations and centerings permute the four anions in every way (4! = 24) and the cations alike."""
    permutations = {tuple(p) for p in site_permutations(salt())}
    assert all(tuple(a[i] for i in b) in permutations for a in permutations for b in permutations)
    assert len(permutations) == 24


def test_the_volume_of_a_mixture_lies_between() -> None:
    """Half of the F replaced: the mean anion radius is half way, and so is the length (Shannon: F 1.33, Cl 1.81 Å)."""
    assert linear_scale(salt().composition, "F", "Cl", 0.5) == pytest.approx((0.76 + 1.57) / (0.76 + 1.33))
    made = substitute(salt(), "F", "Cl", [4, 5])
    assert made.composition.as_dict() == {"Li": 4.0, "F": 2.0, "Cl": 2.0}
    assert made.volume == pytest.approx(4.02**3 * ((0.76 + 1.57) / (0.76 + 1.33)) ** 3)
