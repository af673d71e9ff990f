"""Duplicates: copies made by known operations are found, near misses are not; checked against all pairs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase.geometry import find_mic
from hypothesis import given, settings
from hypothesis import strategies as st

from aqvolt_flows.datasets.duplicates import DuplicateFinder, same_configuration

TOLERANCE = 1e-3
NUMBERS = np.array([3, 3, 17, 17, 39], dtype=np.int16)


def random_configuration(seed):
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(4, 8, 3)) + rng.normal(scale=0.5, size=(3, 3))
    return NUMBERS, rng.uniform(-1, 2, (5, 3)) @ cell, cell


def found(configurations):
    finder = DuplicateFinder(TOLERANCE)
    for name, (numbers, positions, cell) in configurations.items():
        finder.add(name, numbers, positions, cell)
    return finder.repeats(lambda ids: {i: configurations[i] for i in ids})


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.floats(0, 0.99), st.booleans(), st.booleans())
def test_a_copy_within_the_tolerance_is_found(seed, size, wrapped, reordered):
    rng = np.random.default_rng(seed)
    numbers, positions, cell = random_configuration(seed)
    direction = rng.normal(size=(5, 3))
    moved = positions + size * TOLERANCE * direction / np.linalg.norm(direction, axis=1)[:, None]
    if wrapped:
        moved = moved + rng.integers(-2, 3, (5, 3)) @ cell
    order = [1, 0, 3, 2, 4] if reordered else [0, 1, 2, 3, 4]
    copies = {"a": (numbers, positions, cell), "b": (numbers[order], moved[order], cell)}
    assert found(copies) == {"b": "a"}


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.floats(1.01, 50))
def test_one_atom_moved_further_is_another_configuration(seed, size):
    numbers, positions, cell = random_configuration(seed)
    moved = positions.copy()
    moved[4] += [0, 0, size * TOLERANCE]
    assert found({"a": (numbers, positions, cell), "b": (numbers, moved, cell)}) == {}


def test_a_strained_cell_is_another_configuration():
    numbers, positions, cell = random_configuration(1)
    within, beyond = cell.copy(), cell.copy()
    within[0, 0] += 0.9e-3
    beyond[0, 0] += 1.1e-3
    assert found({"a": (numbers, positions, cell), "b": (numbers, positions, within)}) == {"b": "a"}
    assert found({"a": (numbers, positions, cell), "b": (numbers, positions, beyond)}) == {}


def test_other_elements_and_other_protocols_are_never_compared():
    numbers, positions, cell = random_configuration(2)
    finder = DuplicateFinder(TOLERANCE)
    finder.add("a", numbers, positions, cell, kind="vasp")
    finder.add("b", numbers, positions, cell, kind="gpaw")
    finder.add("c", np.array([3, 3, 17, 17, 21], np.int16), positions, cell, kind="vasp")
    assert finder.repeats(lambda ids: pytest.fail("nothing may be compared")) == {}


def test_as_all_pairs_would_find_with_ase():
    # Independent: every pair by ASE's minimum image, same order of atoms.
    rng = np.random.default_rng(0)
    _, base, cell = random_configuration(3)
    configurations = {
        f"c{i:02d}": (NUMBERS, base + rng.choice([0, 4e-4, 2e-3]) * rng.choice([-1, 1], (5, 3)) / np.sqrt(3), cell)
        for i in range(30)
    }
    expected: dict[str, str] = {}
    for a, b in itertools.combinations(configurations, 2):
        _, lengths = find_mic(configurations[a][1] - configurations[b][1], cell)
        if lengths.max() <= TOLERANCE and a not in expected and b not in expected:
            expected[b] = a
    assert expected
    assert found(configurations) == expected


def test_comparison_itself_knows_swapped_like_atoms_only():
    numbers, positions, cell = random_configuration(4)
    assert same_configuration((numbers, positions, cell), (numbers, positions[[1, 0, 2, 3, 4]], cell), TOLERANCE)
    assert not same_configuration((numbers, positions, cell), (numbers, positions[[2, 1, 0, 3, 4]], cell), TOLERANCE)
