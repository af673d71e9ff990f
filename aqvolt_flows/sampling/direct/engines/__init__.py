"""Where the heavy linear algebra and the nearest-centre search run.

The CF tree itself stays on the CPU in every engine: it is sequential, and takes in a million rows a second. Engines
therefore cluster the same rows in the same order and agree to rounding. A search with a beam runs on the CPU's
threads in every engine as well: what it does differs from row to row.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError
from aqvolt_flows.sampling.direct.nearest import BEAM
from aqvolt_flows.sampling.direct.space import Moments, Space

Search = Literal["beam", "exact"]


class Index(Protocol):
    """A nearest-centre search."""

    def query(self, points: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return for rows (n, d) the index of the nearest centre and the distance; near, with a beam."""
        ...


class Engine(Protocol):
    """What an engine computes."""

    name: str
    threads: int
    rows_per_query: int

    def moments(self, blocks: Iterable[NDArray[np.floating]]) -> Moments:
        """Return count, mean and scatter of all rows in one pass, in double precision."""
        ...

    def project(self, space: Space, rows: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return rows (n, d) in a space, (n, n_components)."""
        ...

    def index(self, centres: NDArray[np.float32]) -> Index:
        """Return the nearest-centre search over centres (m, d)."""
        ...


def load_engine(
    name: str = "cpu", device: str = "cuda", threads: int | None = None, search: Search = "beam", beam: int = BEAM
) -> Engine:
    """Return an engine.

    Parameters
    ----------
    name
        ``cpu`` (numpy, numba) or ``torch``.
    device
        Torch device of the ``torch`` engine.
    threads
        Threads on the CPU; default all cores of this process.
    search
        ``beam``: near centres in bounded time per row. ``exact``: the nearest, in time that grows faster. A few
        thousand centres are searched exactly in any case.
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
    width = beam if search == "beam" else None
    if name == "cpu":
        from aqvolt_flows.sampling.direct.engines.cpu import CpuEngine

        return CpuEngine(threads, width)
    if name == "torch":
        from aqvolt_flows.sampling.direct.engines.torch import TorchEngine

        return TorchEngine(device, threads, width)
    raise InputError(f"There is no sampling engine {name!r}; expected cpu or torch.")
