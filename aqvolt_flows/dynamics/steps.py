"""What an integrator is: a step of a batch, cut at its evaluation of the forces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from aqvolt_flows.dynamics.batch import Batch
from aqvolt_flows.dynamics.noise import Draws

#: Energies (n,), forces (n_atoms, 3) and stresses (n, 3, 3) of positions and cells (rows are vectors).
Forces = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


class Integrator(Protocol):
    """One step of NpT dynamics for every system of a batch."""

    @property
    def draws(self) -> Draws:
        """Random numbers that a step needs."""
        ...

    def noisy(self, steps: NDArray[np.int64]) -> bool:
        """Return whether a step of systems that have made this many needs random numbers."""
        ...

    def start(self, batch: Batch) -> Batch:
        """Return the batch with the tensors that this integrator adds, thermostats at rest."""
        ...

    def step(self, batch: Batch, forces: Forces, noise: torch.Tensor) -> Batch:
        """Return the batch one timestep later; nothing that was given is changed."""
        ...


class Halves(Protocol):
    """A step cut at its evaluation of the forces, so that two integrators can share one evaluation."""

    def first(self, batch: Batch, noise: torch.Tensor) -> Batch:
        """Return the batch with new positions and cell; momenta are between two steps."""
        ...

    def second(self, moved: Batch, noise: torch.Tensor) -> Batch:
        """Return the batch at the end of the step; ``moved`` has the forces of its positions."""
        ...


def halves_step(halves: Halves, batch: Batch, forces: Forces, noise: torch.Tensor) -> Batch:
    """Return the batch one timestep later."""
    return halves.second(with_forces(halves.first(batch, noise), forces), noise)


def with_forces(moved: Batch, forces: Forces) -> Batch:
    """Return the batch with the forces, energies and stresses of its positions and cells."""
    energy, force, stress = forces(moved.atoms["positions"], moved.systems["cell"])
    return moved.updated({"forces": force}, {"energy": energy, "stress": stress})
