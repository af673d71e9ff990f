"""The searches, on each engine, against all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from aqvolt_flows.errors import InputError
from aqvolt_flows.sampling.direct.engines import load_engine
from aqvolt_flows.sampling.direct.nearest import NearestIndex
from aqvolt_flows.sampling.direct.space import Moments, Space


def assert_nearest(index, points, centers):
    labels, distances = index.query(points)
    every = cdist(points, centers)
    np.testing.assert_allclose(distances, every.min(axis=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(every[np.arange(len(points)), labels], every.min(axis=1), rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 700), st.integers(1, 8), st.integers(0, 1000))
def test_it_agrees_with_all_pairs_for_any_number_of_centers(m, d, seed):
    rng = np.random.default_rng(seed)
    scale = 0.6 ** np.arange(d)
    centers = np.float32(rng.normal(size=(m, d)) * scale)
    centers[rng.random(m) < 0.2] = centers[0]  # equal ones
    assert_nearest(NearestIndex(centers, threads=1), np.float32(rng.normal(size=(30, d)) * scale), centers)


@pytest.mark.parametrize("m", [64, 65, 1024, 1025, 6000])
def test_it_agrees_at_the_sizes_where_the_tree_gets_a_level(m):
    rng = np.random.default_rng(m)
    centers, points = np.float32(rng.normal(size=(m, 5))), np.float32(rng.normal(size=(300, 5)))
    assert_nearest(NearestIndex(centers, threads=2), points, centers)


def test_equal_centers_give_the_lowest_number():
    centers = np.zeros((300, 2), np.float32)
    centers[:7] = 1
    assert NearestIndex(centers).query(np.zeros((2, 2)))[0].tolist() == [7, 7]


def test_threads_do_not_change_the_answer():
    rng = np.random.default_rng(0)
    centers, points = np.float32(rng.normal(size=(500, 3))), np.float32(rng.normal(size=(20_000, 3)))
    one, two = (NearestIndex(centers, t).query(points) for t in (1, 2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("m", [50, 6000])
def test_torch_agrees_with_all_pairs(m):
    rng = np.random.default_rng(m)
    scale = 0.8 ** np.arange(6)
    centers, points = np.float32(rng.normal(size=(m, 6)) * scale), np.float32(rng.normal(size=(400, 6)) * scale)
    assert_nearest(load_engine("torch", "cpu", search="exact").index(centers), points, centers)


def modes(n: int, d: int = 20, seed: int = 0) -> np.ndarray:
    """Return rows in 400 modes of unlike widths, over components of unlike weight: what a space looks like."""
    world, rng = np.random.default_rng(0), np.random.default_rng([1, seed])
    mode = rng.integers(400, size=n)
    rows = (
        world.normal(size=(400, d))[mode]
        + rng.normal(size=(n, d)) * 0.3 * np.exp(0.5 * world.normal(size=400))[mode, None]
    )
    return np.float32(rows * 0.93 ** np.arange(d))


def test_a_beam_finds_the_nearest_of_nearly_all_rows_and_never_less_than_its_distance():
    centers, points = modes(30_000), modes(4000, seed=1)
    _, nearest = NearestIndex(centers).query(points)
    before = np.inf
    for beam, apart in ((1, 1.0), (4, 0.05), (16, 0.005)):
        labels, distances = NearestIndex(centers, beam=beam).query(points)
        np.testing.assert_allclose(np.linalg.norm(points - centers[labels], axis=1), distances, rtol=1e-4, atol=1e-5)
        assert (distances >= nearest * (1 - 1e-5)).all()
        excess = distances.mean(dtype=float) / nearest.mean(dtype=float) - 1
        assert excess < min(before, apart)
        before = excess
    assert np.mean(distances <= nearest * (1 + 1e-5)) > 0.97


def test_the_beams_answer_depends_on_the_row_alone():
    centers, points = modes(6000), modes(20_000, seed=1)
    whole = NearestIndex(centers, threads=1, beam=3).query(points)
    pieces = [NearestIndex(centers, threads=2, beam=3).query(p) for p in np.array_split(points[::-1], 7)]
    for i in (0, 1):
        np.testing.assert_array_equal(np.concatenate([p[i] for p in pieces])[::-1], whole[i])


@pytest.mark.parametrize("engine", ["cpu", "torch"])
def test_few_centers_are_searched_exactly_by_a_beam_too(engine):
    centers, points = modes(4000), modes(500, seed=1)
    assert_nearest(load_engine(engine, "cpu", beam=1).index(centers), points, centers)


def test_engines_search_with_the_same_beam():
    centers, points = modes(6000), modes(2000, seed=1)
    ours, theirs = (load_engine(e, "cpu", beam=2).index(centers).query(points) for e in ("cpu", "torch"))
    np.testing.assert_array_equal(ours[0], theirs[0])


@pytest.mark.parametrize(("choice", "said"), [({"search": "best"}, "expected beam or exact"), ({"beam": 0}, "one box")])
def test_a_search_that_does_not_exist_is_named(choice, said):
    with pytest.raises(InputError, match=said):
        load_engine(**choice)


def test_engines_agree_on_moments_and_rotation():
    rng = np.random.default_rng(2)
    rows = np.float32(rng.normal(loc=50, size=(900, 3)) @ rng.normal(size=(3, 7)) + rng.normal(size=(900, 7)))
    cpu, torch = load_engine("cpu", threads=2), load_engine("torch", "cpu")
    ours, theirs = (e.moments(iter(np.array_split(rows, 4))) for e in (cpu, torch))
    whole = Moments.of(rows)
    for found in (ours, theirs):
        assert found.count == 900
        np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-12)
        np.testing.assert_allclose(found.scatter, whole.scatter, rtol=1e-9, atol=1e-6)
    space = Space.fit(ours)
    np.testing.assert_allclose(cpu.project(space, rows), torch.project(space, rows), atol=1e-4)
    np.testing.assert_allclose(cpu.project(space, rows), space.transform(rows), atol=1e-4)


def test_an_engine_that_does_not_exist_is_named():
    with pytest.raises(InputError, match="known are cpu, torch, sklearn"):
        load_engine("gpu")
