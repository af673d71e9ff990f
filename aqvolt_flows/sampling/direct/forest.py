"""BIRCH over many millions of rows on several cores: each cell of the space has a CF tree of its own.

Rows enter a CF tree one after another, and a tree that outgrows the processor's caches takes in ever fewer of them
per second. Beyond some number of rows the space is therefore cut into eight cells first: a sample, evenly spread over
all rows, is halved along its widest components into equal boxes, and a row belongs to the nearest of the boxes' means.
That is what the root of one tree does, with the difference that the means stay where they are. Cells depend on the
rows alone and each cell takes its rows in their order, so that the result does not depend on threads.

What that changes was measured up to four million rows (docs/performance/sampling.md): 8 cells make 3 to 5 % fewer
sub-clusters than one tree where there are many, up to 5 % more where there are a few thousand; rows are 1 to 3 %
farther from them.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.sampling.direct.birch import CFTree, SubClusters
from aqvolt_flows.sampling.direct.nearest import NearestIndex, halved
from aqvolt_flows.sampling.direct.rows import PointStore, ahead, coalesced

Points = NDArray[np.float32]

#: log2 of the number of cells.
DEPTH = 3
#: A sample must have this many sub-clusters per cell, or the cells' borders would cut too many of them; the fewer there
#: are the faster one tree is.
_PER_CELL = 256
#: Rows of the sample.
_SAMPLE = 65_536
#: Rows that are sent to their cells together.
_ROWS = 2**21


def cell_means(points: PointStore, threshold: float, branching: int, depth: int = DEPTH) -> Points | None:
    """Return the means of 2^depth boxes of an evenly spread sample of stored rows, (cells, d).

    None: the sample has so few sub-clusters that one tree is better.
    """
    sample = points.take(np.unique(np.linspace(0, points.count - 1, _SAMPLE).astype(np.int64)))
    tree = CFTree(sample.shape[1], threshold, branching)
    tree.insert(sample)
    if len(tree) < _PER_CELL << depth:
        return None
    order, bounds = halved(sample, depth)
    sums = np.add.reduceat(sample[order].astype(np.float64), bounds[:-1], axis=0)
    return (sums / np.diff(bounds)[:, None]).astype(np.float32)


def sub_clusters_by_cell(
    blocks: Iterable[Points], means: Points, threshold: float, branching: int, threads: int
) -> SubClusters:
    """Return the sub-clusters of rows, each cell's from a tree of its own, cells one after another.

    Parameters
    ----------
    blocks
        Rows (n, d), float32, in the order in which they enter.
    means
        (cells, d); a row enters the tree of the nearest.
    threshold, branching
        Of the trees.
    threads
        How many trees take in rows at a time.
    """
    index = NearestIndex(means, threads)
    trees = [CFTree(means.shape[1], threshold, branching) for _ in means]
    with ThreadPoolExecutor(threads) as pool:
        for rows in ahead(coalesced(blocks, _ROWS)):
            cells = index.query(rows)[0].astype(np.int16)  # sorted by radix
            order = np.argsort(cells, kind="stable")
            bounds = np.searchsorted(cells[order], np.arange(len(means) + 1))
            pieces = [(tree, order[a:b]) for tree, a, b in zip(trees, bounds[:-1], bounds[1:], strict=True) if b > a]
            pieces.sort(key=lambda piece: -len(piece[1]))  # the largest first: none of them is waited for alone
            list(pool.map(lambda piece, block=rows: piece[0].insert(block[piece[1]]), pieces))
    found = []
    while trees:  # one tree's memory goes before the next one's clusters come
        found.append(trees.pop(0).sub_clusters())
    return SubClusters(
        np.concatenate([f.centers for f in found]),
        np.concatenate([f.counts for f in found]),
        np.concatenate([f.radii for f in found]),
    )
