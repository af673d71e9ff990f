"""The E–V scan against curves whose order is known analytically."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import given
from hypothesis import strategies as st

from aqvolt_flows.benchmarks import ev_scan
from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials import Evaluation, load_potential

V0 = 40.0
STRAINS = ev_scan.linear_strains()
VOLUMES = V0 * (1 + STRAINS) ** 3


def morse(volumes: np.ndarray, depth: float = 3.0, alpha: float = 2.5, r0: float = 1.0) -> np.ndarray:
    """A Morse bond whose length follows the cube root of the volume; its minimum is at V0."""
    r = (volumes / V0) ** (1 / 3) * r0
    return depth * (1 - np.exp(-alpha * (r - r0))) ** 2 - depth


def cubic(a: float) -> Atoms:
    return Atoms("LiCl", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=np.eye(3) * a, pbc=True)


def evaluation(energy: float, n_atoms: int = 2) -> Evaluation:
    return Evaluation(energy, np.zeros((n_atoms, 3)), np.zeros(6))


def test_strains_and_volumes_are_the_benchmark_s() -> None:
    assert len(STRAINS) == 21
    np.testing.assert_allclose(STRAINS[[0, 10, 20]], [-0.2, 0.0, 0.2], atol=1e-15)
    atoms = cubic(3.0)
    copies = ev_scan.strained(atoms, STRAINS)
    np.testing.assert_allclose([c.get_volume() for c in copies], 27.0 * (1 + STRAINS) ** 3)
    np.testing.assert_allclose(copies[0].get_scaled_positions(), atoms.get_scaled_positions(), atol=1e-12)
    np.testing.assert_allclose(atoms.cell.array, np.eye(3) * 3.0)


@pytest.mark.parametrize(
    "energies", [morse(VOLUMES), STRAINS**2, (VOLUMES - V0) ** 2], ids=["morse", "strain2", "volume2"]
)
def test_a_single_well_has_the_ideal_values(energies: np.ndarray) -> None:
    scan = ev_scan.analyze_curve(VOLUMES, energies)
    assert scan.spearman["compression_energy"] == pytest.approx(-1.0)
    assert scan.spearman["compression_derivative"] == pytest.approx(1.0)
    assert scan.spearman["tension_energy"] == pytest.approx(1.0)
    assert (scan.flips, scan.failure) == (1, None)
    assert scan.tortuosity == pytest.approx(1.0)


def test_the_tension_derivative_of_morse_falls_beyond_its_inflection() -> None:
    # A Morse bond is softest beyond r = r0 + ln2/alpha; with alpha = 5 that lies at strain 0.14, inside the scan.
    soft = ev_scan.analyze_curve(VOLUMES, morse(VOLUMES, alpha=5.0))
    stiff = ev_scan.analyze_curve(VOLUMES, STRAINS**2)
    assert soft.failure is None
    assert soft.spearman["tension_derivative"] < 1.0
    assert stiff.spearman["tension_derivative"] == pytest.approx(1.0)


def test_points_are_sorted_by_volume_first() -> None:
    shuffled = np.random.default_rng(3).permutation(21)
    scan = ev_scan.analyze_curve(VOLUMES[shuffled], morse(VOLUMES)[shuffled])
    assert scan.failure is None
    assert np.all(np.diff(scan.volumes) > 0)


def test_two_minima_fail() -> None:
    scan = ev_scan.analyze_curve(VOLUMES, (STRAINS**2 - 0.01) ** 2)
    assert scan.flips == 3
    assert scan.failure is not None
    assert scan.failure.reason == "flips"
    # split at the fixed middle, the local maximum: outer wall falls, inner wall rises again on the compressed side
    assert -1.0 < scan.spearman["compression_energy"] < 0.0


def test_a_monotonic_curve_and_a_maximum_fail() -> None:
    falling = ev_scan.analyze_curve(VOLUMES, -STRAINS)
    assert (falling.flips, falling.failure.reason) == (0, "flips")
    maximum = ev_scan.analyze_curve(VOLUMES, -(STRAINS**2))
    assert (maximum.flips, maximum.failure.reason) == (1, "no_minimum")


def test_flat_steps_do_not_flip() -> None:
    energies = STRAINS**2
    energies[11] = energies[10]
    assert ev_scan.analyze_curve(VOLUMES, energies).flips == 1


@given(st.floats(0.5, 6.0), st.floats(0.1, 20.0), st.integers(2, 20))
def test_order_depends_on_no_scale(alpha: float, depth: float, half: int) -> None:
    strains = ev_scan.linear_strains(2 * half + 1)
    volumes = V0 * (1 + strains) ** 3
    one = ev_scan.analyze_curve(volumes, morse(volumes, 1.0, alpha))
    other = ev_scan.analyze_curve(volumes, morse(volumes, depth, alpha))
    assert one.spearman == other.spearman
    assert one.failure is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_missing_energy_is_a_failure_in_every_denominator(bad: float) -> None:
    energies = morse(VOLUMES)
    good = ev_scan.analyze_curve(VOLUMES, energies)
    broken = energies.copy()
    broken[4] = bad
    missing = ev_scan.analyze_curve(VOLUMES, broken)
    assert missing.failure.reason == "missing_energy"
    assert missing.flips is None
    metrics = ev_scan.aggregate([good, good, good, missing])
    assert metrics["failed_percent"] == pytest.approx(25.0)
    assert metrics["spearman_compression_energy"] == pytest.approx(-0.75)
    assert metrics["spearman_compression_energy_computed"] == pytest.approx(-1.0)
    assert metrics["n_computed"] == 3
    assert metrics["failed_by_reason"] == {"missing_energy": 1}


def test_an_empty_set_has_no_means() -> None:
    metrics = ev_scan.aggregate([])
    assert metrics["failed_percent"] is None
    assert metrics["spearman_tension_energy"] is None


def test_one_structure_that_raises_costs_one_structure() -> None:
    good, bad = cubic(V0 ** (1 / 3)), Atoms("He", cell=np.eye(3) * 3.0, pbc=True)
    calls: list[int] = []

    def evaluate(systems):
        calls.append(len(systems))
        if any("He" in s.get_chemical_symbols() for s in systems):
            raise ValueError("no parameters for He")
        return [evaluation(float(morse(np.array(s.get_volume())))) for s in systems]

    scans = ev_scan.scan_structures(evaluate, [good, bad, good])
    assert [s.failure.reason if s.failure else None for s in scans] == [None, "missing_energy", None]
    assert "no parameters for He" in scans[1].failure.message
    np.testing.assert_allclose(scans[0].energies, scans[2].energies)


def test_a_scan_needs_points_and_a_strain() -> None:
    with pytest.raises(InputError, match="at least 5"):
        ev_scan.linear_strains(3)
    with pytest.raises(InputError, match="between 0 and 1"):
        ev_scan.linear_strains(21, 1.5)


def test_an_element_that_the_model_does_not_know_is_coverage_not_failure() -> None:
    asked = []

    def evaluate(systems):
        asked.extend(systems)
        return [evaluation(float(morse(np.array([s.get_volume()]))[0])) for s in systems]

    xenon = Atoms("Xe", cell=np.eye(3) * 3.4, pbc=True)
    scans = ev_scan.scan_structures(evaluate, [cubic(V0 ** (1 / 3)), xenon], elements={3, 17})
    assert len(asked) == 21, "what is not covered is not computed"
    assert scans[1].failure.reason == "not_covered"
    assert "Xe" in scans[1].failure.message
    found = ev_scan.aggregate(scans)
    assert (found["n_covered"], found["coverage_percent"], found["failed_percent"]) == (1, 50.0, 0.0)
    assert found["spearman_compression_energy"] == pytest.approx(-1.0), "it is in no denominator"


def test_missing_energies_are_zero_in_one_mean_and_left_out_of_the_other() -> None:
    whole = ev_scan.analyze_curve(VOLUMES, morse(VOLUMES))
    torn = ev_scan.analyze_curve(VOLUMES, np.where(np.arange(21) == 3, np.nan, morse(VOLUMES)))
    found = ev_scan.aggregate([whole, torn])
    assert found["spearman_compression_energy"] == pytest.approx(-0.5)
    assert found["spearman_compression_energy_computed"] == pytest.approx(-1.0)  # MLIP Arena's mean


@pytest.mark.parametrize("model", ["chgnet/r2scan", "7net-mf-0/R2SCAN"])
def test_a_curve_is_that_of_the_model_s_own_calculator(model: str) -> None:
    potential = load_potential(model)
    crystals = [cubic(3.2), bulk("LiF", "rocksalt", a=4.0)]
    scans = ev_scan.scan_structures(potential.evaluate, crystals, 5)
    for atoms, scan in zip(crystals, scans, strict=True):
        for copy, energy in zip(ev_scan.strained(atoms, ev_scan.linear_strains(5)), scan.energies, strict=True):
            copy.calc = potential.ase_calculator()
            assert energy == pytest.approx(copy.get_potential_energy(), abs=1e-5 * len(atoms))
