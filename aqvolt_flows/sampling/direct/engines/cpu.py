"""The engine of a CPU: BLAS for moments and rotation, compiled loops for the search, all cores."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError
from aqvolt_flows.sampling.direct.birch import CFTree
from aqvolt_flows.sampling.direct.nearest import NearestIndex, n_threads
from aqvolt_flows.sampling.direct.space import Moments, Space


class CpuEngine:
    """Numpy and numba.

    Parameters
    ----------
    threads
        Default: all cores of this process. Results do not depend on it.
    beam
        Boxes that the search follows per level; none: it is exact.
    """

    name = "cpu"
    most_rows: int | None = None
    compiled_parts = True
    #: Enough that rows sorted by their place in the tree find its leaves in the cache.
    rows_per_query = 2**18

    def __init__(self, threads: int | None = None, beam: int | None = None) -> None:
        self.threads, self.beam = threads or n_threads(), beam

    def moments(self, blocks: Iterable[NDArray[np.floating]]) -> Moments:
        """Return the moments of all rows; blocks are added in their order, whichever is done first."""
        total: Moments | None = None
        source = iter(blocks)
        with ThreadPoolExecutor(self.threads) as pool:
            running: deque[Future[Moments]] = deque(pool.submit(Moments.of, b) for b in islice(source, self.threads))
            while running:
                part = running.popleft().result()
                running.extend(pool.submit(Moments.of, b) for b in islice(source, 1))
                total = part if total is None else total + part
        if total is None:
            raise InputError("There are no rows; there is nothing to select from.")
        return total

    def space(
        self, blocks: Iterable[NDArray[np.floating]], weight_components: bool, before: Moments | None = None
    ) -> tuple[Space, Moments]:
        """Return the space of all rows, those of ``before`` included, and their moments."""
        moments = self.moments(blocks)
        moments = moments if before is None else before + moments
        return Space.fit(moments, weight_components), moments

    def tree(self, dimensions: int, threshold: float, branching: int) -> CFTree:
        """Return an empty CF tree."""
        return CFTree(dimensions, threshold, branching)

    def project(self, space: Space, rows: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return rows in a space."""
        return space.project(rows)

    def index(self, centers: NDArray[np.float32]) -> NearestIndex:
        """Return the box tree over centers."""
        return NearestIndex(centers, self.threads, self.beam)
