"""Nosé–Hoover NpT: Martyna–Tobias–Klein chains, isotropic cell.

Martyna et al., DOI 10.1080/00268979600100761; propagator of Tuckerman et al., J. Phys. A 39, 5629 (2006),
DOI 10.1088/0305-4470/39/19/S18.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from aqvolt_flows.dynamics.batch import DTYPE, Batch, volume_of
from aqvolt_flows.dynamics.noise import Draws
from aqvolt_flows.dynamics.steps import Forces, halves_step

#: Links of a Nosé–Hoover chain, torch-sim's default.
CHAIN_LENGTH = 3


def sinhx_x(x: torch.Tensor) -> torch.Tensor:
    """Return sinh(x)/x by its series up to x¹⁰; exact to rounding for |x| < 0.5."""
    y = x * x
    return 1 + y * (1 / 6 + y * (1 / 120 + y * (1 / 5040 + y * (1 / 362_880 + y / 39_916_800))))


@dataclass
class NoseHooverIsotropic:
    """Martyna–Tobias–Klein NpT with one cell coordinate ε = ln(V/V₀)/3.

    Parameters
    ----------
    dt, thermostat_tau, barostat_tau
        Å·√(u/eV), see :data:`aqvolt_flows.units.FS_PER_MD_TIME`.
    pressure
        eV/Å³.
    weights
        Parts of the timestep in which the chains advance. One part is second order in the timestep like the rest of
        the step and what most codes do; torch-sim's default is six, two times its Suzuki–Yoshida weights.
    """

    dt: float
    thermostat_tau: float
    barostat_tau: float
    pressure: float
    weights: tuple[float, ...] = (1.0,)

    @property
    def draws(self) -> Draws:
        """None: the dynamics is deterministic."""
        return Draws()

    def start(self, batch: Batch) -> Batch:
        """Return the batch with reference cell, cell coordinate and momentum, and both chains, at rest."""
        n, device = len(batch), batch.device
        zeros = torch.zeros(n, dtype=DTYPE, device=device)
        chains = torch.zeros((n, 2, CHAIN_LENGTH), dtype=DTYPE, device=device)
        return batch.updated(
            {},
            {
                "reference_cell": batch.systems["cell"].clone(),
                "cell_position": zeros,
                "cell_momentum": zeros.clone(),
                "chain_positions": chains,
                "chain_momenta": chains.clone(),
            },
        )

    def masses(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the chains' masses (n, 2, CHAIN_LENGTH), thermostat then barostat, and the cell's (n,)."""
        kt = batch.systems["kt"]
        chain = torch.stack([kt * self.thermostat_tau**2, kt * self.barostat_tau**2], dim=1)
        chain = chain[:, :, None].repeat(1, 1, CHAIN_LENGTH)
        chain[:, 0, 0] *= batch.dof
        return chain, (batch.dof + 6) * kt * self.barostat_tau**2

    def noisy(self, steps: NDArray[np.int64]) -> bool:  # noqa: ARG002 - deterministic
        """Never."""
        return False

    def step(self, batch: Batch, forces: Forces, noise: torch.Tensor) -> Batch:
        """Return the batch one timestep later."""
        return halves_step(self, batch, forces, noise)

    def first(self, batch: Batch, noise: torch.Tensor) -> Batch:  # noqa: ARG002 - deterministic
        """See :class:`Halves`."""
        s, index, half = batch.systems, batch.index, self.dt / 2
        chain_mass, cell_mass = self.masses(batch)
        alpha = 1 + 3 / batch.dof
        kinetic, p_cell = s["kinetic"], s["cell_momentum"]
        xi, p_xi, scale = self._half_chains(batch, chain_mass, cell_mass, kinetic, p_cell, None, None)
        momenta = batch.atoms["momenta"] * scale[index, 0, None]
        p_cell = p_cell * scale[:, 1]
        volume = volume_of(s["cell"])
        p_cell = p_cell + half * self._cell_force(alpha, kinetic * scale[:, 0] ** 2, s["stress"], volume)
        velocity = p_cell / cell_mass
        x = alpha * velocity * half
        y = velocity * self.dt
        per_system = torch.stack(
            [
                torch.exp(-x),
                half * sinhx_x(x / 2) * torch.exp(-x / 2),
                torch.exp(y),
                self.dt * sinhx_x(y / 2) * torch.exp(y / 2),
            ],
            dim=1,
        )[index]
        drag, kick, stretch, drift = (c[:, None] for c in per_system.unbind(1))
        momenta = momenta * drag + kick * batch.atoms["forces"]
        positions = batch.atoms["positions"] * stretch + drift * momenta / batch.atoms["masses"][:, None]
        cell_position = s["cell_position"] + velocity * self.dt
        return batch.updated(
            {"positions": positions, "momenta": momenta},
            {
                "cell": torch.exp(cell_position)[:, None, None] * s["reference_cell"],
                "cell_position": cell_position,
                "cell_momentum": p_cell,
                "chain_positions": xi,
                "chain_momenta": p_xi,
            },
        )

    def second(self, moved: Batch, noise: torch.Tensor) -> Batch:  # noqa: ARG002 - deterministic
        """See :class:`Halves`."""
        s, index, half = moved.systems, moved.index, self.dt / 2
        chain_mass, cell_mass = self.masses(moved)
        alpha = 1 + 3 / moved.dof
        x = alpha * (s["cell_momentum"] / cell_mass) * half
        drag, kick = torch.exp(-x)[index, None], (half * sinhx_x(x / 2) * torch.exp(-x / 2))[index, None]
        momenta = moved.atoms["momenta"] * drag + kick * moved.atoms["forces"]
        kinetic = moved.kinetic_energy(momenta)
        p_cell = s["cell_momentum"] + half * self._cell_force(alpha, kinetic, s["stress"], volume_of(s["cell"]))
        xi, p_xi, scale = self._half_chains(
            moved, chain_mass, cell_mass, kinetic, p_cell, s["chain_positions"], s["chain_momenta"]
        )
        return moved.updated(
            {"momenta": momenta * scale[index, 0, None]},
            {
                "kinetic": kinetic * scale[:, 0] ** 2,
                "cell_momentum": p_cell * scale[:, 1],
                "chain_positions": xi,
                "chain_momenta": p_xi,
            },
        )

    def _cell_force(
        self, alpha: torch.Tensor, kinetic: torch.Tensor, stress: torch.Tensor, volume: torch.Tensor
    ) -> torch.Tensor:
        """Return G_ε = 2αK − V tr σ − 3PV (Tuckerman 2006, eq. 6), eV, (n,)."""
        trace = torch.diagonal(stress, dim1=-2, dim2=-1).sum(-1)
        return 2 * alpha * kinetic - (trace + 3 * self.pressure) * volume

    def _half_chains(
        self,
        batch: Batch,
        masses: torch.Tensor,
        cell_mass: torch.Tensor,
        kinetic: torch.Tensor,
        p_cell: torch.Tensor,
        xi: torch.Tensor | None,
        p_xi: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Advance both chains by half a timestep; return them and the factors (n, 2) of atoms' and cell's momenta."""
        s = batch.systems
        x = s["chain_positions"] if xi is None else xi
        p = list((s["chain_momenta"] if p_xi is None else p_xi).unbind(-1))
        q = masses.unbind(-1)
        kt = s["kt"][:, None]
        twice = torch.stack([2 * kinetic, p_cell * p_cell / cell_mass], dim=1)
        wanted = torch.stack([batch.dof, torch.ones_like(batch.dof)], dim=1) * kt
        total = torch.ones_like(twice)
        last = CHAIN_LENGTH - 1
        for weight in self.weights:
            half, quarter, eighth = (self.dt * weight / d for d in (2, 4, 8))
            p[last] = p[last] + quarter * (p[last - 1] ** 2 / q[last - 1] - kt)
            for m in range(last - 1, 0, -1):
                f = torch.exp(-eighth * p[m + 1] / q[m + 1])
                p[m] = f * (f * p[m] + quarter * (p[m - 1] ** 2 / q[m - 1] - kt))
            f = torch.exp(-eighth * p[1] / q[1])
            p[0] = f * (f * p[0] + quarter * (twice - wanted))
            scale = torch.exp(-half * p[0] / q[0])
            total, twice = total * scale, twice * scale * scale
            x = x + half * torch.stack(p, dim=-1) / masses
            drive = twice - wanted
            for m in range(last):
                f = torch.exp(-eighth * p[m + 1] / q[m + 1])
                p[m] = f * (f * p[m] + quarter * drive)
                drive = p[m] ** 2 / q[m] - kt
            p[last] = p[last] + quarter * drive
        return x, torch.stack(p, dim=-1), total

    def conserved(self, batch: Batch) -> torch.Tensor:
        """Return the conserved energy of the extended system, eV, (n,): its drift measures the timestep's error."""
        s = batch.systems
        chain_mass, cell_mass = self.masses(batch)
        dof = torch.ones_like(chain_mass)
        dof[:, 0, 0] = batch.dof
        chains = (s["chain_momenta"] ** 2 / (2 * chain_mass) + dof * s["kt"][:, None, None] * s["chain_positions"]).sum(
            (1, 2)
        )
        cell = s["cell_momentum"] ** 2 / (2 * cell_mass) + self.pressure * batch.volume()
        return s["energy"] + s["kinetic"] + chains + cell
