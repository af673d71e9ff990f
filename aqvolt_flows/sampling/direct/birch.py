"""BIRCH's CF tree: sub-clusters of bounded radius from one pass over rows, in memory that grows with clusters only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.sampling.direct import kernels

Points = NDArray[np.float32]
#: Entries per node, as in scikit-learn and therefore in maml.
BRANCHING = 50


@dataclass(frozen=True, eq=False)
class SubClusters:
    """What a CF tree holds.

    Attributes
    ----------
    centers
        (m, d), float32, means of the rows that entered each sub-cluster.
    counts
        (m,), how many entered.
    radii
        (m,), root mean square distance of those rows to the center; at most the threshold.
    """

    centers: Points
    counts: NDArray[np.int64]
    radii: NDArray[np.float64]


class CFTree:
    """A tree of cluster features; feed it rows in any number of pieces, then ask for its sub-clusters.

    Inserting is sequential by nature and depends on the order of the rows; about 1.4 million rows of 24 dimensions
    enter per second on one core.

    Parameters
    ----------
    dimensions
        Columns of the rows.
    threshold
        Largest radius of a sub-cluster: a row that would take its nearest one beyond opens its own.
    branching
        Most entries per node.
    """

    def __init__(self, dimensions: int, threshold: float, branching: int = BRANCHING) -> None:
        self.dimensions, self.threshold, self.branching = dimensions, threshold, branching
        self._state = np.array([0, 1, 0], np.int64)
        self._arrays = tree_arrays(256, dimensions, branching)

    def __len__(self) -> int:
        """Return the number of sub-clusters."""
        return int(self._state[kernels.CLUSTERS])

    def insert(self, points: Points) -> None:
        """Insert rows (n, d), float32, in their order."""
        rows = np.ascontiguousarray(points, np.float32)
        done = 0
        while True:
            done = kernels.insert(rows, done, self.threshold**2, self.branching, self._state, *self._arrays)
            if done == len(rows):
                return
            self._grow()

    def sub_clusters(self) -> SubClusters:
        """Return the sub-clusters in the order in which they were opened."""
        m = len(self)
        centers = np.empty((m, self.dimensions), np.float32)
        counts, scatters = np.empty(m), np.empty(m)
        kernels.harvest(self.dimensions, self._state, *self._arrays, centers, counts, scatters)
        return SubClusters(centers, counts.astype(np.int64), np.sqrt(scatters / counts))

    def _grow(self) -> None:
        """Make room for half as many nodes again, one array at a time so that the peak stays low."""
        arrays = list(self._arrays)
        capacity = len(arrays[0]) * 3 // 2
        for i, old in enumerate(arrays):
            new = np.zeros((capacity, *old.shape[1:]), old.dtype)
            new[: len(old)] = old
            arrays[i] = new
        arrays[2][len(self._arrays[2]) :] = True
        self._arrays = tuple(arrays)


def tree_arrays(capacity: int, dimensions: int, branching: int = BRANCHING) -> tuple[NDArray, ...]:
    """Return empty centers, sizes, leaf flags, counts, scatters and children for a capacity of nodes."""
    slots = -(-(branching + 1) // kernels.LANES) * kernels.LANES
    return (
        np.zeros((capacity, dimensions, slots), np.float32),
        np.zeros(capacity, np.int64),
        np.ones(capacity, np.bool_),
        np.zeros((capacity, slots)),
        np.zeros((capacity, slots)),
        np.zeros((capacity, slots), np.int64),
    )
