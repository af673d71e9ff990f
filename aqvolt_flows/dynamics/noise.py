"""Random numbers that are a function of a trajectory's seed and its step, and of nothing else.

One generator for a batch would make a trajectory depend on its batch-mates. Here every system has its own
stream: Philox, a counter-based generator (Salmon et al., SC11, DOI 10.1145/2063384.2063405), keyed by
(seed, block of steps). The state of that stream is the step counter, so a checkpoint that holds the step holds the
random state, and numbers are the same on every device because they are drawn on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

#: Steps drawn at a time.
BLOCK_STEPS = 128
#: Purpose of a stream, part of the key; momenta and noise of one seed are independent.
_NOISE_STREAM = 1


@dataclass(frozen=True)
class Draws:
    """What an integrator needs each step and system: standard normals, and standard gamma variates."""

    normals: int = 0
    gammas: int = 0

    @property
    def total(self) -> int:
        """Numbers a step and system."""
        return self.normals + self.gammas


def block_of(seed: int, block: int, draws: Draws, gamma_shape: float) -> NDArray[np.float64]:
    """Return the numbers of one block, (BLOCK_STEPS, draws.total): normals first, then gamma variates.

    Parameters
    ----------
    seed
        Of the trajectory; 64 bits are used.
    block
        Step // BLOCK_STEPS.
    draws
        How many of which kind.
    gamma_shape
        Shape of the gamma variates (scale 1).
    """
    key = np.array([seed & 0xFFFFFFFFFFFFFFFF, (block << 8) | _NOISE_STREAM], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key))
    normals = generator.standard_normal((BLOCK_STEPS, draws.normals))
    gammas = generator.standard_gamma(gamma_shape, (BLOCK_STEPS, draws.gammas))
    return np.concatenate([normals, gammas], axis=1)


class TrajectoryNoise:
    """The numbers of every running system at its own step.

    Parameters
    ----------
    draws
        What a step needs.
    device
        Where they are used.
    """

    def __init__(self, draws: Draws, device: torch.device) -> None:
        self.draws, self._device = draws, device
        self._seeds: list[int] = []
        self._shapes: list[float] = []
        self._blocks: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._table = torch.empty((0, BLOCK_STEPS, draws.total), dtype=torch.float64, device=device)

    def prepare(self, seeds: Sequence[int], gamma_shapes: Sequence[float]) -> None:
        """Take note of a new composition of the batch."""
        self._seeds, self._shapes = list(seeds), list(gamma_shapes)
        self._blocks = np.full(len(seeds), -1, dtype=np.int64)
        shape = (len(seeds), BLOCK_STEPS, self.draws.total)
        self._table = torch.zeros(shape, dtype=torch.float64, device=self._device)

    def at(self, steps: NDArray[np.int64], on_device: torch.Tensor, needed: bool = True) -> torch.Tensor:
        """Return the numbers (n_systems, draws.total) of each system's step, counted from 0.

        Parameters
        ----------
        steps, on_device
            The steps, on the host and where the numbers are used: asking either for the other makes it wait.
        needed
            Whether any of them is used; without, none is drawn.
        """
        if not self.draws.total or not needed:
            return self._table[:, 0]
        wanted = steps // BLOCK_STEPS
        for i in np.flatnonzero(wanted != self._blocks):
            block = block_of(self._seeds[i], int(wanted[i]), self.draws, self._shapes[i])
            self._table[int(i)] = torch.from_numpy(block).to(self._device)
        self._blocks = wanted
        return self._table[torch.arange(len(steps), device=self._device), on_device % BLOCK_STEPS]
