"""One DIRECT over any number of rows: space, sub-clusters, assignment, choice; each a pass in blocks.

Rows are read twice when they must be standardized (moments; rotation) and once when the space is given. The rotated
rows are kept, in memory or in a temporary file, for the passes after that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.sampling.direct.birch import BRANCHING, SubClusters
from aqvolt_flows.sampling.direct.engines import Engine, Index, Tree
from aqvolt_flows.sampling.direct.forest import cell_means, sub_clusters_by_cell
from aqvolt_flows.sampling.direct.kernels import compiled
from aqvolt_flows.sampling.direct.known import FIXED, NEW, REACH, After
from aqvolt_flows.sampling.direct.robust import RowSample, Statistics
from aqvolt_flows.sampling.direct.rows import PointStore, Rows, Shards, ahead, coalesced
from aqvolt_flows.sampling.direct.space import Space

Points = NDArray[np.float32]
Numbers = NDArray[np.int64]
Order = Literal["given", "shuffled"]
Pick = Literal["nearest", "smallest"]
Scaling = Literal["standard", "robust"]

#: Distances to a center are compared in steps of this share of the threshold: both rows of a pair are as far from
#: their mean, and rounding should not decide between them before the smaller cell or the lower row does.
TICK = 1e-3
#: So many rows enter one CF tree; more of them are sent to cells of the space, each with a tree of its own.
ONE_TREE_ROWS = 20_000_000


@dataclass(frozen=True)
class Running:
    """How it runs; none of it changes what is chosen, but order, seed, branching, rows of one tree and scaling.

    Attributes
    ----------
    engine
        Linear algebra and search.
    scratch
        Folder for temporary files.
    memory_bytes
        How much of the rotated rows may stay in memory.
    order
        ``given``: rows enter the CF tree as they come. ``shuffled``: block after block in a seeded order, rows of a
        block in a seeded order.
    seed
        Of the shuffled order.
    branching
        Of the CF tree.
    one_tree_rows
        More rows are clustered in cells (:mod:`aqvolt_flows.sampling.direct.forest`).
    scaling
        ``standard``: by the standard deviation of all rows. ``robust``: of rows drawn back to limits
        (:mod:`aqvolt_flows.sampling.direct.robust`).
    """

    engine: Engine
    scratch: Path
    memory_bytes: int = 512 * 1024**2
    order: Order = "given"
    seed: int = 0
    branching: int = BRANCHING
    one_tree_rows: int = ONE_TREE_ROWS
    scaling: Scaling = "standard"


def fit_space(
    rows: Iterable[Rows], weight_components: bool, running: Running, before: Statistics | None = None
) -> tuple[Space, Statistics]:
    """Return the space of rows, and of those that earlier statistics stand for, and the statistics of both."""
    if running.scaling == "robust":
        sample = RowSample.of(rows, None if before is None else before.sample)
        return sample.space(weight_components), Statistics(sample=sample)
    space, moments = running.engine.space(rows, weight_components, None if before is None else before.moments)
    return space, Statistics(moments)


def rotate(rows: Shards, space: Space, running: Running, tree: Tree | None = None) -> PointStore:
    """Return the rows in a space; put them into a tree on the way if there is one, while the next block is read."""
    store = PointStore(running.scratch, rows.what, running.memory_bytes)
    for points in ahead(running.engine.project(space, block) for block in rows.blocks()):
        store.append(points)
        if tree is not None:
            tree.insert(points)
    return store


def sub_clusters(
    points: PointStore, dimensions: int, threshold: float, running: Running, first: int = 0
) -> SubClusters:
    """Return the sub-clusters of stored rows, entered in the order that ``running`` asks for, the first ones first."""
    blocks = in_order(points, running, first)
    means = None
    if points.count > running.one_tree_rows and running.engine.compiled_parts:
        means = cell_means(points, threshold, running.branching)
    if means is not None:
        return sub_clusters_by_cell(blocks, means, threshold, running.branching, running.engine.threads)
    tree = running.engine.tree(dimensions, threshold, running.branching)
    for block in blocks:
        tree.insert(block)
    return tree.sub_clusters()


def in_order(points: PointStore, running: Running, first: int = 0) -> Iterator[Points]:
    """Yield the blocks of a store in the order in which they enter the tree; the first rows stay first."""
    if running.order == "given":
        yield from points.blocks()
        return
    if first:
        yield points.take(np.arange(first))
    random = np.random.default_rng(running.seed)
    for number in random.permutation(points.n_blocks):
        block = points.block(int(number))[max(0, first - points.start(int(number))) :]
        if len(block):
            yield random.permutation(block)


@dataclass(frozen=True, eq=False)
class Fitted:
    """Rows in a space of their own, clustered.

    Attributes
    ----------
    space, statistics
        The space, and what it was fitted from.
    points
        The rows in it, known ones first.
    clusters
        Their sub-clusters.
    """

    space: Space
    statistics: Statistics
    points: PointStore
    clusters: SubClusters


def fit(
    rows: Shards,
    threshold: float,
    weight_components: bool,
    running: Running,
    known: Rows | None = None,
    before: Statistics | None = None,
) -> Fitted:
    """Standardize, rotate, weight and cluster rows: two passes over them, none over pairs.

    Parameters
    ----------
    rows
        New rows.
    threshold, weight_components, running
        The choices.
    known
        Rows that enter the tree first, so that clusters form around them.
    before
        Statistics of earlier rows, the known ones among them; the space is fitted to them as well.
    """
    space, statistics = fit_space(ahead(rows.blocks()), weight_components, running, before)
    first = 0 if known is None else len(known)
    all_rows = rows if known is None or not first else Shards(After(known, rows), rows.what, running.scratch)
    if running.order == "given" and first + (rows.count or 0) <= running.one_tree_rows:
        tree = running.engine.tree(len(space.weights), threshold, running.branching)
        return Fitted(space, statistics, rotate(all_rows, space, running, tree), tree.sub_clusters())
    store = rotate(all_rows, space, running)
    clusters = sub_clusters(store, len(space.weights), threshold, running, first)
    return Fitted(space, statistics, store, clusters)


def nearest(points: PointStore, index: Index, engine: Engine) -> Iterator[tuple[Numbers, Points]]:
    """Yield nearest center and distance of stored rows, block by block; the next is searched while one is in use."""
    return ahead(index.query(block) for block in coalesced(points.blocks(), engine.rows_per_query))


def gaps(points: PointStore, reference: Points, engine: Engine) -> Points:
    """Return each stored row's distance to the nearest row of a reference (with the beam search, an upper bound)."""
    return np.concatenate([distances for _, distances in nearest(points, engine.index(reference), engine)])


@compiled
def _keep(labels, ranks, first, second, offset, best_rank, best_first, best_second, best_row):  # type: ignore[no-untyped-def]
    """Update the k best rows of each cluster, ordered by (rank, first, second, row)."""
    k = best_row.shape[1]
    for i in range(len(labels)):
        c = labels[i]
        slot = k
        while slot > 0 and (
            best_row[c, slot - 1] < 0
            or ranks[i] < best_rank[c, slot - 1]
            or (ranks[i] == best_rank[c, slot - 1] and first[i] < best_first[c, slot - 1])
            or (
                ranks[i] == best_rank[c, slot - 1]
                and first[i] == best_first[c, slot - 1]
                and second[i] < best_second[c, slot - 1]
            )
        ):
            slot -= 1
        if slot == k:
            continue
        for later in range(k - 1, slot, -1):
            best_rank[c, later] = best_rank[c, later - 1]
            best_first[c, later] = best_first[c, later - 1]
            best_second[c, later] = best_second[c, later - 1]
            best_row[c, later] = best_row[c, later - 1]
        best_rank[c, slot], best_row[c, slot] = ranks[i], offset + i
        best_first[c, slot], best_second[c, slot] = first[i], second[i]


class Chooser:
    """Keeps the k best rows of each cluster while rows go by; memory grows with clusters only.

    Parameters
    ----------
    n_clusters, k
        How many clusters, and rows of each.
    threshold
        Of the clustering; distances that agree to ``TICK`` of it are equal.
    pick
        ``nearest``: to the center, among equals the smaller cell, then the lower row. ``smallest``: the smaller
        cell, among equals the nearer, then the lower row. Rows that are chosen for good and near enough to the
        center (:data:`~aqvolt_flows.sampling.direct.known.REACH`) come before all others.
    """

    def __init__(self, n_clusters: int, k: int, threshold: float, pick: Pick = "nearest") -> None:
        self.pick, self.tick = pick, TICK * threshold
        self._first, self._second = np.full((n_clusters, k), np.inf), np.full((n_clusters, k), np.inf)
        self._rank, self._row = np.full((n_clusters, k), NEW, np.int8), np.full((n_clusters, k), -1, np.int64)
        self._seen = 0

    def add(
        self,
        labels: Numbers,
        distances: NDArray[np.floating],
        sizes: NDArray | None = None,
        ranks: NDArray[np.int8] | None = None,
    ) -> None:
        """Add the next rows: cluster, distance to its center and, optionally, number of atoms and rank."""
        far = np.rint(np.asarray(distances, np.float64) / self.tick)
        cells = np.zeros(len(labels)) if sizes is None else np.asarray(sizes, np.float64)
        first, second = (far, cells) if self.pick == "nearest" else (cells, far)
        order = np.full(len(labels), NEW, np.int8)
        if ranks is not None:
            order[(ranks == FIXED) & (far * TICK <= REACH)] = FIXED
        best = (self._rank, self._first, self._second, self._row)
        _keep(np.asarray(labels, np.int64), order, first, second, self._seen, *best)
        self._seen += len(labels)

    def chosen(self) -> tuple[Numbers, Numbers, Points]:
        """Return the chosen rows, sorted, the cluster of each, and the distance to its center, to a tick."""
        clusters, slots = np.nonzero(self._row >= 0)
        rows = self._row[clusters, slots]
        order = np.argsort(rows)
        ticks = (self._first if self.pick == "nearest" else self._second)[clusters, slots]
        return rows[order], clusters[order], (ticks[order] * self.tick).astype(np.float32)
