"""From frames to batches: what a mixture sees in an epoch, and how structures share batches of at most so many atoms.

Plain arrays in and out: the planner counts with the functions that the sampler of
:mod:`aqvolt_flows.training.mixture` uses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def drawn(sizes: Sequence[int], weights: Sequence[float], seed: int, epoch: int) -> Indices:
    """Return the indices that an epoch sees, sources one after the other in the index space, in random order.

    A weight's whole part repeats every frame of its source; its fraction draws frames without replacement, anew each
    epoch. A source that has frames gives at least one.

    Parameters
    ----------
    sizes, weights
        Frames and weight of each source; index ``i`` of source ``k`` is ``sum(sizes[:k]) + i``.
    seed, epoch
        Determine the draw.
    """
    rng = np.random.default_rng([seed, epoch])
    parts: list[Indices] = []
    first = 0
    for size, weight in zip(sizes, weights, strict=True):
        whole = int(weight)
        some = round((weight - whole) * size)
        if size and whole == 0:
            some = max(some, 1)
        parts += [np.arange(first, first + size)] * whole
        parts.append(first + rng.permutation(size)[:some])
        first += size
    return rng.permutation(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)


def packed(natoms: NDArray[np.int64], max_atoms: int) -> list[tuple[int, int]]:
    """Return (first, last + 1) of consecutive frames that share a batch, filled in order up to ``max_atoms``.

    It is the rule of fairchem's ``MaxAtomDistributedBatchSampler``; frames above ``max_atoms`` must not come here.
    """
    ends = np.cumsum(natoms)
    batches: list[tuple[int, int]] = []
    start, before = 0, 0
    while start < len(natoms):
        stop = int(np.searchsorted(ends, before + max_atoms, side="right"))
        stop = max(stop, start + 1)
        batches.append((start, stop))
        start, before = stop, int(ends[stop - 1])
    return batches


def batches_per_rank(natoms: NDArray[np.int64], max_atoms: int, ranks: int, seed: int = 0) -> int:
    """Return the batches that each rank sees per epoch, of frames in random order."""
    if not len(natoms):
        return 0
    order = np.random.default_rng(seed).permutation(len(natoms))
    return -(-len(packed(np.asarray(natoms)[order], max_atoms)) // ranks)
