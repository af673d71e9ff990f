"""The reference engine: scikit-learn's StandardScaler, PCA and Birch as they are, in memory, for small sets.

The other engines follow the same algorithm; this one shows on a set of one's own that they do (docs/sampling.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.sampling.direct.birch import SubClusters
from aqvolt_flows.sampling.direct.space import Moments, Space

#: Larger sets are refused: Birch in Python takes in some thousand rows a second.
MOST_ROWS = 50_000


def check_size(n_rows: int, what: str = "rows") -> None:
    """Raise if a set is too large for the reference engine.

    Raises
    ------
    InputError
        Above :data:`MOST_ROWS`.
    """
    if n_rows > MOST_ROWS:
        raise InputError(
            f"The engine sklearn is a reference for at most {MOST_ROWS:,} {what}, {n_rows:,} were given; use engine "
            "cpu, which follows the same algorithm in bounded memory."
        )


class SklearnEngine:
    """scikit-learn.

    Raises
    ------
    ResourceError
        If scikit-learn is not installed.
    """

    name = "sklearn"
    threads = 1
    rows_per_query = MOST_ROWS
    most_rows: int | None = MOST_ROWS
    compiled_parts = False

    def __init__(self) -> None:
        try:
            import sklearn  # noqa: F401
        except ImportError:
            raise ResourceError(
                "The engine sklearn needs scikit-learn; pip install scikit-learn, or use engine cpu."
            ) from None

    def space(
        self, blocks: Iterable[NDArray[np.floating]], weight_components: bool, before: Moments | None = None
    ) -> tuple[Space, Moments]:
        """Return the space of StandardScaler and PCA: components whose variance exceeds one, at least the first.

        Rows of ``before`` are not there any more; with them the space is that of the moments.
        """
        from sklearn.decomposition import PCA
        from sklearn.preprocessing import StandardScaler

        held: list[NDArray[np.floating]] = []
        for block in blocks:
            held.append(block)
            check_size(sum(len(b) for b in held))
        given = np.concatenate(held)
        moments = Moments.of(given) if before is None else before + Moments.of(given)
        if before is not None or len(given) < 2 or moments.constant.all():
            return Space.fit(moments, weight_components), moments
        # scikit-learn would scale the rounding of constant columns to unit variance
        rows = np.where(moments.constant, moments.mean, np.asarray(given, np.float64))
        scaler = StandardScaler().fit(rows)
        pca = PCA(svd_solver="full").fit(scaler.transform(rows))
        kept = max(1, int((pca.explained_variance_ > 1).sum()))
        ratios = pca.explained_variance_ratio_[:kept]
        space = Space(
            mean=scaler.mean_,
            scale=scaler.scale_,
            components=pca.components_[:kept].T,
            variances=pca.explained_variance_[:kept],
            ratios=ratios,
            weights=ratios if weight_components else np.ones(kept),
        )
        return space, moments

    def project(self, space: Space, rows: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return rows in a space, computed in double precision."""
        return space.transform(rows).astype(np.float32)

    def tree(self, _dimensions: int, threshold: float, branching: int) -> SklearnTree:
        """Return Birch, not fitted yet."""
        return SklearnTree(threshold, branching)

    def index(self, centers: NDArray[np.float32]) -> SklearnIndex:
        """Return the exact search that ``Birch.predict`` uses."""
        return SklearnIndex(centers)


class SklearnTree:
    """Birch without global clustering; rows are kept until its sub-clusters are asked for.

    Parameters
    ----------
    threshold, branching
        As scikit-learn's.
    """

    def __init__(self, threshold: float, branching: int) -> None:
        self._threshold, self._branching = threshold, branching
        self._held: list[NDArray[np.float64]] = []

    def insert(self, points: NDArray[np.floating]) -> None:
        """Insert rows (n, d) in their order."""
        self._held.append(np.asarray(points, np.float64))
        check_size(sum(len(h) for h in self._held))

    def sub_clusters(self) -> SubClusters:
        """Return the sub-clusters, leaf by leaf."""
        from sklearn.cluster import Birch

        birch = Birch(threshold=self._threshold, branching_factor=self._branching, n_clusters=None)
        birch.fit(np.concatenate(self._held))
        found: list[Any] = []
        leaf = birch.dummy_leaf_.next_leaf_
        while leaf is not None:
            found += leaf.subclusters_
            leaf = leaf.next_leaf_
        return SubClusters(
            np.array([c.centroid_ for c in found], np.float32),
            np.array([c.n_samples_ for c in found], np.int64),
            np.array([c.radius for c in found], np.float64),
        )


class SklearnIndex:
    """Nearest center by comparing all pairs.

    Parameters
    ----------
    centers
        (m, d), at least one.
    """

    def __init__(self, centers: NDArray[np.floating]) -> None:
        self._centers = np.asarray(centers, np.float64)

    def query(self, points: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return for rows (n, d) the index of the nearest center and the distance."""
        from sklearn.metrics import pairwise_distances_argmin_min

        labels, distances = pairwise_distances_argmin_min(np.asarray(points, np.float64), self._centers)
        return labels.astype(np.int64), distances.astype(np.float32)
