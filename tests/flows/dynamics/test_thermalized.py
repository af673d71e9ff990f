"""A start that is no shock: C-rescale first, then Nosé–Hoover, every system at its own step."""

from __future__ import annotations

import argon
import numpy as np
import pytest
from argon import crystal, parameters, system

torch = pytest.importorskip("torch")

from aqvolt_flows.dynamics.npt import NpTRun  # noqa: E402

NOSE_HOOVER = "npt_nose_hoover_isotropic"


@pytest.fixture(scope="module")
def model():
    return argon.model()


def test_the_start_is_that_of_the_stochastic_ensemble_and_production_follows(model):
    """Up to the last equilibration step the bits are C-rescale's; from there on they are not."""
    p = parameters(n_steps=40, stride=1, equilibration_ps=0.1, ensemble=NOSE_HOOVER)
    assert p.equilibration_steps == 20
    [ours] = NpTRun(model, [system()], p).run()
    [stochastic] = NpTRun(model, [system()], p.model_copy(update={"ensemble": "npt_crescale_isotropic"})).run()
    for a, b in zip(ours.frames[:21], stochastic.frames[:21], strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
    assert not np.array_equal(ours.frames[22].positions, stochastic.frames[22].positions)
    assert [f.equilibration for f in ours.frames] == [True] * 20 + [False] * 21


def test_systems_in_both_phases_share_a_batch_and_are_what_they_are_alone(model):
    """One of two vaporizes early; the third takes its place, and starts while its neighbor is in production."""
    room = {"max_batch_atoms": 12, "max_volume_ratio": 1.3, "ensemble": NOSE_HOOVER}
    p = parameters(n_steps=80, stride=5, equilibration_ps=0.1, **room)
    atoms = [crystal(4.4, 1), crystal(5.3, 1) * (2, 1, 1), crystal(5.3, 1)]
    systems = [system(seed=i, name=f"s{i}", atoms=a) for i, a in enumerate(atoms)]
    run = NpTRun(model, systems, p)
    phases = []
    while not run.done:
        run.advance()
        phases.append({steps < p.equilibration_steps for steps in run.running.values()})
    assert {True, False} in phases
    assert run.outcomes["s0"].failure.reason == "vaporized"
    for name in ("s1", "s2"):
        [alone] = NpTRun(model, [s for s in systems if s.trajectory_id == name], p).run()
        found = run.outcomes[name].frames[-1]
        np.testing.assert_allclose(found.positions, alone.frames[-1].positions, atol=1e-5)
        np.testing.assert_allclose(found.cell, alone.frames[-1].cell, atol=1e-5)


def test_nose_hoover_conserves_its_energy_from_the_end_of_the_equilibration_on():
    """The chains start at rest there: the extended energy of the production does not drift."""
    from aqvolt_flows.dynamics.nose_hoover import NoseHooverIsotropic

    p = parameters(n_steps=240, stride=10, equilibration_ps=0.2, timestep_fs=2.0, ensemble=NOSE_HOOVER)
    run = NpTRun(argon.smooth_model(), [system()], p)
    production: NoseHooverIsotropic = run._integrator.production
    energies = []
    while not run.done:
        run.advance()
        if run._batch is not None and run._batch.steps[0] > p.equilibration_steps:
            energies.append(float(production.conserved(run._batch)[0]))
    assert len(energies) == 139
    assert np.ptp(energies) < 2e-4  # eV of 32 atoms; the potential energy changes by 0.1


def test_an_equilibration_longer_than_the_run_is_refused_with_the_numbers():
    from pydantic import ValidationError

    said = "equilibration_ps = 1 is 200 steps of 5 fs, and the run has n_steps = 60"
    with pytest.raises(ValidationError, match=said):
        parameters(equilibration_ps=1.0)
    assert parameters(n_steps=60).equilibration_steps == 12
    assert parameters(n_steps=50_000, timestep_fs=1.0).equilibration_steps == 1000
