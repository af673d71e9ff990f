"""Stochastic cell rescaling, isotropic or full cell, with stochastic velocity rescaling.

Isotropic: Bernetti and Bussi, DOI 10.1063/5.0020514; full cell: Del Tatto et al., DOI 10.3390/app12031139; velocities:
Bussi et al., DOI 10.1063/1.2408420.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from aqvolt_flows.dynamics.batch import DTYPE, Batch
from aqvolt_flows.dynamics.noise import Draws
from aqvolt_flows.dynamics.steps import Forces, halves_step

#: C-rescale: a cell changes by no more than about this in one step, in length (a volume by three times as much). Only
#: cells far from equilibrium come near it; without it their volume could become negative.
_MAX_STRAIN = 0.2


@dataclass
class CRescale:
    """Stochastic cell rescaling, one cell coordinate or all.

    With the full cell the deformation is exp(S), S symmetric and traceless: noise in the antisymmetric part would
    only turn cell and atoms together. torch-sim 0.6.2 multiplies its (column-vector) cell from the wrong side there,
    which changes fractional coordinates; a test here holds them fixed.

    Parameters
    ----------
    dt, thermostat_tau, barostat_tau
        Å·√(u/eV), see :data:`aqvolt_flows.units.FS_PER_MD_TIME`.
    pressure
        eV/Å³.
    compressibility
        Estimate of the isothermal compressibility, Å³/eV; only its ratio to ``barostat_tau`` enters.
    full_cell
        Let lengths and angles change, too.
    """

    dt: float
    thermostat_tau: float
    barostat_tau: float
    pressure: float
    compressibility: float
    full_cell: bool = False

    @property
    def draws(self) -> Draws:
        """Normals: two thermostat, one volume (full cell: two volume, six shape); gamma variates: two thermostat."""
        return Draws(normals=10 if self.full_cell else 3, gammas=2)

    def start(self, batch: Batch) -> Batch:
        """Return the batch as it is: this barostat has no memory."""
        return batch

    def noisy(self, steps: NDArray[np.int64]) -> bool:  # noqa: ARG002 - of every step
        """Always."""
        return True

    def step(self, batch: Batch, forces: Forces, noise: torch.Tensor) -> Batch:
        """Return the batch one timestep later; ``noise`` is (n, draws.total)."""
        return halves_step(self, batch, forces, noise)

    def first(self, batch: Batch, noise: torch.Tensor) -> Batch:
        """See :class:`Halves`."""
        half = self.dt / 2
        n_normals = self.draws.normals
        factor = self._thermostat(batch, batch.systems["kinetic"], noise[:, 0], noise[:, n_normals])
        momenta = batch.atoms["momenta"] * factor[batch.index, None] + half * batch.atoms["forces"]
        scale, inverse = self._rescaling(batch, momenta, noise[:, 2:n_normals])
        drift = momenta * (half / batch.atoms["masses"][:, None])
        stretch, back = scale[batch.index], inverse[batch.index]
        positions = _apply(stretch, batch.atoms["positions"]) + _apply(stretch + back, drift)
        momenta = _apply(back, momenta)
        cell = batch.systems["cell"]  # rows are vectors, and the scaling is symmetric
        cell = cell @ scale if self.full_cell else cell * scale
        return batch.updated({"positions": positions, "momenta": momenta}, {"cell": cell})

    def second(self, moved: Batch, noise: torch.Tensor) -> Batch:
        """See :class:`Halves`."""
        momenta = moved.atoms["momenta"] + self.dt / 2 * moved.atoms["forces"]
        kinetic = moved.kinetic_energy(momenta)
        factor = self._thermostat(moved, kinetic, noise[:, 1], noise[:, self.draws.normals + 1])
        return moved.updated({"momenta": momenta * factor[moved.index, None]}, {"kinetic": kinetic * factor * factor})

    def _thermostat(
        self, batch: Batch, kinetic: torch.Tensor, normal: torch.Tensor, gamma: torch.Tensor
    ) -> torch.Tensor:
        """Return the factor of the momenta over half a timestep (Bussi 2007, eq. A7), (n,)."""
        decay = math.exp(-self.dt / 2 / self.thermostat_tau)
        ratio = (1 - decay) * batch.systems["kt"] / (2 * kinetic)
        return torch.sqrt(decay + ratio * (normal**2 + 2 * gamma) + 2 * normal * torch.sqrt(decay * ratio))

    def _rescaling(self, batch: Batch, momenta: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the symmetric scaling of positions and cell, and its inverse; (n, 3, 3), or (n, 1, 1) for a factor."""
        kt, volume = batch.systems["kt"], batch.volume()
        weighted = momenta / batch.atoms["masses"][:, None]
        each = (momenta[:, :, None] * weighted[:, None, :]).reshape(-1, 9)
        flux = torch.zeros((len(batch), 9), dtype=DTYPE, device=kt.device).index_add(0, batch.index, each)
        internal = flux.reshape(-1, 3, 3) / volume[:, None, None] - batch.systems["stress"]
        mean = torch.diagonal(internal, dim1=-2, dim2=-1).sum(-1) / 3
        beta, tau = self.compressibility, self.barostat_tau
        root = torch.sqrt(volume)
        drift = -beta * root / (2 * tau) * (self.pressure - mean - kt / (2 * volume)) * self.dt
        width = torch.sqrt(kt * beta * self.dt / (2 * tau))
        if not self.full_cell:
            factor = _bounded((root + drift + width * noise[:, 0]) / root) ** (2 / 3)
            return factor[:, None, None], (1 / factor)[:, None, None]
        first = root + drift / 2 + width * noise[:, 0] / 2**0.5
        last = first + drift / 2 + width * noise[:, 1] / 2**0.5
        eye = torch.eye(3, dtype=DTYPE, device=kt.device)
        spread = torch.sqrt(2 * beta * kt * self.dt / (3 * tau)) / first
        shape = beta / (3 * tau) * self.dt * traceless(internal, eye)
        shape = shape + spread[:, None, None] * traceless(symmetric_noise(noise[:, 2:8]), eye)
        factor = (_bounded(last / root) ** (2 / 3))[:, None, None]
        shape = shape.clamp(-_MAX_STRAIN, _MAX_STRAIN)
        return factor * matrix_exponential(shape, eye), matrix_exponential(-shape, eye) / factor


def _bounded(ratio: torch.Tensor) -> torch.Tensor:
    """Return ratios of the square root of the volume, kept within what one step may do."""
    most = (1 + _MAX_STRAIN) ** 1.5
    return ratio.clamp(1 / most, most)


def _apply(matrices: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Return the products of symmetric matrices (n, 3, 3), or factors (n, 1, 1), with vectors (n, 3)."""
    if matrices.shape[-1] == 1:
        return matrices[:, 0] * vectors
    return (matrices * vectors[:, None, :]).sum(-1)


def traceless(matrix: torch.Tensor, eye: torch.Tensor) -> torch.Tensor:
    """Return the symmetric traceless part of matrices (n, 3, 3)."""
    symmetric = (matrix + matrix.transpose(-2, -1)) / 2
    return symmetric - torch.diagonal(symmetric, dim1=-2, dim2=-1).mean(-1)[:, None, None] * eye


def symmetric_noise(normals: torch.Tensor) -> torch.Tensor:
    """Return the symmetric part of 3 × 3 standard normal matrices from six normals: off-diagonal variance 1/2."""
    xx, yy, zz, yz, xz, xy = normals.unbind(1)
    yz, xz, xy = (v / 2**0.5 for v in (yz, xz, xy))
    return torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], dim=1).reshape(-1, 3, 3)


def matrix_exponential(matrix: torch.Tensor, eye: torch.Tensor) -> torch.Tensor:
    """Return exp of matrices (n, 3, 3) by its series, squared four times; exact to rounding for norms below 1.

    ``torch.matrix_exp`` looks at the norm on the host, which makes the GPU wait at every step.
    """
    small = matrix / 16
    result = eye + small / 9
    for order in range(8, 0, -1):
        result = eye + small @ result / order
    for _ in range(4):
        result = result @ result
    return result
