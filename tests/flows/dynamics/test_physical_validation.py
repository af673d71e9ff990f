"""Every ensemble against physical_validation (Merz and Shirts, DOI 10.1371/journal.pone.0202764).

For the stochastic ensembles the system is analytic, so that thousands of independent samples cost seconds: eight
atoms, each bound to its lattice site, which moves with the cell, by k u²/2 + q u⁴/4 (u relative to the mean
displacement, since the center of mass is at rest), in a cell with the energy B V₀ (V/V₀ − 1)²/2. Nosé–Hoover chains do
not thermalize such a crystal (a test shows it: one more reason not to make them the default); theirs is warm
Lennard-Jones argon.
"""

from __future__ import annotations

import argon
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pv = pytest.importorskip("physical_validation")

from aqvolt_flows.dynamics.batch import volume_of  # noqa: E402
from aqvolt_flows.dynamics.integrators import integrator_for  # noqa: E402
from aqvolt_flows.dynamics.noise import TrajectoryNoise  # noqa: E402
from aqvolt_flows.dynamics.npt import NpTRun  # noqa: E402
from aqvolt_flows.dynamics.systems import System, initial_batch  # noqa: E402
from aqvolt_flows.units import KB_EV_PER_K, gpa_to_ev_per_a3  # noqa: E402

STIFFNESS, QUARTIC = 1.5, 4.0  # eV/Å², eV/Å⁴
BULK_MODULUS, PRESSURE_GPA = gpa_to_ev_per_a3(3.0), 0.1
TEMPERATURES = (300.0, 330.0)
REPLICAS, N_STEPS, EVERY, FIRST = 200, 2400, 100, 500
NOSE_HOOVER = "npt_nose_hoover_isotropic"
#: Argon above its melting point, K; 0.2 GPa keep four atoms together.
WARM, WARM_PRESSURE_GPA = (110.0, 121.0), 0.2
UNITS = {
    "kb": KB_EV_PER_K, "energy_conversion": 96.48533, "length_conversion": 0.1, "volume_conversion": 1e-3,
    "temperature_conversion": 1.0, "pressure_conversion": 1e4 / gpa_to_ev_per_a3(1.0), "time_conversion": 1e-3,
    "energy_str": "eV", "length_str": "Å", "volume_str": "Å³", "temperature_str": "K", "pressure_str": "eV/Å³",
    "time_str": "fs",
}  # fmt: skip


def parameters(ensemble: str, timestep: float = 5.0):
    return argon.parameters(
        ensemble=ensemble, equilibration_ps=0.0, timestep_fs=timestep, thermostat_tau_fs=100.0, barostat_tau_fs=300.0,
        pressure_gpa=PRESSURE_GPA, compressibility_per_gpa=1 / 3, n_steps=N_STEPS,
    )  # fmt: skip


class Crystal:
    """Energies, forces and stresses of a batch of these systems."""

    def __init__(self, batch) -> None:
        self.index, self.n = batch.index, len(batch)
        inverse = torch.linalg.inv(batch.systems["cell"])
        self.sites = torch.bmm(batch.atoms["positions"].unsqueeze(1), inverse[self.index]).squeeze(1)
        self.volume = batch.volume()
        self.atoms = torch.as_tensor(batch.counts, dtype=torch.float64)

    def __call__(self, positions, cell):
        u = positions - torch.bmm(self.sites.unsqueeze(1), cell[self.index]).squeeze(1)
        mean = torch.zeros(self.n, 3, dtype=u.dtype).index_add(0, self.index, u) / self.atoms[:, None]
        u = u - mean[self.index]
        square = (u * u).sum(1)
        each = STIFFNESS * square / 2 + QUARTIC * square**2 / 4
        pull = -(STIFFNESS + QUARTIC * square)[:, None] * u
        drift = torch.zeros(self.n, 3, dtype=u.dtype).index_add(0, self.index, pull) / self.atoms[:, None]
        forces = pull - drift[self.index]
        volume = volume_of(cell)
        strain = volume / self.volume - 1
        energy = torch.zeros(self.n, dtype=u.dtype).index_add(0, self.index, each)
        energy = energy + BULK_MODULUS * self.volume * strain**2 / 2
        # a strain ε moves atoms and sites together: u → u (1 + ε), so that V σ = Σ −F ⊗ u + B (V − V₀) V/V₀ 1
        outer = torch.einsum("ni,nj->nij", -forces, u).reshape(-1, 9)
        virial = torch.zeros(self.n, 9, dtype=u.dtype).index_add(0, self.index, outer).view(-1, 3, 3)
        bulk = (BULK_MODULUS * strain)[:, None, None] * torch.eye(3, dtype=u.dtype)
        return energy, forces, virial / volume[:, None, None] + bulk


def run(ensemble: str) -> dict[float, dict[str, np.ndarray]]:
    """Return samples of every replica, by temperature: kinetic and potential energies (eV) and volumes (Å³)."""
    atoms = argon.crystal(5.3, 1) * (2, 1, 1)
    systems = [System(f"{t}-{i}", atoms, t, 1000 * k + i) for k, t in enumerate(TEMPERATURES) for i in range(REPLICAS)]
    integrator = integrator_for(parameters(ensemble))
    batch = initial_batch(systems, torch.device("cpu"))
    forces = Crystal(batch)
    energy, force, stress = forces(batch.atoms["positions"], batch.systems["cell"])
    batch = integrator.start(batch.updated({"forces": force}, {"energy": energy, "stress": stress}))
    noise = TrajectoryNoise(integrator.draws, torch.device("cpu"))
    noise.prepare(batch.seeds, [(3 * len(atoms) - 4) / 2] * len(batch))
    kept = []
    for step in range(N_STEPS):
        at = np.full(len(batch), step)
        batch = integrator.step(batch, forces, noise.at(at, torch.tensor(at)))
        batch.steps = at + 1
        if step >= FIRST and step % EVERY == 0:
            kept.append(torch.stack([batch.systems["kinetic"], batch.systems["energy"], batch.volume()]))
    samples = torch.stack(kept).numpy()  # (samples, 3, systems)
    return {
        t: {
            name: samples[:, row, k * REPLICAS : (k + 1) * REPLICAS].ravel()
            for row, name in enumerate(("kinetic", "potential", "volume"))
        }
        for k, t in enumerate(TEMPERATURES)
    }


def run_argon() -> dict[float, dict[str, np.ndarray]]:
    """Return samples of four atoms of argon by Nosé–Hoover, started by C-rescale for 1 ps, as :func:`run` does."""
    p = argon.parameters(
        ensemble=NOSE_HOOVER, equilibration_ps=1.0, n_steps=2400, stride=40, pressure_gpa=WARM_PRESSURE_GPA,
        compressibility_per_gpa=1.0, max_batch_atoms=10_000, lost_atom_cutoff_a=0.0,
    )  # fmt: skip
    systems = [
        argon.system(100 * k + i, t, f"{k}-{i}", argon.crystal(5.6, 1)) for k, t in enumerate(WARM) for i in range(48)
    ]
    found: dict[float, dict[str, list[float]]] = {t: {"kinetic": [], "potential": [], "volume": []} for t in WARM}
    for outcome in NpTRun(argon.model(), systems, p).run():
        samples = found[outcome.system.temperature_k]
        for frame in outcome.frames:
            if frame.step >= 600:
                samples["kinetic"].append(9 / 2 * KB_EV_PER_K * frame.temperature)
                samples["potential"].append(frame.energy)
                samples["volume"].append(frame.volume)
    return {t: {name: np.array(v) for name, v in samples.items()} for t, samples in found.items()}


def simulation(
    temperature: float, samples: dict[str, np.ndarray], n_atoms: int = 8, pressure_gpa: float = PRESSURE_GPA
):
    """Return physical_validation's form of these samples."""
    return pv.data.SimulationData(
        units=pv.data.UnitData(**UNITS),
        ensemble=pv.data.EnsembleData(
            "NPT", natoms=n_atoms, pressure=gpa_to_ev_per_a3(pressure_gpa), temperature=temperature
        ),
        system=pv.data.SystemData(
            natoms=n_atoms, nconstraints=0, ndof_reduction_tra=3, ndof_reduction_rot=0, mass=np.full(n_atoms, 39.95),
            molecule_idx=np.arange(n_atoms), nconstraints_per_molecule=np.zeros(n_atoms),
        ),
        observables=pv.data.ObservableData(
            kinetic_energy=samples["kinetic"], potential_energy=samples["potential"], volume=samples["volume"],
            total_energy=samples["kinetic"] + samples["potential"],
        ),
        dt=5.0,
    )  # fmt: skip


def worst(first, second) -> float:
    """Return the largest deviation of two simulations from kinetic theory and from each other, standard deviations."""
    options = {"data_is_uncorrelated": True, "bootstrap_seed": 1, "verbosity": 0}
    kinetic = [x for data in (first, second) for x in pv.kinetic_energy.distribution(data, strict=False, **options)]
    return float(np.abs([*kinetic, *pv.ensemble.check(first, second, **options)]).max())


@pytest.mark.slow
@pytest.mark.parametrize("ensemble", ["npt_crescale_isotropic", "npt_crescale_full"])
def test_kinetic_energies_and_enthalpies_are_distributed_as_the_ensemble_says(ensemble):
    """Below 3.5 standard deviations; and a temperature that is wrong by 3 % is told."""
    samples = run(ensemble)
    cold, hot = (simulation(t, s) for t, s in samples.items())
    assert worst(cold, hot) < 3.5
    wrong = simulation(TEMPERATURES[0] * 1.03, samples[TEMPERATURES[0]])
    assert worst(wrong, hot) > 5


@pytest.mark.slow
def test_nose_hoover_samples_its_ensemble_where_it_is_ergodic():
    samples = run_argon()
    cold, hot = (simulation(t, s, 4, WARM_PRESSURE_GPA) for t, s in samples.items())
    assert worst(cold, hot) < 3.5


@pytest.mark.slow
def test_nose_hoover_does_not_thermalize_a_crystal_that_is_nearly_harmonic():
    """The mean is right and the width of the kinetic energies is not: here (ΔK)² is more than 1.5 × theory."""
    samples = run(NOSE_HOOVER)
    for temperature, seen in samples.items():
        kt = KB_EV_PER_K * temperature
        assert seen["kinetic"].mean() == pytest.approx(21 / 2 * kt, rel=0.05)
        assert seen["kinetic"].var() > 1.5 * 21 / 2 * kt**2


def test_the_analytic_forces_and_stresses_are_derivatives():
    """Central differences in positions and in isotropic strain."""
    systems = [System("a", argon.crystal(5.3, 1) * (2, 1, 1), 300.0, 1)]
    batch = initial_batch(systems, torch.device("cpu"))
    model = Crystal(batch)
    moved = batch.atoms["positions"] + torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).double() * 0.2
    cell, h = batch.systems["cell"] * 1.03, 1e-5
    _, forces, stress = model(moved, cell)
    step = torch.zeros_like(moved)
    step[3, 1] = h
    slope = (model(moved + step, cell)[0] - model(moved - step, cell)[0]) / (2 * h)
    assert float(forces[3, 1]) == pytest.approx(-float(slope), rel=1e-6)
    bigger, smaller = (model(moved * f, cell * f)[0] for f in (1 + h, 1 - h))
    trace = float(torch.diagonal(stress[0]).sum()) * float(volume_of(cell)[0])
    assert trace == pytest.approx(float(bigger - smaller) / (2 * h), rel=1e-6)


@pytest.mark.slow
def test_nose_hoover_s_conserved_energy_converges_with_the_square_of_the_timestep():
    series = []
    for timestep in (8.0, 4.0, 2.0):
        integrator = integrator_for(parameters("npt_nose_hoover_isotropic", timestep))
        batch = initial_batch([System("a", argon.crystal(5.3, 1) * (2, 1, 1), 300.0, 5)], torch.device("cpu"))
        forces = Crystal(batch)
        energy, force, stress = forces(batch.atoms["positions"], batch.systems["cell"])
        batch = integrator.start(batch.updated({"forces": force}, {"energy": energy, "stress": stress}))
        constant = []
        for _ in range(round(4000 / timestep)):
            batch = integrator.step(batch, forces, torch.empty(0))
            constant.append(float(integrator.conserved(batch)[0]))
        data = pv.data.SimulationData(units=pv.data.UnitData(**UNITS), dt=timestep)
        data.observables = pv.data.ObservableData(constant_of_motion=np.array(constant))
        series.append(data)
    assert pv.integrator.convergence(series, verbose=False) < 0.1
