"""2DIRECT: clusters that are known by construction, an independent nearest-centre search, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from aqvolt_flows.errors import InputError
from aqvolt_flows.sampling import TwoStageDirect, direct_select
from aqvolt_flows.sampling.direct import birch_centres, cluster, nearest, pick_nearest
from aqvolt_flows.sampling.space import Moments, Space


def blobs(n_blobs: int, per_blob: int, d: int = 8, spread: float = 1e-3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(scale=10, size=(n_blobs, d))
    return (centres[:, None] + rng.normal(scale=spread, size=(n_blobs, per_blob, d))).reshape(-1, d)


def test_well_separated_groups_give_one_row_each():
    rows = blobs(7, 20)
    chosen = direct_select(rows, threshold=0.01)
    assert sorted(i // 20 for i in chosen) == list(range(7))
    assert len(direct_select(rows, threshold=0.01, k=3)) == 21


def test_the_space_is_scikit_learns():
    """StandardScaler and PCA are an independent computation of the same numbers."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(300, 4)) @ rng.normal(size=(4, 12)) + rng.normal(scale=0.05, size=(300, 12))
    rows[:, 5] = 3.0  # constant
    space = Space.fit(Moments.of(rows))
    scaled = StandardScaler().fit_transform(rows)
    pca = PCA().fit(scaled)
    kept = int((pca.explained_variance_ > 1).sum())
    np.testing.assert_allclose(space.variances, pca.explained_variance_[:kept], rtol=1e-8)
    np.testing.assert_allclose(space.ratios, pca.explained_variance_ratio_[:kept], rtol=1e-8)
    expected = pca.transform(scaled)[:, :kept] * pca.explained_variance_ratio_[:kept]
    np.testing.assert_allclose(np.abs(space.transform(rows)), np.abs(expected), atol=1e-8)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 60), st.integers(1, 59), st.integers(0, 10_000))
def test_moments_of_parts_add_up(n, cut, seed):
    rows = np.random.default_rng(seed).normal(loc=100, size=(n, 3))
    cut = min(cut, n - 1)
    whole, parts = Moments.of(rows), Moments.of(rows[:cut]) + Moments.of(rows[cut:])
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(parts.scatter, whole.scatter, rtol=1e-8, atol=1e-9)


def test_nearest_agrees_with_all_pairs():
    rng = np.random.default_rng(2)
    points, centres = rng.normal(size=(500, 5)), rng.normal(size=(40, 5))
    labels, distances = nearest(points, centres)
    every = cdist(points, centres)
    np.testing.assert_array_equal(labels, every.argmin(axis=1))
    np.testing.assert_allclose(distances, every.min(axis=1), rtol=1e-10)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=40), st.integers(1, 3))
def test_pick_nearest_is_a_loop_over_clusters(rows, k):
    labels, distances = np.array([r[0] for r in rows]), np.array([r[1] for r in rows], float)
    expected = [
        i for c in set(labels) for i in sorted(np.flatnonzero(labels == c), key=lambda i: (distances[i], i))[:k]
    ]
    assert pick_nearest(labels, distances, k).tolist() == sorted(expected)


def test_ties_go_to_the_smaller_cell():
    assert pick_nearest(np.zeros(3, int), np.ones(3), 1, np.array([9, 2, 5])).tolist() == [1]


def test_every_row_is_near_a_chosen_one():
    """A BIRCH sub-cluster's RMS radius is at most the threshold, so its chosen row covers it within a few radii."""
    rows = np.random.default_rng(3).normal(size=(2000, 6))
    found = cluster(rows, 0.1)
    chosen = direct_select(rows, 0.1)
    points = found.space.transform(rows)
    gaps = nearest(points, points[chosen])[1]
    assert np.sqrt((gaps**2).mean()) < 2 * 0.1
    assert len(chosen) == len(np.unique(found.labels)) <= len(birch_centres(points, 0.1))


def structures(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three well-separated kinds of structures; within each, atoms of two kinds; the last of all has a third."""
    rng = np.random.default_rng(seed)
    n_atoms = np.tile([4, 6, 8], 5)
    structure = np.repeat(rng.normal(scale=10, size=(3, 5)), 5, axis=0) + rng.normal(scale=1e-4, size=(15, 5))
    kinds = rng.normal(scale=10, size=(3, 5))
    atoms = [kinds[np.arange(n) % 2] + rng.normal(scale=1e-4, size=(n, 5)) for n in n_atoms]
    atoms[-1][-4:] = kinds[2] + rng.normal(scale=1e-4, size=(4, 5))  # Kaiser's rule would not see a single one
    return structure, np.concatenate(atoms), n_atoms


def test_two_stages_keep_a_structure_with_a_rare_environment():
    features, atoms, n_atoms = structures()
    selection = TwoStageDirect(0.01, 0.01).select(features, atoms, n_atoms)
    assert len(set(selection.structure_clusters)) == 3
    assert 14 in selection.indices  # the only one with the third kind of atom
    assert (
        3 <= len(selection.indices) <= 7
    )  # at least one per structural cluster, at most one per atomic cluster (2+2+3)
    assert sum(len(c) for c in selection.atom_clusters.values()) == selection.coverage["atom_clusters"] == 7
    assert selection.indices.tolist() == sorted(selection.atom_clusters)


def test_stage_one_as_selection_chooses_among_fewer():
    features, atoms, n_atoms = structures()
    partition = TwoStageDirect(0.01, 0.01).select(features, atoms, n_atoms)
    selection = TwoStageDirect(0.01, 0.01, stage1="selection").select(features, atoms, n_atoms)
    assert len(selection.indices) <= 3 <= len(partition.indices)


def test_shards_give_what_arrays_give_and_twice_is_the_same():
    features, atoms, n_atoms = structures()
    method = TwoStageDirect(0.01, 0.01)
    whole = method.select(features, atoms, n_atoms)
    shards = method.select(iter([features[:4], features[4:]]), iter([atoms[:11], atoms[11:]]), n_atoms)
    assert whole.indices.tolist() == shards.indices.tolist() == method.select(features, atoms, n_atoms).indices.tolist()


def test_one_structure_is_selected():
    selection = TwoStageDirect().select(np.ones((1, 3)), np.arange(6.0).reshape(2, 3), np.array([2]))
    assert selection.indices.tolist() == [0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f, a, n: (np.where(np.arange(len(f))[:, None] == 3, np.nan, f), a, n), "NaN or infinity, first row 3"),
        (lambda f, a, n: (np.ones_like(f), a, n), "constant"),
        (lambda f, a, n: (f[:0], a, n), "no rows"),
        (lambda f, a, n: (f, a[:-1], n), "a shard may be missing"),
        (lambda f, a, n: (f, a, n[:-1]), "one positive count for each of 15"),
    ],
)
def test_bad_input_is_named(change, said):
    with pytest.raises(InputError, match=said):
        TwoStageDirect().select(*change(*structures()))


@pytest.mark.parametrize("threshold", [0, -1, np.nan, np.inf])
def test_a_threshold_must_be_a_positive_length(threshold):
    with pytest.raises(InputError, match="positive length"):
        direct_select(blobs(2, 3), threshold=threshold)
