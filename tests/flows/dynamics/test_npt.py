"""NpT with torch-sim's Lennard-Jones model: statistics against theory, guards, and independence of batch-mates."""

from __future__ import annotations

import dataclasses

import argon as lennard_jones
import numpy as np
import pytest
from argon import crystal, parameters, system

from aqvolt_flows.exploration.schedules import group_runs, plan_runs, run_seed
from aqvolt_flows.schemas.parameters import ExplorationParameters
from aqvolt_flows.structures import supercell_factors

torch = pytest.importorskip("torch")

from aqvolt_flows.dynamics.npt import NpTRun  # noqa: E402
from aqvolt_flows.dynamics.systems import System, maxwell_boltzmann  # noqa: E402
from aqvolt_flows.errors import InputError  # noqa: E402
from aqvolt_flows.units import KB_EV_PER_K  # noqa: E402


@pytest.fixture(scope="module")
def argon():
    return lennard_jones.model()


def test_initial_momenta_have_the_temperature_and_no_drift():
    atoms = crystal()
    momenta = maxwell_boltzmann(atoms, 300.0, 3, torch.float64).numpy()
    masses = atoms.get_masses()[:, None]
    kinetic = (momenta**2 / (2 * masses)).sum()
    assert kinetic == pytest.approx((3 * len(atoms) - 3) / 2 * KB_EV_PER_K * 300)  # equipartition
    np.testing.assert_allclose(momenta.sum(axis=0), 0, atol=1e-10)


def test_frames_are_every_stride_th_step_and_consistent_with_the_model(argon):
    [outcome] = NpTRun(argon, [system()], parameters()).run()
    assert [f.step for f in outcome.frames] == [0, 10, 20, 30, 40, 50, 60]
    assert (outcome.steps_done, outcome.failure) == (60, None)
    import torch_sim as ts

    for frame in outcome.frames[::3]:
        again = argon(ts.io.atoms_to_state([frame.to_atoms()], device=argon.device, dtype=argon.dtype))
        assert float(again["energy"][0]) == pytest.approx(frame.energy, abs=1e-4)  # positions are single precision
        np.testing.assert_allclose(again["forces"].numpy(), frame.forces, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ensemble", "barostat_tau_fs"),
    [("npt_nose_hoover_isotropic", 600.0), ("npt_crescale_isotropic", 300.0), ("npt_crescale_full", 300.0)],
)
def test_mean_temperature_and_pressure_are_those_asked_for(argon, ensemble, barostat_tau_fs):
    """In NpT, <T> is the target; the standard error of 32 atoms over the run is about 2 K here."""
    p = parameters(n_steps=320, stride=4, ensemble=ensemble, timestep_fs=10.0, barostat_tau_fs=barostat_tau_fs,
                   compressibility_per_gpa=0.5)  # fmt: skip  # solid argon's is about 0.5/GPa
    outcomes = NpTRun(argon, [system(seed=s, name=str(s)) for s in range(6)], p).run()
    frames = [f for o in outcomes for f in o.frames[30:]]
    assert np.mean([f.temperature for f in frames]) == pytest.approx(40.0, abs=4.0)
    virial = np.mean([-f.stress[:3].mean() for f in frames])
    kinetic = np.mean([f.n_atoms * KB_EV_PER_K * f.temperature / f.volume for f in frames])
    assert np.mean([f.pressure for f in frames]) == pytest.approx(virial + kinetic * 31 / 32, abs=1e-5)  # 3N − 3
    assert virial + kinetic == pytest.approx(0.0, abs=1.5e-4)  # 1 atm is 6e-7 eV/Å³; 1.5e-4 eV/Å³ is 24 MPa


def test_only_the_full_cell_relaxes_a_tetragonal_box(argon):
    """An fcc crystal 8 % too long along x is cubic again on average; an isotropic barostat leaves the ratio."""
    ratios = {}
    for ensemble, n_steps in (("npt_crescale_full", 200), ("npt_crescale_isotropic", 20)):
        p = parameters(ensemble=ensemble, n_steps=n_steps, stride=4, barostat_tau_fs=30.0, compressibility_per_gpa=0.5)
        atoms = crystal()
        atoms.set_cell(atoms.cell[:] * np.array([[1.053], [0.975], [0.975]]), scale_atoms=True)
        outcomes = NpTRun(argon, [system(seed=s, name=str(s), atoms=atoms, temperature=5.0) for s in range(2)], p).run()
        late = [f for o in outcomes for f in o.frames if f.step >= n_steps // 2]
        lengths = np.mean([np.linalg.norm(f.cell, axis=1) for f in late], axis=0)
        ratios[ensemble] = lengths[0] / lengths[1:].mean()
    assert ratios["npt_crescale_isotropic"] == pytest.approx(1.08, abs=1e-3)
    assert ratios["npt_crescale_full"] == pytest.approx(1.0, abs=0.02)


def test_a_seed_makes_a_trajectory_and_batch_mates_do_not_matter(argon):
    alone = NpTRun(argon, [system(seed=5)], parameters()).run()[0]
    twin = NpTRun(argon, [system(seed=5)], parameters()).run()[0]
    together = NpTRun(argon, [system(seed=9, temperature=80.0, name="other"), system(seed=5)], parameters()).run()[1]
    assert np.array_equal(alone.frames[-1].positions, twin.frames[-1].positions)
    np.testing.assert_allclose(alone.frames[-1].positions, together.frames[-1].positions, atol=1e-5)
    other = NpTRun(argon, [system(seed=6)], parameters()).run()[0]
    assert not np.allclose(alone.frames[-1].positions, other.frames[-1].positions, atol=1e-3)


@pytest.mark.parametrize("ensemble", ["npt_nose_hoover_isotropic", "npt_crescale_isotropic"])
def test_a_failed_system_leaves_and_the_others_go_on(argon, ensemble):
    squeezed = System("squeezed", crystal(a=3.2), 40.0, 2)  # expands far beyond 50 % of its volume or its force limit
    limits = {"max_force_ev_per_a": 50.0, "max_volume_ratio": 1.5}
    p = parameters(ensemble=ensemble, n_steps=120, equilibration_ps=0.0, **limits)
    first, bad, last = NpTRun(argon, [system(name="a"), squeezed, system(seed=4, name="b")], p).run()
    assert bad.failure is not None
    assert bad.failure.reason in {"vaporized", "force_limit", "temperature_limit"}
    assert bad.steps_done < 120
    assert all(f.step <= bad.steps_done for f in bad.frames)
    assert (first.steps_done, last.steps_done, len(first.frames)) == (120, 120, 13)
    if ensemble == "npt_nose_hoover_isotropic":  # deterministic: the survivor is what it would have been alone
        alone = NpTRun(argon, [system(seed=4, name="b")], p).run()[0]
        np.testing.assert_allclose(alone.frames[-1].positions, last.frames[-1].positions, atol=1e-4)


def test_no_system_is_refused(argon):
    with pytest.raises(InputError, match="No system"):
        NpTRun(argon, [], parameters())


def test_a_timestep_of_100_fs_is_refused_with_the_limit():
    from aqvolt_flows.campaign import parse_campaign
    from aqvolt_flows.errors import ConfigError

    with pytest.raises(ConfigError, match=r"exploration.timestep_fs is 100.0; expected less than or equal to 10 in fs"):
        parse_campaign("name: x\nexploration: {timestep_fs: 100.0}")


def test_runs_are_keyed_by_what_decides_them_only():
    from pymatgen.core import Lattice, Structure

    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.1), ["Li", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    p = ExplorationParameters(temperatures_k=[300.0, 600.0])
    runs = plan_runs([("candidate-1", salt)], p, "hash")
    assert len({r.key for r in runs}) == 2
    regrouped = plan_runs([("candidate-1", salt)], p.model_copy(update={"max_batch_atoms": 8}), "hash")
    assert [r.key for r in regrouped] == [r.key for r in runs]
    for change in ({"timestep_fs": 2.0}, {"n_steps": 10}, {"seed": 1}):
        assert not {r.key for r in plan_runs([("candidate-1", salt)], p.model_copy(update=change), "hash")} & {
            r.key for r in runs
        }
    # what does not decide a trajectory, and what was added since, leaves the keys of earlier runs alone
    same = {"max_job_atoms": 99, "checkpoint_steps": 7, "min_distance_factor": 0.4, "deterministic": True}
    assert [r.key for r in plan_runs([("candidate-1", salt)], p.model_copy(update=same), "hash")] == [
        r.key for r in runs
    ]
    first_version = {"equilibration_ps": 0.0, "max_volume_ratio": 0.0, "min_packing": 0.0, "max_volume_change": 0.5}
    first = p.model_copy(update=first_version | {"ensemble": "npt_nose_hoover_isotropic"})
    # as it was given then
    assert plan_runs([("candidate-1", salt)], first, "hash")[0].key == "c112dcdb2b49d7c9ce39e566"
    noisy = p.model_copy(update={"ensemble": "npt_crescale_full"})
    softer = noisy.model_copy(update={"compressibility_per_gpa": 1.0})
    assert len({plan_runs([("candidate-1", salt)], q, "hash")[0].key for q in (p, noisy, softer)}) == 3
    assert not {r.key for r in plan_runs([("candidate-1", salt)], p, "other weights")} & {r.key for r in runs}
    assert run_seed(0, "a", 300.0) != run_seed(0, "a", 600.0)
    assert supercell_factors(salt, 8.0) == (2, 2, 2)
    assert supercell_factors(salt, 0.0) == (1, 1, 1)
    assert supercell_factors(salt, 10.2) == (2, 2, 2)


def test_groups_hold_every_run_once_within_the_limit():
    from aqvolt_flows.exploration.schedules import Run

    runs = [Run(f"t{i}", f"k{i}", "c", 300.0, i, n) for i, n in enumerate([40, 8, 8, 8, 24, 2])]
    groups = group_runs(runs, 32)
    assert sorted(r.key for g in groups for r in g) == sorted(r.key for r in runs)
    assert all(sum(r.n_atoms for r in g) <= 32 or len(g) == 1 for g in groups)
    assert dataclasses.asdict(groups[0][0])["n_atoms"] == 40
