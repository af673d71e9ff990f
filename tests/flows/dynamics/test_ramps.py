"""A target temperature that changes with the step: what is reached, and what a checkpoint keeps."""

from __future__ import annotations

import argon as lennard_jones
import numpy as np
import pytest
from argon import crystal, parameters

torch = pytest.importorskip("torch")

from aqvolt_flows.dynamics.npt import NpTRun  # noqa: E402
from aqvolt_flows.dynamics.systems import System, heated, initial_batch  # noqa: E402
from aqvolt_flows.units import KB_EV_PER_K  # noqa: E402


@pytest.fixture(scope="module")
def argon():
    return lennard_jones.model()


def ramp(name: str, first: float, last: float | None, seed: int = 3) -> System:
    return System(name, crystal(), first, seed, last)


def test_target_is_linear_in_the_step_and_stays_where_none_is_given():
    batch = initial_batch([ramp("up", 20.0, 60.0), ramp("flat", 30.0, None)], torch.device("cpu"), ramps=True)
    batch.systems["step"] = torch.tensor([25, 25])
    targets = heated(batch, 100).systems["kt"].numpy() / KB_EV_PER_K
    assert targets == pytest.approx([30.0, 30.0])
    batch.systems["step"] = torch.tensor([100, 140])
    assert heated(batch, 100).systems["kt"].numpy() / KB_EV_PER_K == pytest.approx([60.0, 30.0])


def test_temperature_follows_the_ramp(argon):
    """Mean of the last fifth of 10 → 50 K: the target there is 46 K; 6 runs of 32 atoms, standard error about 2 K."""
    p = parameters(n_steps=500, stride=5, timestep_fs=10.0, thermostat_tau_fs=50.0)
    outcomes = NpTRun(argon, [ramp(str(s), 10.0, 50.0, s) for s in range(6)], p).run()
    late = [f.temperature for o in outcomes for f in o.frames if f.step > 400]
    assert all(o.failure is None for o in outcomes)
    assert np.mean(late) == pytest.approx(46.0, abs=5.0)


def test_equal_ends_give_the_run_without_a_ramp_bit_for_bit(argon):
    [plain] = NpTRun(argon, [ramp("a", 40.0, None)], parameters()).run()
    [flat] = NpTRun(argon, [ramp("a", 40.0, 40.0)], parameters()).run()
    np.testing.assert_array_equal(plain.frames[-1].positions, flat.frames[-1].positions)


@pytest.mark.parametrize("ensemble", ["npt_crescale_isotropic", "npt_nose_hoover_isotropic"])
def test_a_restored_ramp_gives_the_same_bits(argon, ensemble):
    p = parameters(ensemble=ensemble, n_steps=60)
    systems = [ramp("a", 20.0, 80.0), ramp("b", 20.0, 50.0, 5)]
    whole = NpTRun(argon, systems, p)
    whole.run()
    first = NpTRun(argon, systems, p)
    while first.tick < 30:
        first.advance()
    second = NpTRun(argon, systems, p)
    second.restore(first.snapshot())
    second.run()
    for name in "ab":
        last, again = whole.outcomes[name].frames[-1], second.outcomes[name].frames[-1]
        assert last.step == again.step == 60
        np.testing.assert_array_equal(last.positions, again.positions)
