"""Frames as flat arrays: the same frames, and what can be told of them without distances."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from aqvolt_flows.sampling.encoders.flat import CLOSEST_A, FlatFrames


def random_frames(sizes: list[int], seed: int = 0) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    return [
        Atoms(rng.integers(1, 90, n), rng.normal(size=(n, 3)), cell=np.eye(3) * 4 + rng.normal(size=(3, 3)), pbc=True)
        for n in sizes
    ]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=6), st.randoms(use_true_random=False))
def test_flat_frames_are_the_frames(sizes, random):
    frames = random_frames(sizes)
    flat = FlatFrames.of(frames)
    assert FlatFrames.of(flat) is flat
    assert (len(flat), flat.n_atoms.tolist()) == (len(frames), sizes)
    assert list(flat) == frames
    order = [random.randrange(len(frames)) for _ in range(4)] if frames else []
    assert list(flat.take(order)) == [frames[i] for i in order]
    assert list(flat[1:3]) == frames[1:3]
    assert list(FlatFrames.joined([flat, flat.take([]), flat[:2]])) == frames + frames[:2]
    assert list(FlatFrames.joined([])) == []
    with pytest.raises(IndexError):
        flat[len(frames)]
    if frames:
        assert flat[-1] == frames[-1]


def test_reasons_without_distances():
    good, nan, cell, strange, none = (a.copy() for a in random_frames([3, 3, 3, 3, 0]))
    nan.positions[2, 1] = np.inf
    cell.cell[0, 0] = np.nan
    strange.numbers[1] = 95
    flat = FlatFrames.of([good, nan, cell, strange, none])
    reasons = {1: "not_finite", 2: "not_finite", 3: "unknown_element", 4: "no_atoms"}
    assert flat.refusals(frozenset(range(1, 95))) == reasons
    assert flat.refusals(None) == {i: r for i, r in reasons.items() if i != 3}
    zero = good.copy()
    zero.numbers[0] = 0  # ASE's unknown species
    assert FlatFrames.of([zero]).refusals(frozenset({1, 2})) == {0: "unknown_element"}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.floats(0.5, 1.5), st.integers(0, 10**6))
def test_a_cell_without_room_does_hold_atoms_that_are_too_close(n, room, seed):
    """Where the bound speaks, so do the distances of all pairs and images; room: in units of the bound."""
    side = (n * room * CLOSEST_A**3 / np.sqrt(2)) ** (1 / 3)
    atoms = Atoms(["Li"] * n, scaled_positions=np.random.default_rng(seed).random((n, 3)), cell=[side] * 3, pbc=True)
    images = np.array(np.meshgrid(*[range(-2, 3)] * 3)).reshape(3, -1).T * side
    distances = np.linalg.norm(atoms.positions[:, None, None] - atoms.positions[None, :, None] - images, axis=-1)
    if FlatFrames.of([atoms]).refusals(None):
        assert np.sort(distances.ravel())[n] < CLOSEST_A, "the first n are each atom's distance from itself"
    else:
        assert room >= 1


def test_the_closest_packing_is_just_not_refused():
    packed = bulk("Li", "fcc", a=CLOSEST_A * np.sqrt(2) * 1.0001)
    assert FlatFrames.of([packed]).refusals(None) == {}
    packed.set_cell(packed.cell[:] * 0.999)
    assert FlatFrames.of([packed]).refusals(None) == {0: "close_atoms"}


def test_a_skewed_cell_is_replaced_by_one_of_the_same_crystal():
    salt = bulk("LiCl", "rocksalt", a=5.1)
    skewed = salt.copy()
    skewed.set_cell(np.array([[1, 40, -7], [0, 1, 60], [0, 0, 1]]) @ salt.cell[:])
    flat = FlatFrames.of([salt, skewed])
    assert FlatFrames.of([salt]).reduced(6.0).cells.tolist() == [salt.cell[:].tolist()], "a usual cell is left as it is"
    reduced = flat.reduced(6.0)
    assert np.linalg.norm(reduced.cells[1], axis=1) == pytest.approx([5.1 / np.sqrt(2)] * 3)
    expected = np.sort(neighbor_list("d", salt, 6.0))
    np.testing.assert_allclose(np.sort(neighbor_list("d", reduced[1], 6.0)), expected, atol=1e-6)
