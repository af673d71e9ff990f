"""Units against published constants and real conventions."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units as ase_units
from ase.stress import full_3x3_to_voigt_6_stress
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aqvolt_flows import units

stresses = arrays(float, 6, elements=st.floats(-100, 100))


def test_factors_agree_with_ase():
    # ASE's own constants (CODATA 2014) agree to 1e-6.
    assert pytest.approx(1 / ase_units.GPa, rel=1e-6) == units.EV_PER_A3_IN_GPA
    assert pytest.approx(ase_units.kB, rel=1e-6) == units.KB_EV_PER_K
    assert pytest.approx(1.01325e-4, rel=1e-12) == units.ATM_IN_GPA  # definition of the atmosphere


def test_vasp_stress_changes_sign_and_scale():
    # 1602.1766 kbar is 1 eV/Å³; VASP is positive under compression, ASE under tension.
    assert units.vasp_stress_to_ase(np.array([1602.1766, 0, 0, 0, 0, 0]))[0] == pytest.approx(-1.0, rel=1e-6)


@given(stresses)
def test_stress_conversions_are_inverse(stress):
    np.testing.assert_allclose(
        units.ase_stress_to_vasp(units.vasp_stress_to_ase(stress)), stress, rtol=1e-12, atol=1e-12
    )
    np.testing.assert_allclose(units.matrix_to_voigt(units.voigt_to_matrix(stress)), stress)


@given(stresses)
def test_voigt_order_is_ases(stress):
    np.testing.assert_allclose(full_3x3_to_voigt_6_stress(units.voigt_to_matrix(stress)), stress)


def test_pressure_is_minus_a_third_of_the_trace():
    assert units.pressure_gpa(np.array([-1.0, -2.0, -3.0, 9, 9, 9])) == pytest.approx(2 * 160.21766, rel=1e-6)
    assert units.gpa_to_ev_per_a3(units.ev_per_a3_to_gpa(0.3)) == pytest.approx(0.3)
