"""DIRECT in one stage, and 2DIRECT in two: structures first, then atomic environments.

The papers leave open how the two stages join. The default follows the one public reading of it: stage 1
partitions the structures; within each part all atoms are clustered in a space of their own, the atom
nearest to each centre is taken, and its structure is selected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import Birch

from aqvolt_flows.errors import InputError
from aqvolt_flows.sampling.space import Moments, Space, check_rows

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Rows = NDArray[np.floating]

#: Rows of a point set that are compared with all centres at a time.
_CHUNK_BYTES = 64 * 1024 * 1024


def nearest(points: Array, centres: Array) -> tuple[Index, Array]:
    """Return for each point (n, d) the index of its nearest centre (m, d) and the distance, in bounded memory."""
    rows = max(1, _CHUNK_BYTES // (8 * max(1, len(centres))))
    labels = np.empty(len(points), np.int64)
    distances = np.empty(len(points))
    centre_norms = (centres**2).sum(axis=1)
    for first in range(0, len(points), rows):
        chunk = points[first : first + rows]
        squared = centre_norms - 2 * chunk @ centres.T
        best = squared.argmin(axis=1)
        labels[first : first + rows] = best
        distances[first : first + rows] = np.linalg.norm(chunk - centres[best], axis=1)
    return labels, distances


def birch_centres(points: Array, threshold: float) -> Array:
    """Return the sub-cluster centres (m, d) of a BIRCH tree (Zhang et al., DOI 10.1145/233269.233324).

    Each sub-cluster's radius stays at or below ``threshold``.
    """
    tree = Birch(threshold=threshold, branching_factor=50, n_clusters=None).fit(points)
    return np.asarray(tree.subcluster_centers_, dtype=np.float64)


def pick_nearest(labels: Index, distances: Array, k: int, tie_break: Rows | Index | None = None) -> Index:
    """Return the sorted rows that are among the ``k`` nearest to the centre of their cluster.

    Parameters
    ----------
    labels, distances
        (n,), cluster of each row and its distance to that cluster's centre.
    k
        How many per cluster.
    tie_break
        (n,), the smaller wins among equal distances, then the lower row.
    """
    keys = (np.arange(len(labels)), tie_break if tie_break is not None else np.zeros(len(labels)), distances, labels)
    order = np.lexsort(keys)
    ordered = labels[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return np.sort(order[rank < k])


def _check_choice(threshold: float, k: int) -> None:
    if not threshold > 0 or not np.isfinite(threshold):
        raise InputError(
            f"The threshold is {threshold}; expected a positive length in weighted component units, e.g. 0.1."
        )
    if k < 1:
        raise InputError(f"k is {k}; expected at least one row per cluster.")


@dataclass(frozen=True, eq=False)
class Clustering:
    """Rows clustered in a space: labels (n,), distances (n,) to the centres (m, d), and the space."""

    space: Space
    centres: Array
    labels: Index
    distances: Array


def cluster(features: Rows, threshold: float, weight_components: bool = True) -> Clustering:
    """Standardise, rotate, weight and cluster rows (n, d)."""
    space = Space.fit(Moments.of(features), weight_components)
    points = space.transform(features)
    centres = birch_centres(points, threshold)
    labels, distances = nearest(points, centres)
    return Clustering(space, centres, labels, distances)


def direct_select(
    features: Rows, threshold: float = 0.1, k: int = 1, weight_components: bool = True, seed: int = 0
) -> Index:
    """Select rows that cover a feature space, one stage.

    Parameters
    ----------
    features
        (n, d), finite.
    threshold
        BIRCH radius in the weighted space.
    k
        Rows per cluster, those nearest to its centre.
    weight_components
        Multiply each principal component by its share of the explained variance.
    seed
        Kept in the interface; the selection is deterministic and does not use it.

    Returns
    -------
    numpy.ndarray
        Sorted row indices.

    Raises
    ------
    InputError
        If features are not finite, empty or constant, or threshold or k are not positive.
    """
    del seed
    _check_choice(threshold, k)
    rows = check_rows(features)
    found = cluster(rows, threshold, weight_components)
    return pick_nearest(found.labels, found.distances, k)


@dataclass(frozen=True, eq=False)
class Selection:
    """What 2DIRECT chose.

    Attributes
    ----------
    indices
        Sorted rows of the chosen structures.
    structure_clusters
        (n,), stage-1 cluster of every structure.
    structure_distances
        (n,), distance of every structure to the centre of its cluster.
    atom_clusters
        For each chosen row, the stage-2 clusters that chose it; numbered over all parts.
    coverage
        Distances of all structures to the nearest chosen one: mean, p99, max; and the number of clusters.
    parameters
        All choices, and the identity of the space.
    components
        (n, 2), the first two components of every structure, for the picture.
    """

    indices: Index
    structure_clusters: Index
    structure_distances: Array
    atom_clusters: dict[int, list[int]]
    coverage: dict[str, float]
    parameters: dict[str, Any]
    components: Array


@dataclass(frozen=True)
class TwoStageDirect:
    """2DIRECT: structures are partitioned, then atomic environments choose within each part.

    Parameters
    ----------
    structure_threshold, atom_threshold
        BIRCH radii in the weighted structural and atomic spaces (paper: 0.1 and 0.1).
    k
        Atoms per atomic cluster.
    weight_components
        As in :func:`direct_select`.
    seed
        Kept for engines that need one; this one is deterministic.
    stage1
        ``partition``: every structure takes part in stage 2. ``selection``: only the structures that stage 1
        would choose by themselves do.
    """

    structure_threshold: float = 0.1
    atom_threshold: float = 0.1
    k: int = 1
    weight_components: bool = True
    seed: int = 0
    stage1: Literal["partition", "selection"] = field(default="partition")

    def select(
        self,
        structure_features: Rows | Iterable[Rows],
        atom_features: Rows | Iterable[Rows],
        n_atoms: NDArray[np.integer],
    ) -> Selection:
        """Select structures.

        Parameters
        ----------
        structure_features
            (n, d_structure), or shards of it.
        atom_features
            (sum of n_atoms, d_atom) in the order of the structures, or shards of it.
        n_atoms
            (n,), atoms of each structure.

        Raises
        ------
        InputError
            If shapes do not fit together, values are not finite, or a threshold is not positive.
        """
        for threshold in (self.structure_threshold, self.atom_threshold):
            _check_choice(threshold, self.k)
        structures = check_rows(_gather(structure_features), "structure_features")
        atoms = check_rows(_gather(atom_features), "atom_features")
        counts = np.asarray(n_atoms, dtype=np.int64)
        if counts.shape != (len(structures),) or (counts < 1).any():
            raise InputError(
                f"n_atoms has shape {counts.shape}; expected one positive count for each of {len(structures)} "
                "structures."
            )
        if counts.sum() != len(atoms):
            raise InputError(
                f"n_atoms add up to {counts.sum()}, but atom_features has {len(atoms)} rows; a shard may be missing."
            )
        stage1 = cluster(structures, self.structure_threshold, self.weight_components)
        eligible = (
            np.arange(len(structures))
            if self.stage1 == "partition"
            else pick_nearest(stage1.labels, stage1.distances, self.k, counts)
        )
        chosen: dict[int, list[int]] = {}
        first_atom = np.r_[0, np.cumsum(counts)]
        offset = 0
        for part in _parts(stage1.labels, eligible):
            parents = np.repeat(part, counts[part])
            rows = np.concatenate([np.arange(first_atom[i], first_atom[i + 1]) for i in part])
            n_clusters = self._choose(atoms[rows], parents, counts, offset, chosen)
            offset += n_clusters
        indices = np.array(sorted(chosen), dtype=np.int64)
        points = stage1.space.transform(structures)
        _, gaps = nearest(points, points[indices])
        return Selection(
            indices=indices,
            structure_clusters=stage1.labels,
            structure_distances=stage1.distances,
            atom_clusters=chosen,
            coverage={
                "mean": float(gaps.mean()),
                "p99": float(np.quantile(gaps, 0.99)),
                "max": float(gaps.max()),
                "structure_clusters": float(len(stage1.centres)),
                "atom_clusters": float(offset),
            },
            parameters={
                "structure_threshold": self.structure_threshold,
                "atom_threshold": self.atom_threshold,
                "k": self.k,
                "weight_components": self.weight_components,
                "stage1": self.stage1,
                "space": stage1.space.hash,
                "components": len(stage1.space.weights),
            },
            components=points[:, :2] if points.shape[1] > 1 else np.c_[points[:, 0], np.zeros(len(points))],
        )

    def _choose(self, atoms: Rows, parents: Index, counts: Index, offset: int, chosen: dict[int, list[int]]) -> int:
        """Cluster the atoms of one part, add the parents of the chosen atoms, return the number of clusters."""
        moments = Moments.of(atoms)
        if len(atoms) == 1 or np.ptp(np.asarray(atoms, float), axis=0).max() == 0:
            smallest = int(parents[np.argmin(counts[parents])])
            chosen.setdefault(smallest, []).append(offset)
            return 1
        space = Space.fit(moments, self.weight_components)
        points = space.transform(atoms)
        centres = birch_centres(points, self.atom_threshold)
        labels, distances = nearest(points, centres)
        for row in pick_nearest(labels, distances, self.k, counts[parents]):
            clusters = chosen.setdefault(int(parents[row]), [])
            clusters.append(int(labels[row]) + offset)
        return len(centres)


def _gather(rows: Rows | Iterable[Rows]) -> Rows:
    return rows if isinstance(rows, np.ndarray) else np.concatenate(list(rows))


def _parts(labels: Index, eligible: Index) -> Iterator[Index]:
    """Yield the eligible rows of each structural cluster, clusters in order."""
    order = eligible[np.argsort(labels[eligible], kind="stable")]
    bounds = np.flatnonzero(np.diff(labels[order])) + 1
    yield from np.split(order, bounds)
