"""The integrators against torch-sim's, step for step, and against what they must conserve."""

from __future__ import annotations

import argon
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch_sim as ts  # noqa: E402
from torch_sim.integrators import md, npt  # noqa: E402

from aqvolt_flows.dynamics.integrators import Thermalized, integrator_for  # noqa: E402
from aqvolt_flows.dynamics.noise import TrajectoryNoise  # noqa: E402
from aqvolt_flows.dynamics.nose_hoover import NoseHooverIsotropic  # noqa: E402
from aqvolt_flows.dynamics.rescaling import CRescale, matrix_exponential, symmetric_noise  # noqa: E402
from aqvolt_flows.dynamics.systems import System, initial_batch  # noqa: E402
from aqvolt_flows.units import KB_EV_PER_K, gpa_to_ev_per_a3  # noqa: E402

NOSE_HOOVER = "npt_nose_hoover_isotropic"
DT, TAU, TAU_P = 0.5, 10.0, 100.0  # Å·√(u/eV): 5 fs, 0.1 ps, 1 ps
PRESSURE = gpa_to_ev_per_a3(0.05)


@pytest.fixture(scope="module")
def model():
    return argon.model()


def started(model, integrator, names=("a", "b")):
    """Two systems of different size and temperature, with forces; and the model as a function."""
    atoms = [argon.crystal(5.3, 2), argon.crystal(5.2, 1) * (2, 1, 1)]
    for i, a in enumerate(atoms):
        a.rattle(0.05, seed=i)
    batch = initial_batch([System(n, a, 40.0 + 30 * i, i) for i, (n, a) in enumerate(zip(names, atoms, strict=True))],
                          model.device)  # fmt: skip

    def forces(positions, cell):
        state = ts.SimState(
            positions=positions, masses=batch.atoms["masses"], cell=cell.transpose(-2, -1), pbc=True,
            atomic_numbers=batch.atoms["numbers"], system_idx=batch.index,
        )  # fmt: skip
        out = model(state)
        return out["energy"], out["forces"], out["stress"]

    energy, force, stress = forces(batch.atoms["positions"], batch.systems["cell"])
    batch = batch.updated({"forces": force}, {"energy": energy, "stress": stress})
    return integrator.start(batch), forces, atoms


def library_state(atoms, batch, model, init, **options):
    state = ts.io.atoms_to_state(atoms, device=model.device, dtype=model.dtype)
    state.rng = 0
    state = init(state=state, model=model, kT=batch.systems["kt"], dt=torch.tensor(DT, dtype=torch.float64), **options)
    state.momenta = batch.atoms["momenta"].clone()
    return state


@pytest.mark.parametrize(("chain_steps", "sy_steps"), [(1, 1), (2, 3)])
def test_nose_hoover_is_torch_sims_to_rounding(model, monkeypatch, chain_steps, sy_steps):
    doubles = {1: [1.0], 3: [0.828981543588751, -0.657963087177502, 0.828981543588751]}
    tables = {k: torch.tensor(v, dtype=torch.float64) for k, v in doubles.items()}
    monkeypatch.setattr(md, "SUZUKI_YOSHIDA_WEIGHTS", tables)  # theirs are in single precision
    weights = tuple(w / chain_steps for _ in range(chain_steps) for w in doubles[sy_steps])
    ours = NoseHooverIsotropic(DT, TAU, TAU_P, PRESSURE, weights)
    batch, forces, atoms = started(model, ours)
    theirs = library_state(
        atoms, batch, model, npt.npt_nose_hoover_isotropic_init, t_tau=TAU, b_tau=TAU_P,
        chain_steps=chain_steps, sy_steps=sy_steps, momenta=batch.atoms["momenta"].clone(),
    )  # fmt: skip
    for _ in range(25):
        batch = ours.step(batch, forces, None)
        theirs = npt.npt_nose_hoover_isotropic_step(
            theirs, model, dt=DT, kT=batch.systems["kt"], external_pressure=PRESSURE
        )
    np.testing.assert_allclose(batch.atoms["positions"], theirs.positions, atol=1e-8)
    np.testing.assert_allclose(batch.atoms["momenta"], theirs.momenta, atol=1e-8)
    np.testing.assert_allclose(batch.systems["cell"].transpose(-2, -1), theirs.cell, atol=1e-8)
    np.testing.assert_allclose(batch.systems["chain_momenta"][:, 0], theirs.thermostat.momenta, atol=1e-8)
    np.testing.assert_allclose(batch.systems["chain_positions"][:, 1], theirs.barostat.positions, atol=1e-8)
    invariant = npt.npt_nose_hoover_isotropic_invariant(theirs, batch.systems["kt"], torch.tensor(PRESSURE))
    np.testing.assert_allclose(ours.conserved(batch), invariant, atol=1e-8)


def test_the_conserved_energy_drifts_with_the_square_of_the_timestep():
    """Second order: half the timestep, a quarter of the excursion; and far below kT per atom."""
    model, worst = argon.smooth_model(), []
    for dt, steps in ((1.0, 60), (0.5, 120)):
        ours = NoseHooverIsotropic(dt, TAU, TAU_P, PRESSURE)
        batch, forces, _ = started(model, ours)
        first, seen = ours.conserved(batch), []
        for _ in range(steps):
            batch = ours.step(batch, forces, None)
            seen.append(ours.conserved(batch) - first)
        worst.append(torch.stack(seen).abs().amax(0))
    assert (worst[1] < 0.004 * batch.systems["kt"] * torch.tensor([32.0, 8.0])).all()
    ratio = (worst[0] / worst[1]).numpy()
    assert ((ratio > 2.5) & (ratio < 6.5)).all()


def test_isotropic_cell_rescaling_is_torch_sims_given_its_noise(model, monkeypatch):
    ours = CRescale(DT, TAU, TAU_P, PRESSURE, compressibility=0.5)
    batch, forces, atoms = started(model, ours)
    theirs = library_state(atoms, batch, model, npt.npt_crescale_init, tau_p=TAU_P, isothermal_compressibility=0.5)
    rng = np.random.default_rng(3)
    for _ in range(10):
        normals = torch.tensor(rng.standard_normal((2, 3)))
        gammas = torch.tensor(rng.standard_gamma([[(3 * n - 4) / 2] * 2 for n in batch.counts]))
        given = iter([normals[:, 0], normals[:, 2], normals[:, 1]])
        given_gamma = iter([gammas[:, 0], gammas[:, 1]])
        batch = ours.step(batch, forces, torch.cat([normals, gammas], dim=1))
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randn", lambda *a, given=given, **k: next(given))
            patch.setattr(torch, "_standard_gamma", lambda *a, given=given_gamma, **k: next(given))
            theirs = npt.npt_crescale_isotropic_step(
                theirs, model, dt=DT, kT=batch.systems["kt"], external_pressure=PRESSURE,
                tau=torch.tensor(TAU, dtype=torch.float64),
            )  # fmt: skip
    np.testing.assert_allclose(batch.atoms["positions"], theirs.positions, atol=1e-8)
    np.testing.assert_allclose(batch.atoms["momenta"], theirs.momenta, atol=1e-8)
    np.testing.assert_allclose(batch.systems["cell"].transpose(-2, -1), theirs.cell, atol=1e-8)


def test_full_cell_rescaling_moves_atoms_with_their_cell(model):
    """Atoms without momenta keep fractional coordinates whatever the cell does; momenta scale with the inverse."""
    ours = CRescale(DT, TAU, TAU_P, PRESSURE, compressibility=5.0, full_cell=True)
    batch, _, _ = started(model, ours)
    batch = batch.updated({"momenta": batch.atoms["momenta"] * 0, "forces": batch.atoms["forces"] * 0}, {})
    shear = torch.eye(3, dtype=torch.float64) + torch.tensor([[0, 0.1, 0], [0, 0, 0.2], [0, 0, 0]])
    batch = batch.updated({"positions": batch.atoms["positions"] @ shear}, {"cell": batch.systems["cell"] @ shear})
    noise = torch.tensor(np.random.default_rng(1).standard_normal((2, 12))).abs()
    scale, inverse = ours._rescaling(batch, batch.atoms["momenta"], noise[:, 2:10])
    np.testing.assert_allclose(scale @ inverse, np.eye(3)[None].repeat(2, 0), atol=1e-12)
    cell = batch.systems["cell"] @ scale
    assert not np.allclose(cell, batch.systems["cell"], atol=1e-3)
    positions = (scale[batch.index] @ batch.atoms["positions"][:, :, None])[:, :, 0]
    for i in range(2):
        atoms = (batch.index == i).numpy()
        before = batch.atoms["positions"].numpy()[atoms] @ np.linalg.inv(batch.systems["cell"][i].numpy())
        after = positions.numpy()[atoms] @ np.linalg.inv(cell[i].numpy())
        np.testing.assert_allclose(after, before, atol=1e-12)


@pytest.mark.parametrize("full_cell", [False, True])
def test_an_ideal_gas_has_the_volume_of_theory(full_cell):
    """With the center of mass at rest p(V) ∝ V^(N−1) exp(−PV/kT): mean N kT/P and variance N (kT/P)².

    128 gases of four atoms over seven barostat times: standard error of the mean about 2.5 %.
    """
    n, kt, pressure = 4, KB_EV_PER_K * 300, gpa_to_ev_per_a3(0.1)
    atoms = argon.crystal((n * kt / pressure) ** (1 / 3), 1)
    systems = [System(str(i), atoms, 300.0, i) for i in range(128)]
    ours = CRescale(0.5, 5.0, 20.0, pressure, compressibility=1 / pressure, full_cell=full_cell)
    batch = initial_batch(systems, torch.device("cpu"))
    noise = TrajectoryNoise(ours.draws, torch.device("cpu"))
    noise.prepare(batch.seeds, [(3 * n - 4) / 2] * len(batch))
    nothing = batch.systems["energy"], batch.atoms["forces"], batch.systems["stress"]
    volumes, temperatures = [], []
    for step in range(400):
        at = torch.full((len(batch),), step)
        batch = ours.step(batch, lambda positions, cell: nothing, noise.at(np.full(len(batch), step), at))
        if step >= 120 and step % 20 == 0:
            volumes.append(batch.volume())
            temperatures.append(batch.temperature())
    volume = torch.stack(volumes) * pressure / kt
    assert float(volume.mean()) == pytest.approx(n, rel=0.08)
    assert float(volume.std()) == pytest.approx(n**0.5, rel=0.12)
    assert float(torch.stack(temperatures).mean()) == pytest.approx(300, rel=0.03)  # standard error 0.7 %


def test_the_matrix_exponential_is_scipys():
    from scipy.linalg import expm

    matrices = np.random.default_rng(0).standard_normal((4, 3, 3)) * np.array([1e-4, 1e-2, 0.1, 0.3])[:, None, None]
    ours = matrix_exponential(torch.tensor(matrices), torch.eye(3, dtype=torch.float64))
    np.testing.assert_allclose(ours, [expm(m) for m in matrices], rtol=0, atol=1e-13)


def test_symmetric_noise_has_the_variance_of_the_symmetric_part():
    """Of a matrix of independent standard normals: 1 on the diagonal, 1/2 off it."""
    noise = symmetric_noise(torch.tensor(np.random.default_rng(0).standard_normal((20_000, 6))))
    np.testing.assert_array_equal(noise, noise.transpose(-2, -1))
    np.testing.assert_allclose(noise.var(0), np.full((3, 3), 0.5) + 0.5 * np.eye(3), atol=0.05)


def test_every_ensemble_has_its_integrator():
    assert isinstance(integrator_for(argon.parameters(ensemble=NOSE_HOOVER, equilibration_ps=0.0)), NoseHooverIsotropic)
    thermalized = integrator_for(argon.parameters(ensemble=NOSE_HOOVER))
    assert isinstance(thermalized, Thermalized)
    assert thermalized.first_integrator.thermostat_tau == pytest.approx(thermalized.production.thermostat_tau / 10)
    assert thermalized.steps == 12  # a fifth of 60 steps
    assert integrator_for(argon.parameters(n_steps=2000)).steps == 200  # 1 ps
    full = integrator_for(argon.parameters(ensemble="npt_crescale_full", equilibration_ps=0.0))
    assert isinstance(full, CRescale)
    assert full.full_cell
    assert full.dt == pytest.approx(5.0 / 10.1805, rel=1e-4)  # Å·√(u/eV) is 10.1805 fs
