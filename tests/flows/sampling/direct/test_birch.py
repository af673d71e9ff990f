"""The CF tree against scikit-learn's, an independent implementation of the same algorithm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.cluster import Birch

from aqvolt_flows.sampling.direct.birch import CFTree


def rows(n: int, d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(20, d))[rng.integers(20, size=n)] + rng.normal(scale=0.2, size=(n, d))).astype(np.float32)


@pytest.mark.parametrize(("branching", "d", "threshold"), [(50, 6, 0.15), (4, 3, 0.1), (50, 1, 0.05), (64, 20, 0.5)])
def test_sub_clusters_are_scikit_learns(branching, d, threshold):
    """Three levels and more, many splits; in single precision a rounding may move a row or two."""
    points = rows(3000, d, 0)
    tree = CFTree(d, threshold, branching)
    for piece in np.array_split(points, 7):
        tree.insert(piece)
    found = tree.sub_clusters()
    theirs = Birch(threshold=threshold, branching_factor=branching, n_clusters=None).fit(points.astype(np.float64))
    assert len(found.centers) == pytest.approx(len(theirs.subcluster_centers_), rel=0.02)
    apart = cdist(theirs.subcluster_centers_, found.centers).min(axis=1)
    assert np.mean(apart < 1e-4) > 0.9


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(1, 5), st.integers(0, 1000), st.floats(0.01, 2))
def test_every_row_is_counted_once_and_no_radius_exceeds_the_threshold(n, d, seed, threshold):
    points = rows(n, d, seed)
    tree = CFTree(d, threshold, branching=5)
    tree.insert(points)
    found = tree.sub_clusters()
    assert found.counts.sum() == n
    assert found.radii.max() <= threshold * (1 + 1e-6)
    np.testing.assert_allclose(found.counts @ found.centers, points.sum(axis=0), rtol=1e-3, atol=1e-2)


def test_sub_clusters_come_in_the_order_in_which_they_were_opened():
    points = np.float32([[0], [5], [10], [5.01], [20]])
    tree = CFTree(1, 0.1)
    tree.insert(points)
    found = tree.sub_clusters()
    np.testing.assert_allclose(found.centers[:, 0], [0, 5.005, 10, 20], atol=1e-6)
    assert found.counts.tolist() == [1, 2, 1, 1]
    np.testing.assert_allclose(found.radii, [0, 0.005, 0, 0], atol=1e-6)  # half the distance of the pair
