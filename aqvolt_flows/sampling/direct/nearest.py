"""The nearest of many centers, without comparing with all of them: near enough in bounded time, or exactly.

Centers are halved along their widest component until at most 64 are left; every fourth level keeps its boxes.
In principal-component space boxes prune far better than balls, and than the centers of the CF tree's own nodes.

Exactly, a row of 24 components meets 12 leaves of 65,000 centers and 23 of 457,000, a row far from all of them more
than a thousand. A beam bounds that: the row first meets the leaf that it falls into; then, level by level, only the
``beam`` nearest boxes are followed, and of those only boxes that could hold a center ``NEARER`` times as near as the
best one so far. What it returns is the distance to a real center, never less than that to the nearest. The (1 + ε)
pruning is Arya et al.'s (DOI 10.1145/293347.293348).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.sampling.direct.kernels import compiled, first_smallest, smallest, squared_distances

Points = NDArray[np.float32]
Index = NDArray[np.int64]

#: Most centers of a leaf, and boxes of a branch (a power of two: 2⁴).
LEAF, LEVELS = 64, 4
#: Bounds are lowered by this much, so that rounding in single precision never hides the nearest one.
_SLACK = np.float32(1 - 1e-5)
#: Rows that one thread answers at a time.
_ROWS = 8192
#: Boxes followed per level unless another number is asked for.
BEAM = 16
#: A beam passes over boxes that hold no center so many times as near as the best one so far.
NEARER = 1.5
#: So few centers are searched exactly in any case.
EXACT_TO = 4096
#: Levels of a tree that are halved by as many threads as they have nodes; below, each of those nodes has a thread.
_TOP_LEVELS = 5


def n_threads() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@compiled
def _select(order, values, first, last, middle):  # type: ignore[no-untyped-def]
    """Reorder ``order[first:last]`` so that no value before ``middle`` is larger than one after it (quickselect)."""
    left, right = first, last - 1
    while left < right:
        pivot = values[order[(left + right) // 2]]
        i, j = left, right
        while i <= j:
            while values[order[i]] < pivot:
                i += 1
            while values[order[j]] > pivot:
                j -= 1
            if i <= j:
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if middle <= j:
            right = j
        elif middle >= i:
            left = i
        else:
            return


@compiled
def _halve(points, order, values, level, node, levels):  # type: ignore[no-untyped-def]
    """Order the rows below a node: node i of 2^l at level l holds rows m·i/2^l to m·(i+1)/2^l of the order."""
    m, d = points.shape
    sums, squares = np.empty(d), np.empty(d)
    for below in range(levels):
        for child in range(node << below, (node + 1) << below):
            first, last = (m * child) >> (level + below), (m * (child + 1)) >> (level + below)
            sums[:], squares[:] = 0.0, 0.0
            for i in range(first, last):
                row = points[order[i]]
                for j in range(d):
                    x = np.float64(row[j])
                    sums[j] += x
                    squares[j] += x * x
            widest, axis = -1.0, 0
            for j in range(d):
                spread = squares[j] - sums[j] * sums[j] / (last - first)
                if spread > widest:
                    widest, axis = spread, j
            for i in range(first, last):
                values[order[i]] = points[order[i], axis]
            _select(order, values, first, last, (m * (2 * child + 1)) >> (level + below + 1))


@compiled
def _fill_leaves(points, order, depth, leaves):  # type: ignore[no-untyped-def]
    m, d = points.shape
    for node in range(1 << depth):
        first, last = (m * node) >> depth, (m * (node + 1)) >> depth
        for i in range(first, last):
            for j in range(d):
                leaves[node, j, i - first] = points[order[i], j]


@compiled
def _fill_boxes(points, order, level, lower, upper):  # type: ignore[no-untyped-def]
    """Write the boxes of the nodes of one level, by parent: (parents, d, children)."""
    m, d = points.shape
    children = (1 << level) // len(lower)
    for node in range(1 << level):
        parent, child = node // children, node % children
        for i in range((m * node) >> level, (m * (node + 1)) >> level):
            for j in range(d):
                x = points[order[i], j]
                lower[parent, j, child] = min(lower[parent, j, child], x)
                upper[parent, j, child] = max(upper[parent, j, child], x)


@compiled
def _box_distances(lower, upper, row, out):  # type: ignore[no-untyped-def]
    """Write the squared distances of a row to boxes (d, children)."""
    children = lower.shape[1]
    for c in range(children):
        out[c] = np.float32(0)
    d, j = len(row), 0
    while j + 4 <= d:  # four columns at a time: one vector loop instead of four, with their checks
        w, x, y, z = row[j], row[j + 1], row[j + 2], row[j + 3]
        for c in range(children):
            a = max(lower[j, c] - w, w - upper[j, c], np.float32(0))
            b = max(lower[j + 1, c] - x, x - upper[j + 1, c], np.float32(0))
            e = max(lower[j + 2, c] - y, y - upper[j + 2, c], np.float32(0))
            f = max(lower[j + 3, c] - z, z - upper[j + 3, c], np.float32(0))
            out[c] += (a * a + b * b) + (e * e + f * f)
        j += 4
    while j < d:
        x = row[j]
        for c in range(children):
            a = max(lower[j, c] - x, x - upper[j, c], np.float32(0))
            out[c] += a * a
        j += 1


@compiled
def _leaf_best(block, names, n, row, distances, best, label):  # type: ignore[no-untyped-def]
    """Return the better of (best, label) and the nearest center of a leaf; the lower label among equals."""
    squared_distances(block, row, LEAF, distances)
    if smallest(distances, n) <= best:
        for c in range(n):
            if distances[c] < best or (distances[c] == best and names[c] < label):
                best, label = distances[c], names[c]
    return best, label


@compiled
def _homes(points, lower, upper, firsts, widths, homes):  # type: ignore[no-untyped-def]
    """Write for each row the leaf reached by taking the nearest box at every level."""
    boxes = np.empty(lower.shape[2], np.float32)
    for i in range(len(points)):
        node = 0
        for level in range(len(firsts)):
            _box_distances(lower[firsts[level] + node], upper[firsts[level] + node], points[i], boxes)
            node = (node << widths[level]) + first_smallest(boxes, 1 << widths[level])
        homes[i] = node


@compiled
def _query(points, turns, m, depth, order, leaves, lower, upper, firsts, widths, labels, squares):  # type: ignore[no-untyped-def]
    """Write nearest label and squared distance of the rows ``turns``, in that order.

    ``lower``, ``upper`` hold the boxes of all wide levels; those of level l begin at parent ``firsts[l]`` and each
    parent has ``2**widths[l]`` children.
    """
    n_levels = len(firsts)
    boxes, distances = np.empty(lower.shape[2], np.float32), np.empty(leaves.shape[2], np.float32)
    capacity = lower.shape[2] * (n_levels + 1) + 1
    bounds, level_of, node_of = (
        np.empty(capacity, np.float32),
        np.empty(capacity, np.int64),
        np.empty(capacity, np.int64),
    )
    for i in turns:
        row = points[i]
        best, label = np.float32(np.inf), m
        bounds[0], level_of[0], node_of[0] = 0, 0, 0
        held = 1
        while held:
            held -= 1
            if bounds[held] * _SLACK > best:
                continue
            level, node = level_of[held], node_of[held]
            if level == n_levels:
                start, stop = (m * node) >> depth, (m * (node + 1)) >> depth
                best, label = _leaf_best(leaves[node], order[start:stop], stop - start, row, distances, best, label)
                continue
            _box_distances(lower[firsts[level] + node], upper[firsts[level] + node], row, boxes)
            base, top = held, held
            for c in range(1 << widths[level]):
                if boxes[c] * _SLACK <= best:
                    bounds[held], level_of[held], node_of[held] = boxes[c], level + 1, (node << widths[level]) + c
                    top = held if bounds[held] < bounds[top] else top
                    held += 1
            if held > base:  # the nearest box next; the others in any order, most fall to the bound it gives
                last = held - 1
                bounds[top], bounds[last] = bounds[last], bounds[top]
                level_of[top], level_of[last] = level_of[last], level_of[top]
                node_of[top], node_of[last] = node_of[last], node_of[top]
        labels[i], squares[i] = label, best


@compiled
def _query_beam(points, turns, homes, beam, m, depth, order, leaves, lower, upper, firsts, widths, labels, squares):  # type: ignore[no-untyped-def]
    """Write a near label and its squared distance of the rows ``turns``, as :func:`_query` writes the nearest.

    The beam is sorted, nearest box first. Its loop is written out: a function for each level costs a quarter more.
    """
    boxes, distances = np.empty(lower.shape[2], np.float32), np.empty(leaves.shape[2], np.float32)
    nodes, kept = np.empty(beam, np.int64), np.empty(beam, np.int64)
    bounds, kept_bounds = np.empty(beam, np.float32), np.empty(beam, np.float32)
    share = np.float32(1 / NEARER**2)
    for i in turns:
        row, home = points[i], homes[i]
        start, stop = (m * home) >> depth, (m * (home + 1)) >> depth
        best, label = np.float32(np.inf), m
        best, label = _leaf_best(leaves[home], order[start:stop], stop - start, row, distances, best, label)
        nodes[0], held = 0, 1
        limit = best * share
        for level in range(len(firsts)):
            got = 0
            for b in range(held):
                parent = firsts[level] + nodes[b]
                _box_distances(lower[parent], upper[parent], row, boxes)
                for c in range(1 << widths[level]):
                    x = boxes[c]
                    if x < limit and (got < beam or x < kept_bounds[got - 1]):
                        slot = got if got < beam else beam - 1
                        while slot > 0 and kept_bounds[slot - 1] > x:
                            kept_bounds[slot], kept[slot] = kept_bounds[slot - 1], kept[slot - 1]
                            slot -= 1
                        kept_bounds[slot], kept[slot] = x, (nodes[b] << widths[level]) + c
                        got = min(got + 1, beam)
            for b in range(got):
                nodes[b], bounds[b] = kept[b], kept_bounds[b]
            held = got
        for b in range(held):
            if bounds[b] >= best * share:
                break
            node = nodes[b]
            if node != home:
                start, stop = (m * node) >> depth, (m * (node + 1)) >> depth
                best, label = _leaf_best(leaves[node], order[start:stop], stop - start, row, distances, best, label)
        labels[i], squares[i] = label, best


@compiled
def _by_home(homes, n_leaves):  # type: ignore[no-untyped-def]
    """Return the rows in the order of their leaves."""
    starts, turns = np.zeros(n_leaves + 1, np.int64), np.empty(len(homes), np.int64)
    for home in homes:
        starts[home + 1] += 1
    for leaf in range(n_leaves):
        starts[leaf + 1] += starts[leaf]
    for i in range(len(homes)):
        turns[starts[homes[i]]] = i
        starts[homes[i]] += 1
    return turns


def halved(points: Points, depth: int, threads: int | None = None) -> tuple[Index, Index]:
    """Return an order of rows (m, d) in 2^depth boxes, halved along the widest component, and where each begins.

    Returns
    -------
    (numpy.ndarray, numpy.ndarray)
        (m,) rows, and (2^depth + 1,) bounds in that order.
    """
    rows = np.ascontiguousarray(points, np.float32)
    order, values = np.arange(len(rows)), np.empty(len(rows), np.float32)
    top = min(depth, _TOP_LEVELS)
    with ThreadPoolExecutor(threads or n_threads()) as pool:
        for level in range(top):
            list(pool.map(lambda node, own=level: _halve(rows, order, values, own, node, 1), range(1 << level)))
        list(pool.map(lambda node: _halve(rows, order, values, top, node, depth - top), range(1 << top)))
    return order, (len(rows) * np.arange((1 << depth) + 1)) >> depth


class NearestIndex:
    """Nearest-center search over rows (m, d).

    Parameters
    ----------
    centers
        (m, d), at least one; searched in float32.
    threads
        Threads per query; the answer does not depend on them.
    beam
        Boxes followed per level; none: the search is exact, as it is with ``EXACT_TO`` centers or fewer.
    """

    def __init__(self, centers: NDArray[np.floating], threads: int | None = None, beam: int | None = None) -> None:
        points = np.ascontiguousarray(centers, np.float32)
        self.size, d = points.shape
        self.threads = threads or n_threads()
        self.beam = None if self.size <= EXACT_TO else beam
        self._depth = max(0, int(np.ceil(np.log2(self.size / LEAF))))
        self._order, _ = halved(points, self._depth, self.threads)
        self._leaves = np.zeros((1 << self._depth, d, LEAF), np.float32)
        _fill_leaves(points, self._order, self._depth, self._leaves)
        top = self._depth % LEVELS
        self._widths = np.array(([top] if top else []) + [LEVELS] * (self._depth // LEVELS), np.int64)
        levels = np.cumsum(self._widths)
        parents = [1 << int(level - width) for level, width in zip(levels, self._widths, strict=True)]
        self._firsts = np.cumsum([0, *parents])[:-1].astype(np.int64)
        shape = (max(1, sum(parents)), d, 1 << LEVELS)
        self._lower, self._upper = np.full(shape, np.inf, np.float32), np.full(shape, -np.inf, np.float32)
        for first, count, level in zip(self._firsts, parents, levels, strict=True):
            chosen = slice(first, first + count)
            _fill_boxes(points, self._order, int(level), self._lower[chosen], self._upper[chosen])

    def query(self, points: NDArray[np.floating]) -> tuple[Index, Points]:
        """Return for rows (n, d) the index of the nearest center (the lowest among equals) and the distance.

        With a beam it is a near center, and an upper bound of the distance to the nearest. Each row's answer depends
        on that row and the centers only.
        """
        rows = np.ascontiguousarray(points, np.float32)
        labels, squares = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
        tree = (self._lower, self._upper, self._firsts, self._widths)
        homes = np.empty(len(rows), np.int64)
        self._each(len(rows), lambda own: _homes(rows[own], *tree, homes[own]))
        turns = _by_home(homes, len(self._leaves))  # neighbors one after another find their leaves in the cache
        index = (self.size, self._depth, self._order, self._leaves, *tree)
        beam = self.beam
        if beam is None:
            self._each(len(rows), lambda own: _query(rows, turns[own], *index, labels, squares))
        else:
            self._each(len(rows), lambda own: _query_beam(rows, turns[own], homes, beam, *index, labels, squares))
        return labels, np.sqrt(squares)

    def _each(self, n: int, answer: Callable[[slice], None]) -> None:
        """Call ``answer`` for all slices of n rows, on all threads."""
        slices = [slice(first, first + _ROWS) for first in range(0, n, _ROWS)]
        if self.threads == 1 or len(slices) == 1:
            for own in slices:
                answer(own)
            return
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(answer, slices))
