"""Compiled loops of the CF tree (BIRCH: Zhang, Ramakrishnan and Livny, DOI 10.1145/233269.233324).

A node is a block of arrays, not an object: its entries' centers lie as (dimensions, slots) so that the distances of a
row to all entries of a node are a few vector instructions. Which entry a row joins, when it opens one of its own and
how a full node is split follow the published algorithm as scikit-learn runs it: on the same rows in the same order
the sub-clusters are the same to rounding. Entries hold count, center and the sum of squared deviations from the
center (Lang and Schubert, BETULA, DOI 10.1007/978-3-030-60936-8_22), which does not cancel in single precision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

#: Slots of a node are a multiple of this many single-precision numbers, one vector register of AVX-512.
LANES = 16
#: Deeper than any tree: 50 entries a node at least half full would hold 25¹⁵ sub-clusters.
_MAX_DEPTH = 64
#: Entries of the state vector: the root's number, how many nodes and how many sub-clusters there are.
ROOT, NODES, CLUSTERS = 0, 1, 2


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at first use, free of the interpreter's lock; keep the machine code on disk where that can be written.

    Values are never NaN, and the sign of zero is of no interest: only so can the smallest of many be vectorised.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": {"nnan", "nsz"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba: no folder for the cache can be written
        return numba.njit(**options)(function)


@compiled
def squared_distances(block, row, slots, out):  # type: ignore[no-untyped-def]
    """Write the squared distances of ``row`` (d,) to the first ``slots`` columns of ``block`` (≥ d, slots)."""
    for c in range(slots):
        out[c] = np.float32(0)
    for j in range(len(row)):
        x = row[j]
        for c in range(slots):
            difference = block[j, c] - x
            out[c] += difference * difference


@compiled
def smallest(values, n):  # type: ignore[no-untyped-def]
    """Return the smallest of the first ``n`` values."""
    least = values[0]
    for c in range(1, n):
        least = values[c] if values[c] < least else least
    return least


@compiled
def first_smallest(values, n):  # type: ignore[no-untyped-def]
    """Return the index of the smallest of the first ``n`` values, the first among equals."""
    least = smallest(values, n)
    best = 0
    while values[best] != least:
        best += 1
    return best


@compiled
def padded(n):  # type: ignore[no-untyped-def]
    """Return ``n`` rounded up to whole lanes."""
    return (n + LANES - 1) // LANES * LANES


@compiled
def _summarize(node, parent, slot, d, centers, sizes, counts):  # type: ignore[no-untyped-def]
    """Write count and center of a node's entries into its parent's slot."""
    total = 0.0
    for c in range(sizes[node]):
        total += counts[node, c]
    for j in range(d):
        moment = 0.0
        for c in range(sizes[node]):
            moment += counts[node, c] * centers[node, j, c]
        centers[parent, j, slot] = moment / total
    counts[parent, slot] = total


@compiled
def _move(source, slot, target, to, d, centers, counts, scatters, children):  # type: ignore[no-untyped-def]
    for j in range(d):
        centers[target, j, to] = centers[source, j, slot]
    counts[target, to] = counts[source, slot]
    scatters[target, to] = scatters[source, slot]
    children[target, to] = children[source, slot]


@compiled
def _split(node, other, d, centers, sizes, leaf, counts, scatters, children, near, row):  # type: ignore[no-untyped-def]
    """Give half of a full node's entries to ``other``: each goes with the nearer one of the farthest pair."""
    n = sizes[node]
    farthest, a, b = np.float32(-1), 0, 0
    for i in range(n):
        for j in range(d):
            row[j] = centers[node, j, i]
        squared_distances(centers[node], row[:d], padded(n), near[i])
        for c in range(n):
            if near[i, c] > farthest:
                farthest, a, b = near[i, c], i, c
    leaf[other] = leaf[node]
    kept, given = 0, 0
    for c in range(n):
        if c == a or near[a, c] < near[b, c]:
            if kept != c:
                _move(node, c, node, kept, d, centers, counts, scatters, children)
            kept += 1
        else:
            _move(node, c, other, given, d, centers, counts, scatters, children)
            given += 1
    sizes[node], sizes[other] = kept, given


@compiled
def _absorb(node, slot, row, centers, counts):  # type: ignore[no-untyped-def]
    """Add one row to an entry's count and center."""
    counts[node, slot] += 1
    step = np.float32(1 / counts[node, slot])
    for j in range(len(row)):
        centers[node, j, slot] += (row[j] - centers[node, j, slot]) * step


@compiled
def _enter_leaf(node, row, limit, distances, state, centers, sizes, counts, scatters, children):  # type: ignore[no-untyped-def]
    """Add a row to the nearest entry of a leaf, or as a new one if that entry's radius would exceed the threshold."""
    n = sizes[node]
    if n > 0:
        squared_distances(centers[node], row, len(distances), distances)
        slot = first_smallest(distances, n)
        count = counts[node, slot]
        scatter = scatters[node, slot] + count / (count + 1) * distances[slot]
        if scatter <= limit * (count + 1):
            scatters[node, slot] = scatter
            _absorb(node, slot, row, centers, counts)
            return
    for j in range(len(row)):
        centers[node, j, n] = row[j]
    counts[node, n], scatters[node, n], children[node, n] = 1, 0, state[CLUSTERS]
    state[CLUSTERS] += 1
    sizes[node] = n + 1


@compiled
def insert(points, first, limit, branching, state, centers, sizes, leaf, counts, scatters, children):  # type: ignore[no-untyped-def]
    """Insert rows from ``first`` on; return where it stopped because nodes run out, or the number of rows.

    Parameters
    ----------
    points
        (n, d), float32.
    limit
        Square of the threshold.
    branching
        Most entries of a node; arrays have at least one slot more.
    state
        (3,), see ``ROOT``, ``NODES``, ``CLUSTERS``.
    centers, sizes, leaf, counts, scatters, children
        (nodes, ≥ d, slots), (nodes,), (nodes,), (nodes, slots) thrice. A leaf's children are sub-cluster numbers.
    """
    d, slots = points.shape[1], centers.shape[2]
    distances, near, scratch = (
        np.empty(slots, np.float32),
        np.empty((slots, slots), np.float32),
        np.empty(d, np.float32),
    )
    path, taken = np.empty(_MAX_DEPTH, np.int64), np.empty(_MAX_DEPTH, np.int64)
    for i in range(first, len(points)):
        if state[NODES] + _MAX_DEPTH > len(sizes):
            return i
        row = points[i]
        node, depth = state[ROOT], 0
        while not leaf[node]:
            squared_distances(centers[node], row, len(distances), distances)
            slot = first_smallest(distances, sizes[node])
            path[depth], taken[depth] = node, slot
            node = children[node, slot]
            depth += 1
        _enter_leaf(node, row, limit, distances, state, centers, sizes, counts, scatters, children)
        for level in range(depth - 1, -1, -1):
            parent, slot = path[level], taken[level]
            if sizes[node] <= branching:
                _absorb(parent, slot, row, centers, counts)
            else:
                other = state[NODES]
                state[NODES] += 1
                _split(node, other, d, centers, sizes, leaf, counts, scatters, children, near, scratch)
                free = sizes[parent]
                sizes[parent] = free + 1
                children[parent, free] = other
                _summarize(node, parent, slot, d, centers, sizes, counts)
                _summarize(other, parent, free, d, centers, sizes, counts)
            node = parent
        if sizes[node] > branching:
            other, root = state[NODES], state[NODES] + 1
            state[NODES] += 2
            _split(node, other, d, centers, sizes, leaf, counts, scatters, children, near, scratch)
            leaf[root], sizes[root] = False, 2
            children[root, 0], children[root, 1] = node, other
            _summarize(node, root, 0, d, centers, sizes, counts)
            _summarize(other, root, 1, d, centers, sizes, counts)
            state[ROOT] = root
    return len(points)


@compiled
def harvest(d, state, centers, sizes, leaf, counts, scatters, children, to_centers, to_counts, to_scatters):  # type: ignore[no-untyped-def]
    """Copy the sub-clusters out of the leaves, in the order in which they were opened."""
    for node in range(state[NODES]):
        if not leaf[node]:
            continue
        for c in range(sizes[node]):
            cluster = children[node, c]
            to_counts[cluster] = counts[node, c]
            to_scatters[cluster] = scatters[node, c]
            for j in range(d):
                to_centers[cluster, j] = centers[node, j, c]
