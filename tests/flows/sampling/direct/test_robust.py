"""Limits before scaling: what they are, what they change, and that identical rows are one choice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from aqvolt_flows.sampling import TwoStageDirect, direct_select
from aqvolt_flows.sampling.direct import robust
from aqvolt_flows.sampling.direct.robust import RowSample, winsorized
from aqvolt_flows.sampling.direct.space import Moments, Space

ENGINES = ("cpu", "torch", "sklearn")


def limited(column: np.ndarray) -> np.ndarray:
    """The definition, on one column: the central part without ⌈5 %⌉ of the rows on either side, widened by itself."""
    n = len(column)
    out = min(int(np.ceil(0.05 * n)), (n - 1) // 2)
    inner = np.sort(column)[out : n - out]
    width = inner[-1] - inner[0]
    return np.clip(column, inner[0] - width, inner[-1] + width) if width else column


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.floats(-1e9, 1e9, width=32) for _ in range(2)]),
        min_size=1,
        max_size=60,
    )
)
def test_limits_are_those_of_the_definition(rows):
    given_rows = np.array(rows, np.float64)
    np.testing.assert_array_equal(winsorized(given_rows), np.column_stack([limited(c) for c in given_rows.T]))


def test_the_space_is_that_of_the_limited_rows():
    """scikit-learn's StandardScaler and PCA on rows that are limited by the definition."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 8)) + 0.1 * rng.normal(size=(500, 8))
    rows[::60] *= 1e5
    space = RowSample.of([rows[:200], rows[200:]]).space(weight_components=True)
    near = np.column_stack([limited(c) for c in rows.T])
    scaler = StandardScaler().fit(near)
    pca = PCA().fit(scaler.transform(near))
    kept = int((pca.explained_variance_ > 1).sum())
    expected = pca.transform(scaler.transform(rows))[:, :kept] * pca.explained_variance_ratio_[:kept]
    np.testing.assert_allclose(np.abs(space.transform(rows)), np.abs(expected), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("wild", [1, 5])
def test_a_few_wild_rows_do_not_make_all_others_one(engine, wild):
    rows = np.random.default_rng(0).normal(size=(200, 6))
    bad = np.vstack([rows, np.full((wild, 6), 1e6) * np.arange(1, wild + 1)[:, None]])
    ways = {"engine": engine, "device": "cpu"}
    clean = len(direct_select(rows, 0.1, **ways))
    assert len(direct_select(bad, 0.1, **ways)) <= 1 + wild
    chosen = direct_select(bad, 0.1, scaling="robust", **ways)
    # the limited rows still count: five of 205, all at the limit of the same direction, make it twice as wide
    assert len(chosen) == pytest.approx(clean + wild, rel=0.25 if wild == 1 else 0.55)
    assert set(range(200, 200 + wild)) <= set(chosen.tolist()), "a wild row is a cluster of its own"


def test_tame_rows_are_chosen_as_with_the_standard_scaling():
    """Limits beyond all rows change nothing: uniform numbers end at the central 90 % widened by 6 %."""
    rows = np.random.default_rng(1).uniform(size=(400, 5))
    assert direct_select(rows, 0.1).tolist() == direct_select(rows, 0.1, scaling="robust").tolist()


@pytest.mark.parametrize("stage2", ["per_cluster", "global"])
def test_wild_atoms_do_not_hide_the_others(stage2):
    rng = np.random.default_rng(3)
    n_atoms = np.full(60, 4)
    features = np.repeat(rng.normal(scale=10, size=(3, 5)), 20, axis=0) + rng.normal(size=(60, 5))
    atoms = np.repeat(features, 4, axis=0) + rng.normal(size=(240, 5))
    wild = atoms.copy()
    wild[17] = 1e5
    clean, squeezed, robust_ = (
        TwoStageDirect(2.0, 0.4, stage2=stage2, scaling=scaling).select(features, a, n_atoms)
        for scaling, a in (("standard", atoms), ("standard", wild), ("robust", wild))
    )
    assert squeezed.coverage["atom_clusters"] < 0.8 * clean.coverage["atom_clusters"]
    assert robust_.coverage["atom_clusters"] == pytest.approx(clean.coverage["atom_clusters"] + 1, rel=0.2)
    assert 4 in robust_.indices, "the structure with the wild atom"


def test_a_sample_of_parts_is_one_of_all(monkeypatch):
    monkeypatch.setattr(robust, "SAMPLE_ROWS", 100)
    rows = np.arange(3000.0)[:, None]
    whole = RowSample.of([rows[:1000], rows[1000:]])
    later = RowSample.of([rows[1500:]], RowSample.of([rows[:700], rows[700:1500]]))
    for sample in (whole, later):
        assert (len(sample.rows), sample.count) == (100, 3000)
        assert len(np.unique(sample.rows)) == 100
        # 100 of 3,000 uniform numbers: their mean lies within four standard errors (3,000 / √12 / √100)
        assert abs(sample.rows.mean() - 1500) < 4 * 3000 / np.sqrt(12) / 10
    few = RowSample.of([rows[:30], rows[30:60]])
    np.testing.assert_array_equal(few.rows, rows[:60])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scaling", ["standard", "robust"])
def test_identical_rows_are_one_choice(engine, scaling):
    ways = {"engine": engine, "device": "cpu", "scaling": scaling}
    assert direct_select(np.ones((50, 3)), **ways).tolist() == [0]
    assert direct_select(np.repeat(np.eye(3), 5, axis=0), 0.01, **ways).tolist() == [0, 5, 10]
    n_atoms = np.array([8, 4, 4, 2])
    for stage2 in ("per_cluster", "global"):
        found = TwoStageDirect(stage2=stage2, **ways).select(np.ones((4, 3)), np.ones((18, 3)), n_atoms)
        assert found.indices.tolist() == [3], "the smallest of them"


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_that_differ_by_rounding_are_identical(engine):
    """Features of one frame from several batches: single precision, other last bits."""
    rng = np.random.default_rng(5)
    rows = np.float32(rng.normal(size=(1, 16)) * (1 + rng.uniform(-2e-7, 2e-7, size=(300, 16))))
    assert len(np.unique(rows, axis=0)) > 100
    assert direct_select(rows, 0.1, engine=engine, device="cpu").tolist() == [0]
    assert not Moments.of(rows.astype(np.float64)).constant.any(), "in double precision such numbers are a signal"
    two = np.concatenate([rows, rows + np.float32(0.01)])
    assert len(direct_select(two, 0.1, engine=engine, device="cpu")) == 2
    assert Space.fit(Moments.of(rows)).weights.tolist() == [0]
