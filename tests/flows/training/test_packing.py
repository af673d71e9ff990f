from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aqvolt_flows.training.packing import drawn, packed

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=60)


@settings(max_examples=80, deadline=None)
@given(natoms=SIZES, max_atoms=st.integers(40, 200))
def test_batches_hold_every_frame_once_and_no_more_atoms_than_allowed(natoms: list[int], max_atoms: int):
    sizes = np.array(natoms)
    found = packed(sizes, max_atoms)
    assert [i for a, b in found for i in range(a, b)] == list(range(len(natoms)))
    assert all(sizes[a:b].sum() <= max_atoms for a, b in found)
    # greedy: no batch could have taken the first frame of the next
    assert all(sizes[a : b + 1].sum() > max_atoms for a, b in found[:-1])


@pytest.mark.slow  # imports fairchem
@settings(max_examples=20, deadline=None)
@given(natoms=SIZES, max_atoms=st.integers(40, 200))
def test_batches_are_those_of_fairchem(natoms: list[int], max_atoms: int):
    """Independent: fairchem's own greedy batches of the same order."""
    from fairchem.core.datasets.samplers.max_atom_distributed_sampler import get_batches

    batches, _, left_out = get_batches(np.array(natoms), np.arange(len(natoms)), max_atoms, 0)
    assert left_out == 0
    assert [list(range(a, b)) for a, b in packed(np.array(natoms), max_atoms)] == [list(b) for b in batches]


def test_weights_repeat_and_thin_out():
    """Analytic: weight 2.5 of 10 frames sees each twice and five of them again; 0.3 of 20 sees six, once each."""
    counts = np.bincount(drawn([10, 20], [2.5, 0.3], seed=1, epoch=0), minlength=30)
    assert sorted(counts[:10]) == [2] * 5 + [3] * 5
    assert sorted(counts[10:]) == [0] * 14 + [1] * 6


def test_a_weight_below_one_draws_anew_each_epoch():
    """Statistical: over 400 epochs of a tenth, each of 50 frames is seen 40 times, standard deviation 6."""
    seen = np.zeros(50)
    for epoch in range(400):
        seen[drawn([50], [0.1], seed=3, epoch=epoch)] += 1
    assert seen.sum() == 2000
    assert abs(seen - 40).max() < 5 * 6
    first, second = (set(drawn([50], [0.1], seed=3, epoch=e).tolist()) for e in (0, 1))
    assert first != second


def test_draws_depend_on_seed_and_epoch_alone():
    assert drawn([9, 4], [1.0, 0.5], 7, 3).tolist() == drawn([9, 4], [1.0, 0.5], 7, 3).tolist()
    assert drawn([9, 4], [1.0, 0.5], 7, 3).tolist() != drawn([9, 4], [1.0, 0.5], 8, 3).tolist()


def test_a_source_with_frames_gives_at_least_one():
    assert 3 <= int(drawn([3, 5], [1.0, 0.01], 0, 0).max()) < 8
    assert len(drawn([3, 0], [1.0, 0.5], 0, 0)) == 3
