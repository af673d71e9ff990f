"""NpT integrators for a batch of systems, each a pure function from one state to the next.

What is integrated is what torch-sim 0.6 integrates, and the tests hold both side by side; what differs is how. Its
Nosé–Hoover step visits systems one by one, its generator is one for the batch, and a new system cannot enter. Here
every system has its row in every tensor, thermostat and barostat chains advance together, and all noise is given.

The integrators are in :mod:`~aqvolt_flows.dynamics.nose_hoover` and :mod:`~aqvolt_flows.dynamics.rescaling`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from aqvolt_flows.dynamics.batch import Batch
from aqvolt_flows.dynamics.noise import Draws
from aqvolt_flows.dynamics.nose_hoover import NoseHooverIsotropic
from aqvolt_flows.dynamics.rescaling import CRescale
from aqvolt_flows.dynamics.steps import Forces, Integrator, halves_step, with_forces
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.parameters import ExplorationParameters
from aqvolt_flows.units import FS_PER_MD_TIME, gpa_to_ev_per_a3

#: The thermostat of the equilibration acts so many times as fast: half of the kinetic energy of a start on a perfect
#: lattice becomes potential energy, and as much must come in again.
STRONGER_THERMOSTAT = 10.0


def integrator_for(parameters: ExplorationParameters) -> Integrator:
    """Return the integrator that the parameters name.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    p = parameters
    dt, tau = p.timestep_fs / FS_PER_MD_TIME, p.thermostat_tau_fs / FS_PER_MD_TIME
    tau_p, pressure = p.barostat_tau_fs / FS_PER_MD_TIME, gpa_to_ev_per_a3(p.pressure_gpa)
    compressibility = p.compressibility_per_gpa / gpa_to_ev_per_a3(1.0)
    rescaling = CRescale(dt, tau, tau_p, pressure, compressibility, full_cell=p.ensemble == "npt_crescale_full")
    production: NoseHooverIsotropic | CRescale
    if p.ensemble == "npt_nose_hoover_isotropic":
        production = NoseHooverIsotropic(dt, tau, tau_p, pressure)
    elif p.ensemble in {"npt_crescale_isotropic", "npt_crescale_full"}:
        production = rescaling
    else:
        raise InputError(f"There is no integrator {p.ensemble!r}; see the ensembles of ExplorationParameters.")
    if not p.equilibration_steps:
        return production
    first = replace(rescaling, thermostat_tau=tau / STRONGER_THERMOSTAT)
    return Thermalized(first, production, p.equilibration_steps)


@dataclass
class Thermalized:
    """A run that starts with one integrator and continues with another, every system at its own step.

    Velocities drawn at the target temperature on a perfect lattice are a shock: half of their energy becomes potential
    energy, and the volume begins to ring. A stochastic thermostat and a first-order barostat damp that; Nosé–Hoover
    chains, which are deterministic and undamped, pass it back and forth.

    Parameters
    ----------
    first_integrator
        Of the equilibration; it adds no tensors.
    production
        Starts, with its thermostats at rest, from what the first has reached.
    steps
        Steps of the equilibration.
    """

    first_integrator: CRescale
    production: NoseHooverIsotropic | CRescale
    steps: int

    @property
    def draws(self) -> Draws:
        """Those of the equilibration."""
        return self.first_integrator.draws

    def noisy(self, steps: NDArray[np.int64]) -> bool:
        """Return whether a system is still in its equilibration, or the production is stochastic, too."""
        return bool((steps < self.steps).any()) or self.production.noisy(steps)

    def start(self, batch: Batch) -> Batch:
        """Return the batch with the tensors of the production."""
        return self.production.start(batch)

    def step(self, batch: Batch, forces: Forces, noise: torch.Tensor) -> Batch:
        """Return the batch one timestep later."""
        if (batch.steps == self.steps).any():
            batch = _merged(batch.steps == self.steps, self.production.start(batch), batch)
        early = batch.steps < self.steps
        if early.all():
            return halves_step(self.first_integrator, batch, forces, noise)
        if not early.any():
            return halves_step(self.production, batch, forces, noise)
        moved = _merged(early, self.first_integrator.first(batch, noise), self.production.first(batch, noise))
        moved = with_forces(moved, forces)
        return _merged(early, self.first_integrator.second(moved, noise), self.production.second(moved, noise))


def _merged(chosen: NDArray[np.bool_], a: Batch, b: Batch) -> Batch:
    """Return the chosen systems from one batch and the others from another of the same systems and tensors."""
    systems = torch.as_tensor(chosen, device=b.device)
    atoms = systems[b.index]

    def pick(mask: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return y if x is y else torch.where(mask.view(-1, *[1] * (x.ndim - 1)), x, y)

    return b.updated(
        {name: pick(atoms, a.atoms[name], value) for name, value in b.atoms.items()},
        {name: pick(systems, a.systems[name], value) for name, value in b.systems.items()},
    )
