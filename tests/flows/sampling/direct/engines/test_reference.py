"""scikit-learn as the reference engine, beside ours: numbers chosen, what they are, gaps."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import Birch
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from aqvolt_flows.errors import InputError
from aqvolt_flows.sampling import TwoStageDirect, direct_select
from aqvolt_flows.sampling.direct.engines import ENGINES, load_engine


def rows(n: int, d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)) @ rng.normal(size=(3, d)) + 0.3 * rng.normal(size=(n, d))


@pytest.mark.parametrize("seed", range(3))
def test_one_stage_is_scikit_learns_own_pipeline(seed):
    features = rows(1500, 10, seed)
    scaled = StandardScaler().fit_transform(features)
    pca = PCA(svd_solver="full").fit(scaled)
    kept = max(1, int((pca.explained_variance_ > 1).sum()))
    points = (pca.transform(scaled)[:, :kept] * pca.explained_variance_ratio_[:kept]).astype(np.float32)
    birch = Birch(threshold=0.2, n_clusters=None).fit(points.astype(np.float64))
    labels = birch.predict(points.astype(np.float64))
    apart = np.linalg.norm(points - birch.subcluster_centers_[labels], axis=1)
    expected = {np.flatnonzero(labels == c)[np.argmin(apart[labels == c])] for c in np.unique(labels)}
    found = direct_select(features, threshold=0.2, engine="sklearn")
    # rows that are equally near to a center, to a thousandth of the threshold, are told apart by their order here
    assert len(found) == len(expected)
    assert len(expected.symmetric_difference(found)) <= 2


@pytest.mark.parametrize("seed", range(3))
def test_our_engine_chooses_what_the_reference_chooses(seed):
    features = rows(3000, 12, seed)
    ours, theirs = direct_select(features, 0.2), direct_select(features, 0.2, engine="sklearn")
    assert abs(len(ours) - len(theirs)) <= 0.02 * len(theirs)
    assert len(np.intersect1d(ours, theirs)) >= 0.95 * len(theirs)


def test_both_stages_choose_alike():
    rng = np.random.default_rng(5)
    n = rng.integers(2, 9, 400)
    structures, atoms = rows(400, 8, 1), rows(int(n.sum()), 6, 2)
    method = {"structure_threshold": 0.3, "atom_threshold": 0.3}
    ours, theirs = (TwoStageDirect(**method, engine=e).select(structures, atoms, n) for e in ("cpu", "sklearn"))
    for name in ("structure_clusters", "atom_clusters"):
        assert ours.coverage[name] == pytest.approx(theirs.coverage[name], rel=0.02)
    assert len(np.intersect1d(ours.indices, theirs.indices)) >= 0.95 * len(theirs.indices)
    for name in ("mean", "p99", "max"):
        assert ours.coverage[name] == pytest.approx(theirs.coverage[name], rel=0.05)


def test_a_second_round_and_few_rows_work():
    rng = np.random.default_rng(0)
    n = np.full(60, 3)
    method = TwoStageDirect(structure_threshold=0.4, atom_threshold=0.4, engine="sklearn")
    first = method.select(rows(60, 5, 0), rows(180, 4, 1), n)
    again = method.extend(first.state, rows(60, 5, 0), rows(180, 4, 1), n)
    # what was chosen goes in first: clusters form around it, and a few rows are nearer to the rim of another one
    assert len(again.indices) <= 0.2 * len(first.indices)
    assert len(again.indices) <= 60 - again.coverage["covered_before"]
    assert direct_select(rng.normal(size=(1, 4)), engine="sklearn").tolist() == [0]
    assert direct_select(np.ones((4, 2)), engine="sklearn").tolist() == [0]


def test_large_sets_are_refused():
    with pytest.raises(InputError, match=r"at most 50,000 rows, 50,001 were given; use engine cpu"):
        direct_select(np.zeros((50_001, 2)), engine="sklearn")
    n = np.full(100, 600)
    with pytest.raises(InputError, match="at most 50,000 atoms, 60,000 were given"):
        TwoStageDirect(engine="sklearn").select(np.zeros((100, 2)), np.zeros((60_000, 2)), n)


def test_an_unknown_engine_is_refused():
    assert list(ENGINES) == ["cpu", "torch", "sklearn"]
    with pytest.raises(InputError, match="no sampling engine 'numpy'; known are cpu, torch, sklearn"):
        load_engine("numpy")
