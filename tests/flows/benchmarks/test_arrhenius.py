"""A number, a bound or neither: Arrhenius laws recovered, unresolved temperatures kept out."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from aqvolt_flows.benchmarks.arrhenius import Point, conductivity_at
from aqvolt_flows.benchmarks.transport import Diffusion, detection_limit, nernst_einstein, upper_hops
from aqvolt_flows.units import KB_EV_PER_K

N_LI, VOLUME, PS = 32, 1200.0, 100.0


def law(temperature: float, energy: float = 0.35, d0: float = 1e-3) -> float:
    return d0 * float(np.exp(-energy / (KB_EV_PER_K * temperature)))


def measured(d: float, spread: float = 0.1, seed: int = 0) -> Diffusion:
    limit = detection_limit(N_LI, PS, 3.0)
    hops = d / limit
    draws = d * np.exp(np.random.default_rng(seed).normal(0, spread, 400))
    resolved = hops >= 10
    interval = tuple(np.percentile(draws, [2.5, 97.5]).tolist()) if resolved else None
    drawn = tuple(draws.tolist()) if resolved else ()
    upper = limit * upper_hops(hops)
    return Diffusion(d, interval, drawn, (d,), 0, hops, limit, upper, resolved, VOLUME, N_LI, PS)


def test_an_arrhenius_law_is_recovered_as_pymatgen_does():
    temperatures = [600.0, 700.0, 800.0, 900.0]
    found = conductivity_at([Point(t, measured(law(t))) for t in temperatures], 300.0)
    from pymatgen.analysis.diffusion.analyzer import get_extrapolated_conductivity

    cell = Structure(Lattice.cubic(VOLUME ** (1 / 3)), ["Li"] * N_LI, np.zeros((N_LI, 3)))
    expected = get_extrapolated_conductivity(temperatures, [law(t) for t in temperatures], 300.0, cell, "Li")
    assert found.kind == "resolved"
    assert found.ms_cm == pytest.approx(expected, rel=1e-6)
    assert found.activation_ev == pytest.approx(0.35, abs=1e-6)
    assert found.interval_ms_cm[0] < found.ms_cm < found.interval_ms_cm[1]
    assert str(found) == f"{found.ms_cm:.3g}"


def test_the_interval_holds_the_truth_in_nine_of_ten_draws():
    """ln D off by 0.2 at each of five temperatures, draws as wide from equal seeds: an interval of 95 %."""
    rng = np.random.default_rng(1)
    truth = nernst_einstein(law(300.0), N_LI, VOLUME, 300.0)
    covered = 0
    for seed in range(100):
        points = [
            Point(t, measured(law(t) * float(np.exp(rng.normal(0, 0.2))), 0.2, seed))
            for t in (600.0, 700.0, 800.0, 900.0, 1000.0)
        ]
        low, high = conductivity_at(points, 300.0).interval_ms_cm
        covered += low <= truth <= high
    assert covered >= 90


def test_unresolved_temperatures_do_not_enter_the_fit():
    """At 300 to 500 K this law is below ten hops in 100 ps; noise there gives nine orders of magnitude at 300 K."""
    points = [Point(t, measured(1e-10)) for t in (300.0, 400.0)]
    points += [Point(t, measured(law(t))) for t in (700.0, 800.0, 900.0)]
    found = conductivity_at(points, 300.0)
    assert found.temperatures_k == (700.0, 800.0, 900.0)
    assert found.ms_cm == pytest.approx(nernst_einstein(law(300.0), N_LI, VOLUME, 300.0), rel=1e-6)
    assert found.note == ""


def test_a_fit_above_what_was_excluded_is_said():
    points = [Point(400.0, measured(1e-12)), *(Point(t, measured(law(t, 0.1))) for t in (700.0, 800.0, 900.0))]
    assert "at 400 K the fit lies above" in conductivity_at(points, 300.0).note


def test_two_resolved_temperatures_give_a_bound_and_no_number():
    points = [Point(500.0, measured(1e-9)), Point(800.0, measured(law(800.0))), Point(900.0, measured(law(900.0)))]
    found = conductivity_at(points, 300.0)
    assert (found.kind, found.temperatures_k) == ("below", (500.0,))
    limit = detection_limit(N_LI, PS, 3.0)
    assert found.ms_cm == pytest.approx(nernst_einstein(upper_hops(1e-9 / limit) * limit, N_LI, VOLUME, 300.0))
    assert str(found).startswith("below ")
    assert "2 of 3 temperatures are resolved" in found.note


def test_vibration_alone_gives_no_number_at_any_temperature():
    rng = np.random.default_rng(4)
    for _ in range(50):
        points = [Point(t, measured(10 ** rng.uniform(-16.8, -9.3))) for t in (300.0, 400.0, 500.0, 600.0, 700.0)]
        found = conductivity_at(points, 300.0)
        assert found.kind == "below"
        assert found.interval_ms_cm is None


def test_molten_at_every_temperature_is_not_resolved():
    found = conductivity_at([Point(t, None) for t in (300.0, 400.0, 500.0)], 300.0)
    assert (found.kind, found.ms_cm, str(found)) == ("not_resolved", None, "not resolved")


def test_a_bound_below_the_target_temperature_says_nothing():
    """D grows with temperature: what 300 K excludes is not excluded at 400 K."""
    found = conductivity_at([Point(300.0, measured(1e-10))], 400.0)
    assert found.kind == "not_resolved"
