"""Equations of state against analytic ones, ASE's fit, and a Lennard-Jones crystal."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.eos import EquationOfState
from hypothesis import given, settings
from hypothesis import strategies as st
from jobflow import run_locally

from aqvolt_flows.benchmarks import bulk_modulus
from aqvolt_flows.makers import StructureBenchmarkMaker
from aqvolt_flows.potentials.given import CalculatorRecipe
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.structures import to_structure

EV_A3_IN_GPA = 160.21766208  # CODATA 2014, as pymatgen and ASE have it to 1e-8
#: Lattice sums of fcc (Ashcroft and Mermin, table 20.2).
A12, A6 = 12.13188, 14.45392
SIGMA, EPSILON = 3.4, 0.0104


def birch_murnaghan(v: np.ndarray, e0: float, v0: float, b0: float, b1: float) -> np.ndarray:
    """Birch 1947: E = E₀ + 9V₀B₀/16 [(x − 1)³ B₁ + (x − 1)² (6 − 4x)], x = (V₀/V)^⅔."""
    x = (v0 / v) ** (2 / 3)
    return e0 + 9 * v0 * b0 / 16 * ((x - 1) ** 3 * b1 + (x - 1) ** 2 * (6 - 4 * x))


def test_volumes_are_even_in_volume_not_in_length() -> None:
    factors = bulk_modulus.volume_factors()
    np.testing.assert_allclose(np.diff(factors), 0.02)
    crystal = to_structure(bulk("Ar", a=5.26))
    copies = bulk_modulus.at_volumes(crystal, factors)
    np.testing.assert_allclose([c.volume for c in copies], crystal.volume * factors)
    np.testing.assert_allclose(copies[0].lattice.angles, crystal.lattice.angles)


@settings(deadline=None, max_examples=25)
@given(st.floats(5, 300), st.floats(0.05, 3), st.floats(2, 8), st.floats(-500, 0), st.floats(0.85, 1.15))
def test_an_exact_curve_is_recovered(v0: float, b0: float, b1: float, e0: float, off: float) -> None:
    volumes = v0 * off * bulk_modulus.volume_factors()
    fit = bulk_modulus.fit_birch_murnaghan(volumes, birch_murnaghan(volumes, e0, v0, b0, b1))
    assert isinstance(fit, bulk_modulus.Fit), fit
    assert fit.v0 == pytest.approx(v0, rel=1e-4)
    assert fit.b0_gpa == pytest.approx(b0 * EV_A3_IN_GPA, rel=1e-3)
    assert fit.b1 == pytest.approx(b1, rel=1e-2)


def argon_curve(strain: float, points: int = 21) -> tuple[np.ndarray, np.ndarray]:
    """Energies of an fcc cell whose Lennard-Jones sum goes to 10 σ."""
    a0 = 2**0.5 * SIGMA * (2 * A12 / A6) ** (1 / 6)
    crystal = to_structure(bulk("Ar", a=a0))
    copies = bulk_modulus.at_volumes(crystal, bulk_modulus.volume_factors(points, strain))
    energies = []
    for copy in copies:
        atoms = copy.to_ase_atoms(msonable=False)
        atoms.calc = LennardJones(sigma=SIGMA, epsilon=EPSILON, rc=10 * SIGMA)
        energies.append(atoms.get_potential_energy())
    return np.array([c.volume for c in copies]), np.array(energies)


def test_argon_has_its_analytic_modulus_and_ase_s_fit() -> None:
    # Ashcroft and Mermin, eq. 20.15: B = (4ε/σ³) A12 (A6/A12)^(5/2)
    analytic = 4 * EPSILON / SIGMA**3 * A12 * (A6 / A12) ** 2.5 * EV_A3_IN_GPA
    volumes, energies = argon_curve(0.05, 11)
    fit = bulk_modulus.fit_birch_murnaghan(volumes, energies)
    assert isinstance(fit, bulk_modulus.Fit)
    assert fit.b0_gpa == pytest.approx(analytic, rel=2e-3)  # the sum ends at 10 σ
    wide = bulk_modulus.fit_birch_murnaghan(*argon_curve(0.20, 9))
    assert isinstance(wide, bulk_modulus.Fit)
    assert wide.b0_gpa == pytest.approx(1.03 * analytic, rel=0.01)  # a curve of third order misses 3 % at ±20 %
    v0, e0, b0 = EquationOfState(volumes.tolist(), energies.tolist(), eos="birchmurnaghan").fit(warn=False)
    assert (fit.v0, fit.e0) == pytest.approx((v0, e0), rel=1e-7)
    assert fit.b0_gpa == pytest.approx(b0 * EV_A3_IN_GPA, rel=1e-5)


def test_bad_fits_are_failures_with_a_reason() -> None:
    volumes = 100 * bulk_modulus.volume_factors()
    good = birch_murnaghan(volumes, -10, 100, 0.3, 4)
    gaps = np.where(np.arange(21) < 7, np.nan, good)
    jagged = good + np.where(np.arange(21) % 2, 0.5, -0.5)
    cases = {
        "missing_energy": gaps,
        "outside": birch_murnaghan(volumes, -10, 160, 0.3, 4),
        "residual": jagged,
        "bad_fit": -good,  # a maximum
    }
    for said, energies in cases.items():
        found = bulk_modulus.fit_birch_murnaghan(volumes, energies)
        assert isinstance(found, Failure), said
        assert said in (found.reason, *found.message.split()), found
    few = np.where(np.arange(21) < 6, np.nan, good)
    assert isinstance(bulk_modulus.fit_birch_murnaghan(volumes, few), bulk_modulus.Fit)


def test_the_maker_relaxes_first_and_counts_apart() -> None:
    recipe = CalculatorRecipe("ase.calculators.lj:LennardJones", {"sigma": SIGMA, "epsilon": EPSILON, "rc": 12.0})
    maker = StructureBenchmarkMaker(
        model=recipe,
        benchmark="bulk-modulus",
        parameters={"n_points": 9, "max_volume_strain": 0.05, "force_tolerance_ev_per_a": 0.0005, "max_steps": 2000},
    )
    job = maker.make([bulk("Ar", a=5.4), bulk("Ar", a=30.0)])  # the second feels no force, and has no curve
    output = run_locally(job, ensure_success=True, log=False)[job.uuid][1].output
    first, second = output.rows
    # rc = 3.5 σ, cut without a shift: the sum to 10 σ is 2.0 % lower in energy
    assert first["bulk_modulus_gpa"] == pytest.approx(3.19, rel=0.05)
    assert second["failure_reason"] == "bad_fit"
    assert (output.n_items, output.n_failed) == (2, 1)
    assert output.metrics["failed_by_reason"] == {"bad_fit": 1}
    assert output.metrics["mean_bulk_modulus_gpa_computed"] == first["bulk_modulus_gpa"]
