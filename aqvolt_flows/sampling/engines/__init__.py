"""Where the heavy linear algebra and the nearest-centre search run.

The CF tree itself stays on the CPU in every engine: it is sequential, and takes in a million rows a second. Engines
therefore cluster the same rows in the same order and agree to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError
from aqvolt_flows.sampling.space import Moments, Space


class Index(Protocol):
    """An exact nearest-centre search."""

    def query(self, points: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return for rows (n, d) the index of the nearest centre and the distance."""
        ...


class Engine(Protocol):
    """What an engine computes."""

    name: str
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


def load_engine(name: str = "cpu", device: str = "cuda", threads: int | None = None) -> Engine:
    """Return an engine.

    Parameters
    ----------
    name
        ``cpu`` (numpy, numba) or ``torch``.
    device
        Torch device of the ``torch`` engine.
    threads
        Threads of the ``cpu`` engine; default all cores of this process.

    Raises
    ------
    InputError
        If there is no such engine.
    ResourceError
        If torch or its device is not there.
    """
    if name == "cpu":
        from aqvolt_flows.sampling.engines.cpu import CpuEngine

        return CpuEngine(threads)
    if name == "torch":
        from aqvolt_flows.sampling.engines.torch import TorchEngine

        return TorchEngine(device)
    raise InputError(f"There is no sampling engine {name!r}; expected cpu or torch.")
