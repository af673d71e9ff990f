"""2DIRECT: clusters that are known by construction, an independent nearest-center search, and bad input."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.cluster import Birch
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.sampling import TwoStageDirect, direct_select
from aqvolt_flows.sampling.direct import atoms as two_stage
from aqvolt_flows.sampling.direct import parts
from aqvolt_flows.sampling.direct.nearest import BEAM, EXACT_TO
from aqvolt_flows.sampling.direct.selection import AtomPicks
from aqvolt_flows.sampling.direct.single_direct import Chooser
from aqvolt_flows.sampling.direct.space import Moments, Space


def blobs(n_blobs: int, per_blob: int, d: int = 8, spread: float = 1e-3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centers = rng.normal(scale=10, size=(n_blobs, d))
    return (centers[:, None] + rng.normal(scale=spread, size=(n_blobs, per_blob, d))).reshape(-1, d)


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


def choose(labels, distances, k=1, sizes=None, pick="nearest", threshold=1.0) -> list[int]:
    chooser = Chooser(int(max(labels)) + 1, k, threshold, pick)
    half = len(labels) // 2  # rows come in pieces
    for piece in (slice(0, half), slice(half, None)):
        cells = None if sizes is None else np.asarray(sizes)[piece]
        chooser.add(np.asarray(labels)[piece], np.asarray(distances, float)[piece], cells)
    return chooser.chosen()[0].tolist()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(1, 3)), min_size=1, max_size=40),
    st.integers(1, 3),
)
def test_choosing_is_a_loop_over_clusters(rows, k):
    labels, distances, sizes = ([r[i] for r in rows] for i in range(3))
    ways = {"nearest": lambda i: (distances[i], sizes[i], i), "smallest": lambda i: (sizes[i], distances[i], i)}
    for pick, key in ways.items():
        expected = [i for c in set(labels) for i in sorted(np.flatnonzero(np.array(labels) == c).tolist(), key=key)[:k]]
        assert choose(labels, distances, k, sizes, pick) == sorted(expected)


def test_a_pair_is_a_tie_and_goes_to_the_smaller_cell_whatever_rounding_says():
    assert choose([0, 0, 0], [0.05 * (1 + 1e-6), 0.05, 0.09], sizes=[2, 9, 5], threshold=0.1) == [0]
    assert choose([0, 0], [0.05 * (1 + 1e-6), 0.05], threshold=0.1) == [0]


def test_the_choice_is_mamls():
    """Independent computation of maml 2025.4.3's steps with scikit-learn: Birch, predict, nearest to the center."""
    rng = np.random.default_rng(3)
    rows = np.repeat(rng.normal(size=(40, 6)), 50, axis=0) + rng.normal(scale=0.25, size=(2000, 6))
    scaled = StandardScaler().fit_transform(rows)
    pca = PCA().fit(scaled)
    kept = pca.explained_variance_ > 1
    points = (pca.transform(scaled) * pca.explained_variance_ratio_)[:, kept]
    birch = Birch(threshold=0.06, n_clusters=None).fit(points)
    labels = birch.predict(points)
    distances = np.linalg.norm(points - birch.subcluster_centers_[labels], axis=1)
    theirs = [np.flatnonzero(labels == c)[distances[labels == c].argmin()] for c in np.unique(labels)]
    ours = direct_select(rows, 0.06)
    assert len(ours) == len(theirs) > 100
    gaps = [cdist(points, points[chosen]).min(axis=1) for chosen in (ours, theirs)]
    assert gaps[0].mean() == pytest.approx(gaps[1].mean(), rel=0.02)
    assert np.quantile(gaps[0], 0.99) == pytest.approx(np.quantile(gaps[1], 0.99), rel=0.02)
    assert len(np.intersect1d(ours, theirs)) > 0.75 * len(ours)  # all but ties within pairs


@pytest.mark.parametrize("stage2", ["per_cluster", "global"])
def test_shuffled_rows_choose_as_many_and_others(stage2):
    """Stated: other rows for another seed, as many and with equal gaps; the same for the same seed."""
    rng = np.random.default_rng(11)
    features = np.repeat(rng.normal(scale=10, size=(5, 4)), 200, axis=0) + rng.normal(size=(1000, 4))
    atoms, n_atoms = np.repeat(features, 2, axis=0) + rng.normal(size=(2000, 4)), np.full(1000, 2)
    found = [
        TwoStageDirect(0.3, 0.05, stage2=stage2, order=order, seed=seed).select(features, atoms, n_atoms)
        for order, seed in (("given", 0), ("shuffled", 0), ("shuffled", 0), ("shuffled", 1))
    ]
    rows = [set(f.indices.tolist()) for f in found]
    assert rows[1] == rows[2]
    assert rows[0] != rows[1] != rows[3]
    # the given order comes group by group, which makes other clusters
    for one, tolerance in zip(found, (0.4, 0.15, 0.15, 0.15), strict=True):
        assert len(one.indices) == pytest.approx(len(found[1].indices), rel=tolerance)
        assert one.coverage["mean"] == pytest.approx(found[1].coverage["mean"], rel=tolerance)


@pytest.mark.parametrize("order", ["given", "shuffled"])
def test_order_and_seed(order):
    rows = np.random.default_rng(4).normal(size=(600, 5))
    first, again, other = (direct_select(rows, 0.2, order=order, seed=seed).tolist() for seed in (0, 0, 1))
    assert first == again
    assert (first == other) == (order == "given")


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


@pytest.mark.parametrize("stage2", ["per_cluster", "global"])
@pytest.mark.parametrize("source", ["generator", "list", "file"])
def test_shards_give_what_arrays_give_and_twice_is_the_same(stage2, source, tmp_path):
    features, atoms, n_atoms = structures()
    method = TwoStageDirect(0.01, 0.01, stage2=stage2, scratch=tmp_path, memory_bytes=64)
    whole = TwoStageDirect(0.01, 0.01, stage2=stage2).select(features, atoms, n_atoms)
    pieces = [features[:4], features[4:]], [atoms[:11], atoms[11:]]
    if source == "generator":
        pieces = tuple(iter(p) for p in pieces)
    elif source == "file":
        for name, rows in (("f", features), ("a", atoms)):
            np.save(tmp_path / f"{name}.npy", rows)
        pieces = tuple(np.load(tmp_path / f"{n}.npy", mmap_mode="r") for n in "fa")
    shards = method.select(*pieces, n_atoms)
    assert whole.indices.tolist() == shards.indices.tolist()
    assert whole.atom_clusters == shards.atom_clusters
    assert whole.coverage == shards.coverage
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]  # nothing temporary stays


def test_one_space_for_all_atoms_chooses_one_of_each_kind():
    features, atoms, n_atoms = structures()
    selection = TwoStageDirect(0.01, 0.01, stage2="global").select(features, atoms, n_atoms)
    assert selection.coverage["atom_clusters"] == 3
    assert 14 in selection.indices  # the only one with the third kind
    assert len(selection.indices) <= 3
    fewer = TwoStageDirect(0.01, 0.01, stage2="global", stage1="selection").select(features, atoms, n_atoms)
    assert 1 <= len(fewer.indices) <= 3


@pytest.mark.parametrize("scaling", ["standard", "robust"])
@pytest.mark.parametrize("k", [1, 2])
def test_parts_are_clustered_like_single_directs(monkeypatch, scaling, k):
    """The compiled loop over parts against the passes of a whole stage; more and fewer atoms than features.

    Some structures are chosen for good, some may be given back.
    """
    rng = np.random.default_rng(5)
    n_atoms = rng.integers(1, 9, 60)
    features = np.repeat(rng.normal(scale=10, size=(4, 5)), [3, 7, 20, 30], axis=0) + rng.normal(
        scale=1e-4, size=(60, 5)
    )
    atoms = rng.normal(size=(n_atoms.sum(), 3)) @ rng.normal(size=(3, 24))
    atoms[5] *= 30  # a wild one
    method = TwoStageDirect(0.01, 0.3, k=k, scaling=scaling)
    chosen, unlabeled = rng.random(60) < 0.3, rng.random(60) < 0.5
    loop = method.select(features, atoms, n_atoms, chosen=chosen, unlabeled=unlabeled)
    monkeypatch.setattr(two_stage, "choose_in_bucket", partial(whole_stages, two_stage.choose_in_bucket))
    stages = method.select(features, atoms, n_atoms, chosen=chosen, unlabeled=unlabeled)
    assert 0 < len(loop.given_back) < chosen.sum()
    np.testing.assert_array_equal(loop.structure_clusters, stages.structure_clusters)
    assert loop.given_back.tolist() == stages.given_back.tolist()
    assert len(set(loop.structure_clusters) - {-1}) == 4
    assert loop.coverage["atom_clusters"] == stages.coverage["atom_clusters"] > 20
    assert loop.indices.tolist() == stages.indices.tolist()
    assert loop.atom_clusters == stages.atom_clusters
    for row in loop.indices:  # to a thousandth of the threshold, and rounding between the two ways
        assert loop.atom_clusters.distances(row) == pytest.approx(stages.atom_clusters.distances(row), abs=4e-4)


def test_a_part_too_large_for_the_loop_is_chosen_the_same(monkeypatch):
    """With 65 nodes a thread's tree is full after one split; those parts go through the passes of a whole stage."""
    rng = np.random.default_rng(6)
    n_atoms = rng.integers(1, 9, 120)
    features = np.repeat(rng.normal(scale=10, size=(3, 5)), [1, 19, 100], axis=0)
    features += rng.normal(scale=1e-4, size=(120, 5))
    atoms = rng.normal(size=(n_atoms.sum(), 4)) @ rng.normal(size=(4, 12))
    loop = TwoStageDirect(0.01, 0.1).select(features, atoms, n_atoms)
    called = []
    monkeypatch.setattr(parts, "_NODES", 65)
    whole_stage = two_stage._single_direct
    monkeypatch.setattr(two_stage, "_single_direct", lambda *a: called.append(1) or whole_stage(*a))
    full = TwoStageDirect(0.01, 0.1).select(features, atoms, n_atoms)
    assert called
    assert loop.indices.tolist() == full.indices.tolist()
    assert loop.atom_clusters == full.atom_clusters


@pytest.mark.parametrize("stage2", ["per_cluster", "global"])
def test_engines_choose_the_same(stage2):
    """Stated: at least 98 % of the chosen rows are the same, and coverage agrees to 1 %."""
    rng = np.random.default_rng(8)
    n_atoms = rng.integers(2, 9, 1500)
    centers, shapes = rng.normal(size=(30, 12)), rng.normal(size=(12, 32))
    features = np.float32((centers[rng.integers(30, size=1500)] + rng.normal(scale=0.3, size=(1500, 12))) @ shapes)
    atoms = np.float32((rng.normal(size=(n_atoms.sum(), 6))) @ rng.normal(size=(6, 16)))
    cpu, torch = (
        TwoStageDirect(0.15, 0.2, stage2=stage2, engine=engine, device="cpu").select(features, atoms, n_atoms)
        for engine in ("cpu", "torch")
    )
    assert len(np.intersect1d(cpu.indices, torch.indices)) >= 0.98 * len(cpu.indices)
    assert cpu.coverage == pytest.approx(torch.coverage, rel=0.01, abs=1e-6)


def test_a_beam_chooses_nearly_what_the_exact_search_does():
    """Stated: 99 % of the chosen rows and gaps to 1 %, with more clusters than are searched exactly in any case."""
    rng = np.random.default_rng(4)
    modes, mixing = rng.normal(size=(300, 16)), rng.normal(size=(16, 40))
    latent = modes[rng.integers(300, size=20_000)] + 0.3 * rng.normal(size=(20_000, 16))
    rows, n_atoms = np.float32(latent @ mixing), np.ones(20_000, int)
    exact, beam = (
        TwoStageDirect(0.1, 0.1, stage2="global", search=s).select(rows, rows, n_atoms) for s in ("exact", "beam")
    )
    assert exact.coverage["structure_clusters"] == beam.coverage["structure_clusters"] > EXACT_TO
    assert len(np.intersect1d(exact.indices, beam.indices)) >= 0.99 * len(exact.indices)
    assert beam.coverage == pytest.approx(exact.coverage, rel=0.01)
    assert np.mean(beam.structure_clusters == exact.structure_clusters) > 0.99
    assert (beam.structure_distances >= exact.structure_distances * (1 - 1e-5)).all()
    assert (beam.parameters["search"], beam.parameters["beam"]) == ("beam", BEAM)
    one = direct_select(rows, 0.1, search="exact")
    assert len(np.intersect1d(one, direct_select(rows, 0.1))) >= 0.99 * len(one)


def whole_stages(choose, bucket, n_atoms, ranks, choices, large):
    """Every part goes the way of one too large for the loop."""
    sizes, order, found, fresh = n_atoms[bucket.structures], ranks[bucket.structures], [], []
    for first, last in pairwise(bucket.starts.tolist()):
        own = slice(first, last)
        picks, new = large(bucket.atoms[own], sizes[own], order[own])
        found.append(replace(picks, structures=bucket.structures[own][picks.structures]))
        fresh.append(bucket.structures[own][new])
    return AtomPicks.joined(found), np.unique(np.concatenate(fresh))


def test_distances_are_those_to_the_centers_of_the_choosing_clusters():
    """One space for all atoms, pairs on a line: both atoms of a pair are half their distance from the mean."""
    atoms = np.array([[0.0], [1.0], [10.0], [11.0], [20.0], [22.0]])
    features = np.array([[0.0], [0.0], [1.0]])
    found = TwoStageDirect(0.1, 0.2, stage2="global").select(features, atoms, np.array([2, 2, 2]))
    scale = atoms.std()  # one component that holds all variance: standardized rows are the space
    expected = {0: [0.5 / scale], 1: [0.5 / scale], 2: [1 / scale]}
    for row, distances in expected.items():
        assert found.atom_clusters.distances(row) == pytest.approx(distances, abs=2e-4)
    assert set(found.atom_clusters) == {0, 1, 2}
    with pytest.raises(KeyError):
        found.atom_clusters[3]


def test_one_structure_is_selected():
    selection = TwoStageDirect().select(np.ones((1, 3)), np.arange(6.0).reshape(2, 3), np.array([2]))
    assert selection.indices.tolist() == [0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f, a, n: (np.where(np.arange(len(f))[:, None] == 3, np.nan, f), a, n), "NaN or infinity, first row 3"),
        (lambda f, a, n: (f[:0], a, n), "no rows"),
        (lambda f, a, n: (f, a[:-1], n), "a shard may be missing"),
        (lambda f, a, n: (f, np.r_[a, a[:1]], n), "more rows"),
        (lambda f, a, n: (f, [a[:5], a[5:, :3]], n), "3 columns from row 5 on; expected 5"),
        (lambda f, a, n: (f, np.where(np.arange(len(a))[:, None] == 70, np.inf, a), n), "atom_features.*first row 70"),
        (lambda f, a, n: (f, a, n[:-1]), "one positive count for each of 15"),
        (lambda f, a, n: (f, a, n * 0), "one positive count"),
        (lambda f, a, n: (f.astype(str), a, n), "expected numbers"),
        (lambda f, a, n: (f[:, :0], a, n), "no columns"),
        (lambda f, a, n: (f[0], a, n), "expected .rows, columns."),
    ],
)
def test_bad_input_is_named_and_nothing_is_left(change, said, tmp_path):
    for stage2 in ("per_cluster", "global"):
        with pytest.raises(InputError, match=said):
            TwoStageDirect(stage2=stage2, scratch=tmp_path).select(*change(*structures()))
    assert not list(tmp_path.iterdir())


def test_a_shard_that_shrinks_between_passes_is_noticed():
    class Shrinking:
        passes = 0

        def __iter__(self):
            self.passes += 1
            yield structures()[0][: 16 - self.passes]

    _, atoms, n_atoms = structures()
    with pytest.raises(InputError, match="gave 15 rows when read first and 14 when read again"):
        TwoStageDirect().select(Shrinking(), atoms, n_atoms)


@pytest.mark.parametrize("name", ["stage1", "stage2", "pick", "order", "engine", "search", "scaling"])
def test_a_choice_that_does_not_exist_is_named(name):
    with pytest.raises(InputError, match="'best'"):
        TwoStageDirect(**{name: "best"}).select(*structures())


def test_a_scratch_folder_must_be_there(tmp_path):
    with pytest.raises(ResourceError, match="not there"):
        direct_select(blobs(2, 3), scratch=tmp_path / "no")


@pytest.mark.parametrize("threshold", [0, -1, np.nan, np.inf])
def test_a_threshold_must_be_a_positive_length(threshold):
    with pytest.raises(InputError, match="positive length"):
        direct_select(blobs(2, 3), threshold=threshold)
