"""The atomic level within each structural cluster: hundreds of thousands of small DIRECTs, compiled into one loop.

A part's atoms get a space, a CF tree and a choice of their own, by the same rules as a DIRECT over all rows. A part
with fewer atoms than features is rotated through its Gram matrix, which has the same eigenvalues (its rows' principal
coordinates), so that a handful of atoms costs microseconds instead of an eigenproblem in all features.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.sampling.direct.birch import BRANCHING, tree_arrays
from aqvolt_flows.sampling.direct.grouping import Bucket
from aqvolt_flows.sampling.direct.kernels import (
    CLUSTERS,
    NODES,
    ROOT,
    compiled,
    first_smallest,
    harvest,
    insert,
    padded,
    squared_distances,
)
from aqvolt_flows.sampling.direct.known import FIXED, NEW, REACH
from aqvolt_flows.sampling.direct.nearest import n_threads
from aqvolt_flows.sampling.direct.robust import winsorized
from aqvolt_flows.sampling.direct.selection import AtomPicks
from aqvolt_flows.sampling.direct.single_direct import TICK, Pick
from aqvolt_flows.sampling.direct.space import ROUNDING, resolution_of

Numbers = NDArray[np.int64]

#: Larger parts go through a DIRECT of their own (:mod:`single_direct`), whose search does not compare all pairs.
LARGEST_PART = 16_384
#: Nodes of a thread's tree; a part that needs more goes through a DIRECT of its own.
_NODES = 2048


@compiled
def _scaling(rows, spread):  # type: ignore[no-untyped-def]
    """Return mean and inverse standard deviation by column, 0 for constant ones, and whether any column varies."""
    m, d = rows.shape
    mean, factor = np.zeros(d), np.zeros(d)
    for i in range(m):
        for j in range(d):
            mean[j] += rows[i, j]
    mean /= m
    for i in range(m):
        for j in range(d):
            deviation = rows[i, j] - mean[j]
            factor[j] += deviation * deviation
    varies = False
    for j in range(d):
        if factor[j] / m <= spread * max(mean[j] * mean[j], 2.2250738585072014e-308):
            factor[j] = 0.0
        else:
            factor[j] = np.sqrt(m / factor[j])
            varies = True
    return mean, factor, varies


@compiled
def _standardized(rows, mean, factor):  # type: ignore[no-untyped-def]
    """Return rows (m, d) less the mean, times the factor, by column."""
    m, d = rows.shape
    out = np.empty((m, d))
    for i in range(m):
        for j in range(d):
            out[i, j] = (rows[i, j] - mean[j]) * factor[j]
    return out


@compiled
def _rotated(rows, limited, robust, weight):  # type: ignore[no-untyped-def]
    """Return standardized rows (m, d), m ≥ 2, in the weighted principal components of ``limited``, float32.

    ``limited`` is the same array unless the scaling is robust.
    """
    m, d = rows.shape
    direct = m > d
    matrix = np.dot(limited.T, limited) if direct else np.dot(limited, limited.T)
    values, vectors = np.linalg.eigh(matrix / (m - 1))
    total = 0.0
    for v in values:
        total += max(v, 0.0)
    kept = 0
    for v in values:
        if v > 1:
            kept += 1
    kept = max(kept, 1)
    n = len(values)
    points = np.empty((m, kept), np.float32)
    leading = np.ascontiguousarray(vectors[:, n - kept :])
    if direct:
        turned = np.dot(rows, leading)
    elif robust:  # a component is limitedᵀ u / √(λ (m − 1))
        turned = np.dot(rows, np.dot(limited.T, leading))
        for c in range(kept):
            turned[:, c] /= max(values[n - kept + c] * (m - 1), 1e-300)
    else:
        turned = leading
    for c in range(kept):
        value = max(values[n - 1 - c], 0.0)
        factor = value / total if weight else 1.0
        if not direct:
            factor *= np.sqrt(value * (m - 1))
        for i in range(m):
            points[i, c] = turned[i, kept - 1 - c] * factor
    return points


@compiled
def _label(points, found, tick, labels, distances):  # type: ignore[no-untyped-def]
    """Write nearest center and its distance, in ticks, of each row, comparing with all centers (m, d)."""
    n, d = found.shape
    block = np.zeros((d, padded(n)), np.float32)
    for c in range(n):
        for j in range(d):
            block[j, c] = found[c, j]
    out = np.empty(padded(n), np.float32)
    for i in range(len(points)):
        squared_distances(block, points[i], padded(n), out)
        best = first_smallest(out, n)
        labels[i], distances[i] = best, np.rint(np.sqrt(out[best]) / tick)


@compiled
def _better(a, b, ranks, distances, sizes, nearest):  # type: ignore[no-untyped-def]
    """Return whether row a comes before row b of the same cluster."""
    if ranks[a] != ranks[b]:
        return ranks[a] < ranks[b]
    if distances[a] != distances[b] and (nearest or sizes[a] == sizes[b]):
        return distances[a] < distances[b]
    if sizes[a] != sizes[b]:
        return sizes[a] < sizes[b]
    return a < b


@compiled
def _pick(labels, distances, sizes, ranks, n, k, nearest, chosen, fresh):  # type: ignore[no-untyped-def]
    """Mark the k best rows of each cluster, and all rows of clusters in which a new one is among them."""
    best, order = np.full((n, k), -1), np.empty(len(ranks), np.int8)
    for i in range(len(ranks)):
        order[i] = FIXED if ranks[i] == FIXED and distances[i] <= REACH / TICK else NEW
    for i in range(len(labels)):
        c = labels[i]
        slot = k
        while slot > 0 and (best[c, slot - 1] < 0 or _better(i, best[c, slot - 1], order, distances, sizes, nearest)):
            slot -= 1
        for later in range(k - 1, slot, -1):
            best[c, later] = best[c, later - 1]
        if slot < k:
            best[c, slot] = i
    for c in range(n):
        for s in range(k):
            if best[c, s] >= 0:
                chosen[best[c, s]] = True
    for i in range(len(labels)):
        fresh[i] = False
        for s in range(k):
            if best[labels[i], s] >= 0 and ranks[best[labels[i], s]] == NEW:
                fresh[i] = True


@compiled
def choose_parts(  # type: ignore[no-untyped-def]
    atoms, sizes, ranks, starts, first, last, limit, branching, weight, spread, robust, k, nearest, tree, chosen, fresh,
    labels, distances, counts,
):  # fmt: skip
    """Choose atoms of parts first … last − 1; ``counts`` gets the clusters of each, −1 where the part is too large.

    Parameters
    ----------
    atoms, sizes, ranks
        (n, d) features, (n,) atoms of each one's structure, and its rank: chosen before, or new.
    starts
        (parts + 1,).
    limit, branching, weight, spread, robust, k, nearest
        Square of the threshold, and the choices of the atomic level; ``spread``: columns whose variance is at most
        this share of their squared mean are constant.
    tree
        Arrays of a CF tree for d dimensions, used again for each part.
    chosen, fresh, labels, distances
        (n,), written: whether an atom is chosen, whether a new one of its cluster is, its cluster within the part, the
        distance to its center in ticks.
    """
    centers, tree_sizes, leaf, tree_counts, scatters, children = tree
    state = np.zeros(3, np.int64)
    for part in range(first, last):
        begin, end = starts[part], starts[part + 1]
        m = end - begin
        if m > LARGEST_PART:
            counts[part] = -1
            continue
        own, marks = slice(begin, end), (chosen[begin:end], fresh[begin:end])
        if robust:
            mean, factor, varies = _scaling(winsorized(atoms[own]), spread)
        else:
            mean, factor, varies = _scaling(atoms[own], spread)
        if m == 1 or not varies:
            labels[own], distances[own] = 0, 0
            _pick(labels[own], distances[own], sizes[own], ranks[own], 1, 1, nearest, marks[0], marks[1])
            counts[part] = 1
            continue
        rows = _standardized(atoms[own], mean, factor)
        limited = _standardized(winsorized(atoms[own]), mean, factor) if robust else rows
        points = _rotated(rows, limited, robust, weight)
        d = points.shape[1]
        state[ROOT], state[NODES], state[CLUSTERS] = 0, 1, 0
        tree_sizes[0], leaf[0] = 0, True
        done = insert(points, 0, limit, branching, state, centers, tree_sizes, leaf, tree_counts, scatters, children)
        if done < m:
            counts[part] = -1
            continue
        n = state[CLUSTERS]
        found, found_counts, found_scatters = np.empty((n, d), np.float32), np.empty(n), np.empty(n)
        harvest(
            d, state, centers, tree_sizes, leaf, tree_counts, scatters, children, found, found_counts, found_scatters
        )
        _label(points, found, TICK * np.sqrt(limit), labels[own], distances[own])
        _pick(labels[own], distances[own], sizes[own], ranks[own], n, k, nearest, marks[0], marks[1])
        counts[part] = n


@dataclass(frozen=True)
class PartChoices:
    """The choices of the atomic level within parts; not ``compiled``: every part has a DIRECT of its own."""

    threshold: float
    k: int = 1
    weight_components: bool = True
    pick: Pick = "nearest"
    branching: int = BRANCHING
    threads: int | None = None
    compiled: bool = True
    robust: bool = False


def choose_in_bucket(
    bucket: Bucket,
    n_atoms: Numbers,
    ranks: NDArray[np.int8],
    choices: PartChoices,
    large: Callable[[NDArray, Numbers, NDArray[np.int8]], tuple[AtomPicks, NDArray[np.bool_]]],
) -> tuple[AtomPicks, Numbers]:
    """Choose atoms within each part of a bucket.

    Parameters
    ----------
    bucket
        Atoms by part.
    n_atoms, ranks
        (n,), atoms of each structure, for ties, and its rank.
    choices
        Threshold and rules.
    large
        Chooses from the atoms of a part too large for the loop, given them, their structures' sizes and ranks; returns
        rows in place of structures, and which rows are in clusters of which a new one is chosen.

    Returns
    -------
    AtomPicks, numpy.ndarray
        Clusters numbered over the bucket; structures with an atom in a cluster of which a new one is chosen.
    """
    atoms = np.ascontiguousarray(bucket.atoms)
    sizes, order = n_atoms[bucket.structures], ranks[bucket.structures]
    n_parts, d = len(bucket.starts) - 1, atoms.shape[1]
    chosen, fresh, labels = (
        np.zeros(len(atoms), np.bool_),
        np.zeros(len(atoms), np.bool_),
        np.zeros(len(atoms), np.int64),
    )
    spread = max(10 * np.finfo(float).eps, (ROUNDING * resolution_of(atoms)) ** 2)
    distances = np.zeros(len(atoms), np.float32)
    counts = np.zeros(n_parts, np.int64)
    threads, tick = min(choices.threads or n_threads(), n_parts), np.float32(TICK * choices.threshold)
    cuts = np.searchsorted(bucket.starts, np.linspace(0, len(atoms), 4 * threads + 1)).astype(np.int64)
    cuts[0], cuts[-1] = 0, n_parts

    def run(pair: tuple[int, int]) -> None:
        if pair[0] < pair[1]:
            choose_parts(
                *(atoms, sizes, order, bucket.starts, *pair, choices.threshold**2, choices.branching),
                *(choices.weight_components, spread, choices.robust, choices.k, choices.pick == "nearest"),
                *(tree_arrays(_NODES, d, choices.branching), chosen, fresh, labels, distances, counts),
            )

    if choices.compiled:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, pairwise(cuts.tolist())))
    else:
        counts[:] = -1
    for part in np.flatnonzero(counts < 0):
        begin, end = int(bucket.starts[part]), int(bucket.starts[part + 1])
        found, fresh[begin:end] = large(atoms[begin:end], sizes[begin:end], order[begin:end])
        rows, counts[part] = begin + found.structures, found.n_clusters
        chosen[rows], labels[rows], distances[rows] = True, found.clusters, found.distances / tick
    offsets = np.cumsum([0, *counts])
    rows = np.flatnonzero(chosen)
    part_of = np.searchsorted(bucket.starts, rows, side="right") - 1
    clusters = labels[rows] + offsets[part_of]
    picks = AtomPicks(bucket.structures[rows], clusters, distances[rows] * tick, int(offsets[-1]))
    return picks, np.unique(bucket.structures[fresh])
