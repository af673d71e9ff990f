"""NpT integrators for a batch of systems, each a pure function from one state to the next.

What is integrated is what torch-sim 0.6 integrates, and the tests hold both side by side; what differs is how. Its
Nosé–Hoover step visits systems one by one, its generator is one for the batch, and a new system cannot enter. Here
every system has its row in every tensor, thermostat and barostat chains advance together, and all noise is given.

- Nosé–Hoover: Martyna–Tobias–Klein chains, isotropic cell (Martyna et al., DOI 10.1080/00268979600100761; propagator
  of Tuckerman et al., J. Phys. A 39, 5629 (2006), DOI 10.1088/0305-4470/39/19/S18).
- C-rescale: stochastic cell rescaling, isotropic (Bernetti & Bussi, DOI 10.1063/5.0020514) and full cell (Del Tatto
  et al., DOI 10.3390/app12031139), with stochastic velocity rescaling (Bussi et al., DOI 10.1063/1.2408420).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from aqvolt_flows.dynamics.batch import DTYPE, Batch, volume_of
from aqvolt_flows.dynamics.noise import Draws
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.parameters import ExplorationParameters
from aqvolt_flows.units import FS_PER_MD_TIME, gpa_to_ev_per_a3

#: Energies (n,), forces (n_atoms, 3) and stresses (n, 3, 3) of positions and cells (rows are vectors).
Forces = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
#: Links of a Nosé–Hoover chain, torch-sim's default.
CHAIN_LENGTH = 3


class Integrator(Protocol):
    """One step of NpT dynamics for every system of a batch."""

    @property
    def draws(self) -> Draws:
        """Random numbers that a step needs."""
        ...

    def start(self, batch: Batch) -> Batch:
        """Return the batch with the tensors that this integrator adds, thermostats at rest."""
        ...

    def step(self, batch: Batch, forces: Forces, noise: torch.Tensor) -> Batch:
        """Return the batch one timestep later; nothing that was given is changed."""
        ...


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
    if p.ensemble == "npt_nose_hoover_isotropic":
        return NoseHooverIsotropic(dt, tau, tau_p, pressure)
    compressibility = p.compressibility_per_gpa / gpa_to_ev_per_a3(1.0)
    if p.ensemble in {"npt_crescale_isotropic", "npt_crescale_full"}:
        return CRescale(dt, tau, tau_p, pressure, compressibility, full_cell=p.ensemble == "npt_crescale_full")
    raise InputError(f"There is no integrator {p.ensemble!r}; see the ensembles of ExplorationParameters.")


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

    def step(self, batch: Batch, forces: Forces, noise: torch.Tensor) -> Batch:  # noqa: ARG002 - deterministic
        """Return the batch one timestep later."""
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
        cell = torch.exp(cell_position)[:, None, None] * s["reference_cell"]
        energy, force, stress = forces(positions, cell)
        momenta = momenta * drag + kick * force
        kinetic = batch.kinetic_energy(momenta)
        p_cell = p_cell + half * self._cell_force(alpha, kinetic, stress, volume_of(cell))
        xi, p_xi, scale = self._half_chains(batch, chain_mass, cell_mass, kinetic, p_cell, xi, p_xi)
        return batch.updated(
            {"positions": positions, "momenta": momenta * scale[index, 0, None], "forces": force},
            {
                "cell": cell,
                "energy": energy,
                "stress": stress,
                "kinetic": kinetic * scale[:, 0] ** 2,
                "cell_position": cell_position,
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

    def step(self, batch: Batch, forces: Forces, noise: torch.Tensor) -> Batch:
        """Return the batch one timestep later; ``noise`` is (n, draws.total)."""
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
        energy, force, stress = forces(positions, cell)
        momenta = momenta + half * force
        kinetic = batch.kinetic_energy(momenta)
        factor = self._thermostat(batch, kinetic, noise[:, 1], noise[:, n_normals + 1])
        return batch.updated(
            {"positions": positions, "momenta": momenta * factor[batch.index, None], "forces": force},
            {"cell": cell, "energy": energy, "stress": stress, "kinetic": kinetic * factor * factor},
        )

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
            factor = ((root + drift + width * noise[:, 0]) / root) ** (2 / 3)
            return factor[:, None, None], (1 / factor)[:, None, None]
        first = root + drift / 2 + width * noise[:, 0] / 2**0.5
        last = first + drift / 2 + width * noise[:, 1] / 2**0.5
        eye = torch.eye(3, dtype=DTYPE, device=kt.device)
        spread = torch.sqrt(2 * beta * kt * self.dt / (3 * tau)) / first
        shape = beta / (3 * tau) * self.dt * traceless(internal, eye)
        shape = shape + spread[:, None, None] * traceless(symmetric_noise(noise[:, 2:8]), eye)
        factor = ((last / root) ** (2 / 3))[:, None, None]
        return factor * matrix_exponential(shape, eye), matrix_exponential(-shape, eye) / factor


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
