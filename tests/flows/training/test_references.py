from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from aqvolt_flows.errors import InputError
from aqvolt_flows.training.references import (
    MAX_ELEMENTS,
    Composition,
    Compositions,
    Labelled,
    null_space,
    reference_energies,
    references_of,
    symbols_of,
)


def compositions(*rows: tuple[list[int], float]) -> Compositions:
    found = Compositions()
    for numbers, energy in rows:
        made = Composition.of(np.array(numbers), energy, np.ones((len(numbers), 3)))
        assert made is not None
        found.add(made)
    return found


@settings(max_examples=30, deadline=None)
@given(
    energies=st.lists(st.floats(-30, 30), min_size=3, max_size=3),
    seed=st.integers(0, 2**31),
)
def test_references_of_linear_data_are_exact(energies: list[float], seed: int):
    """Analytic: energies that are a sum over atoms are reproduced by element where compositions have full rank."""
    rng = np.random.default_rng(seed)
    numbers = [3, 9, 17]
    counts = [[1, 1, 0], [1, 0, 1], [2, 1, 1], [3, 0, 1], [1, 2, 0]]
    frames = [Labelled(np.repeat(numbers, n), float(np.dot(n, energies)), rng.normal(size=(sum(n), 3))) for n in counts]
    found = reference_energies(frames)
    assert [found.element_energies[z] for z in numbers] == pytest.approx(energies, abs=1e-9)
    assert len(found.element_energies) == MAX_ELEMENTS
    assert all(e == 0 for z, e in enumerate(found.element_energies) if z not in numbers)
    components = np.concatenate([f.forces.ravel() for f in frames])
    assert found.force_rms == pytest.approx(np.sqrt(np.mean(components**2)))


def test_references_of_one_composition_have_least_norm():
    """Analytic: LiF alone determines only the sum; the solution of least norm shares it equally."""
    frames = [Labelled(np.array([3, 9]), -9.0, np.ones((2, 3))), Labelled(np.array([3, 9]), -11.0, np.ones((2, 3)))]
    found = reference_energies(frames)
    assert found.element_energies[3] == pytest.approx(-5.0)
    assert found.element_energies[9] == pytest.approx(-5.0)


def test_references_survive_a_document():
    found = reference_energies([Labelled(np.array([3, 9]), -9.0, np.ones((2, 3)))])
    assert references_of(symbols_of(found), found.force_rms) == found


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([], "no frame"),
        ([Labelled(np.array([3]), float("nan"), np.ones((1, 3)))], "not finite"),
        ([Labelled(np.array([3]), 1.0, np.full((1, 3), np.inf))], "not finite"),
        ([Labelled(np.array([3]), 1.0, np.zeros((1, 3)))], "zero"),
        ([Labelled(np.array([100]), 1.0, np.ones((1, 3)))], "Z = 100"),
    ],
)
def test_references_refuse_what_cannot_be_scaled(frames: list[Labelled], said: str):
    with pytest.raises(InputError, match=said):
        reference_energies(frames)


def test_the_fit_is_that_of_scikit_learn():
    """Independent: scikit-learn's linear regression without intercept on the same counts, noisy energies."""
    rng = np.random.default_rng(5)
    rows = [(rng.choice([3, 9, 17, 35], size=rng.integers(2, 9)).tolist(), float(rng.normal())) for _ in range(40)]
    found = compositions(*rows).least_squares()
    counts = np.array([np.bincount(numbers, minlength=36) for numbers, _ in rows])[:, [3, 9, 17, 35]]
    fit = LinearRegression(fit_intercept=False).fit(counts, [e for _, e in rows])
    assert [found.element_energies[z] for z in (3, 9, 17, 35)] == pytest.approx(fit.coef_, abs=1e-9)


def test_what_compositions_leave_open_is_named():
    """Analytic: in LiF and LiCl, Li can be traded for both anions at once; Li2 beside them settles all three."""
    salts = [([3, 9], -9.0), ([3, 17], -7.0)]
    assert compositions(*salts).undetermined() == ["Li - F - Cl"]
    assert compositions(*salts, ([3, 3], -3.8)).undetermined() == []
    assert compositions(([3, 9, 9], -9.0)).undetermined() == ["2 Li - F"]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 4), min_size=n, max_size=n), min_size=1, max_size=6)
    )
)
def test_null_spaces_are_those_of_sympy(rows: list[list[int]]):
    """Independent: sympy's exact null space has the same dimension, and ours is in it."""
    matrix = np.array(rows)
    if not matrix.any():
        return
    found = null_space(matrix)
    assert len(found) == len(sympy.Matrix(rows).nullspace())
    for vector in found:
        assert all(sum((Fraction(a) * v for a, v in zip(row, vector, strict=True)), Fraction(0)) == 0 for row in rows)


def test_isolated_atoms_are_taken_as_given_for_the_elements_there_are():
    found = compositions(([3, 9], -9.0), ([3, 9, 9], -12.0)).isolated_atoms({"Li": -1.5, "F": -2.5, "U": 7.0})
    assert symbols_of(found) == {"Li": -1.5, "F": -2.5}
    with pytest.raises(InputError, match=r"no energy of the isolated atom of F; give training\.isolated_atom_energies"):
        compositions(([3, 9], -9.0)).isolated_atoms({"Li": -1.5})
