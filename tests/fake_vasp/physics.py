"""A cheap potential for the stand-in VASP: Morse pairs, smoothly cut, with analytic forces and stress.

E = −Σ EATOM_i + Σ_pairs s(r) D [(1 − e^{−a (r − r0)})² − 1], r0 = RWIGS_i + RWIGS_j of the POTCARs, D = 0.7 eV for
unlike and 0.1 eV for like species. s(r) falls from 1 to 0 with continuous first and second derivative
between 4.5 and 6 Å. It knows nothing of chemistry beyond that; it is consistent (F = −dE/dx, σ = dE/dε / V)
and that is what the tests need.
"""

from __future__ import annotations

import numpy as np

CUTOFF_A = 6.0
INNER_A = 4.5
STEEPNESS = 2.0
EV_PER_A3_IN_KBAR = 1602.1766208
#: With the charge of the electron that VASP has; its P·V is made with it.
VASP_KBAR = 1602.17733
KB = 8.617333262e-5
#: (amu Å²/fs²) in eV.
AMU_A2_FS2_IN_EV = 103.6426965


def _pair(r, depth, r0):
    e = np.exp(-STEEPNESS * (r - r0))
    energy = depth * ((1 - e) ** 2 - 1)
    slope = 2 * depth * (1 - e) * STEEPNESS * e
    x = np.clip((r - INNER_A) / (CUTOFF_A - INNER_A), 0, 1)
    s = 1 - x**3 * (10 - 15 * x + 6 * x**2)
    ds = -(30 * x**2 * (1 - x) ** 2) / (CUTOFF_A - INNER_A)
    return energy * s, slope * s + energy * ds


def evaluate(cell, fractional, species, radii, atom_energies):
    """Return energy (eV), forces (eV/Å) and stress (3 × 3, eV/Å³, tension positive)."""
    cell, fractional = np.asarray(cell, float), np.asarray(fractional, float)
    radii, species = np.asarray(radii, float), np.asarray(species)
    positions = fractional @ cell
    heights = abs(np.linalg.det(cell)) / np.linalg.norm(np.cross(cell[[1, 2, 0]], cell[[2, 0, 1]]), axis=1)
    spread = fractional.max(axis=0) - fractional.min(axis=0)
    reach = np.ceil(CUTOFF_A / heights + spread).astype(int)
    grids = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), -1).reshape(-1, 3)
    energy = -float(np.sum(atom_energies))
    forces, virial = np.zeros_like(positions), np.zeros((3, 3))
    for shift in grids @ cell:
        vectors = positions[None, :, :] + shift - positions[:, None, :]
        distance = np.linalg.norm(vectors, axis=-1)
        i, j = np.nonzero((distance < CUTOFF_A) & (distance > 1e-8))
        if not len(i):
            continue
        r = distance[i, j]
        depth = np.where(species[i] == species[j], 0.1, 0.7)
        e, slope = _pair(r, depth, radii[i] + radii[j])
        energy += 0.5 * e.sum()
        pull = (slope / r)[:, None] * vectors[i, j]
        np.add.at(forces, i, pull)
        virial += 0.5 * np.einsum("ka,kb->ab", pull, vectors[i, j])
    return energy, forces, virial / abs(np.linalg.det(cell))


class NpT:
    """Langevin dynamics of the atoms (BAOAB), and a cell that gives way to the pressure.

    The cell follows ε̇ = (σ + P) / (3 τ B) with B = 30 GPa and τ = 200 fs, at most 10⁻³ a step: enough to walk
    through strained cells, no exact ensemble.
    """

    def __init__(
        self,
        cell,
        fractional,
        species,
        masses,
        radii,
        atom_energies,
        *,
        temperature,
        timestep,
        friction,
        seed,
        calls=0,
        velocities=None,
    ):
        self.cell, self.fractional = np.array(cell, float), np.array(fractional, float)
        self.species, self.radii, self.atom_energies = species, radii, atom_energies
        self.masses = np.asarray(masses, float)[:, None] * AMU_A2_FS2_IN_EV
        self.kt, self.dt, self.friction = KB * temperature, timestep, friction * 1e-3
        self.rng, self.calls = np.random.default_rng(seed), 0
        for _ in range(calls):  # the state that REPORT of the run before gave
            self._noise()
        if velocities is None:
            self.velocities = self._noise() * np.sqrt(self.kt / self.masses)
            self._remove_drift()
        else:
            self.velocities = np.array(velocities, float)
        self.energy, self.forces, self.stress = self._evaluate()

    def _evaluate(self):
        return evaluate(self.cell, self.fractional, self.species, self.radii, self.atom_energies)

    def _noise(self):
        self.calls += 1
        return self.rng.normal(size=self.fractional.shape)

    def _remove_drift(self):
        self.velocities -= (self.masses * self.velocities).sum(axis=0) / self.masses.sum()

    @property
    def temperature(self):
        return float((self.masses * self.velocities**2).sum() / KB / max(1, 3 * len(self.masses) - 3))

    def step(self, pressure):
        half = 0.5 * self.dt
        self.velocities += half * self.forces / self.masses
        positions = self.fractional @ self.cell + half * self.velocities
        c = np.exp(-self.friction * self.dt)
        noise = self._noise()
        self.velocities = c * self.velocities + np.sqrt((1 - c**2) * self.kt / self.masses) * noise
        self._remove_drift()
        positions += half * self.velocities
        self.fractional = np.mod(positions @ np.linalg.inv(self.cell), 1.0)
        rate = -(self.stress + pressure * np.eye(3)) / (3 * 0.187 * 200.0)
        self.rate = -self.cell @ np.clip(rate, -1e-3 / self.dt, 1e-3 / self.dt)
        self.cell = self.cell @ (np.eye(3) - np.clip(rate * self.dt, -1e-3, 1e-3))
        self.energy, self.forces, self.stress = self._evaluate()
        self.velocities += half * self.forces / self.masses
