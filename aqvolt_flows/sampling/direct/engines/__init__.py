"""Where the heavy linear algebra and the nearest-center search run.

In the engines ``cpu`` and ``torch`` the CF tree stays on the CPU: it is sequential, and takes in a million rows a
second. They therefore cluster the same rows in the same order and agree to rounding. A search with a beam runs on the
CPU's threads in both: what it does differs from row to row. ``sklearn`` is the reference for small sets: scikit-learn's
StandardScaler, PCA and Birch as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError
from aqvolt_flows.registries import Registry
from aqvolt_flows.sampling.direct.birch import SubClusters
from aqvolt_flows.sampling.direct.nearest import BEAM
from aqvolt_flows.sampling.direct.space import Moments, Space

Search = Literal["beam", "exact"]
EngineName = Literal["cpu", "torch", "sklearn"]


class Index(Protocol):
    """A nearest-center search."""

    def query(self, points: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return for rows (n, d) the index of the nearest center and the distance; near, with a beam."""
        ...


class Tree(Protocol):
    """A CF tree."""

    def insert(self, points: NDArray[np.float32]) -> None:
        """Insert rows (n, d) in their order."""
        ...

    def sub_clusters(self) -> SubClusters:
        """Return the sub-clusters of all rows inserted."""
        ...


class Engine(Protocol):
    """What an engine computes.

    Attributes
    ----------
    name, threads
        Name in :data:`ENGINES`, and how many CPU threads it uses.
    rows_per_query
        Rows that a search likes at a time.
    most_rows
        More rows are refused; None: any number.
    compiled_parts
        Whether atoms within structural clusters, and very many rows, go through compiled CF trees of this package
        instead of :meth:`tree`.
    """

    name: str
    threads: int
    rows_per_query: int
    most_rows: int | None
    compiled_parts: bool

    def space(
        self, blocks: Iterable[NDArray[np.floating]], weight_components: bool, before: Moments | None = None
    ) -> tuple[Space, Moments]:
        """Return the space of all rows, those of ``before`` included, and their moments; in double precision."""
        ...

    def project(self, space: Space, rows: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return rows (n, d) in a space, (n, n_components)."""
        ...

    def tree(self, dimensions: int, threshold: float, branching: int) -> Tree:
        """Return an empty CF tree."""
        ...

    def index(self, centers: NDArray[np.float32]) -> Index:
        """Return the nearest-center search over centers (m, d)."""
        ...


@dataclass(frozen=True)
class EngineEntry:
    """One engine.

    Attributes
    ----------
    name
        What ``SamplingParameters.engine`` and ``direct_select`` call it.
    load
        Makes it of the torch device, the CPU threads (None: all cores), and the boxes that a beam follows per level
        (None: the search is exact).
    """

    name: str
    load: Callable[[str, int | None, int | None], Engine]


def _cpu(_device: str, threads: int | None, beam: int | None) -> Engine:
    from aqvolt_flows.sampling.direct.engines.cpu import CpuEngine

    return CpuEngine(threads, beam)


def _torch(device: str, threads: int | None, beam: int | None) -> Engine:
    from aqvolt_flows.sampling.direct.engines.torch import TorchEngine

    return TorchEngine(device, threads, beam)


def _sklearn(_device: str, _threads: int | None, _beam: int | None) -> Engine:
    from aqvolt_flows.sampling.direct.engines.reference import SklearnEngine

    return SklearnEngine()


#: Closed: results of all engines are compared in the tests.
ENGINES: Registry[EngineEntry] = Registry(
    "sampling engine",
    EngineEntry,
    [EngineEntry("cpu", _cpu), EngineEntry("torch", _torch), EngineEntry("sklearn", _sklearn)],
)


def load_engine(
    name: str = "cpu", device: str = "cuda", threads: int | None = None, search: Search = "beam", beam: int = BEAM
) -> Engine:
    """Return an engine.

    Parameters
    ----------
    name
        ``cpu`` (numpy, numba), ``torch``, or ``sklearn`` (the reference, for small sets).
    device
        Torch device of the ``torch`` engine.
    threads
        Threads on the CPU; default all cores of this process.
    search
        ``beam``: near centers in bounded time per row. ``exact``: the nearest, in time that grows faster. A few
        thousand centers are searched exactly in any case, and ``sklearn`` always does.
    beam
        Boxes that the beam follows per level.

    Raises
    ------
    InputError
        If there is no such engine or search, or the beam is empty.
    ResourceError
        If torch or its device is not there.
    """
    if search not in ("beam", "exact"):
        raise InputError(f"search is {search!r}; expected beam or exact.")
    if beam < 1:
        raise InputError(f"beam is {beam}; expected at least one box per level.")
    return ENGINES[name].load(device, threads, beam if search == "beam" else None)
