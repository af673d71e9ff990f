"""P·V and P of PSTRESS: told from what VASP prints, taken out, refused where the files do not say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqvolt_flows.vasp.pressure import Printed, pressure_terms

#: Lines of VASP 6's OUTCAR of one step: 1000 Å³ at 1 kbar, whose P V is 1000 / 1602.17733 = 0.62415064 eV. The mean of
#: its "in kB" is (−0.26557 − 0.26404 − 0.26295) / 3 = −0.26419, its pressure beyond PSTRESS −1.26.
REAL = (
    "  external pressure =       -1.26 kB  Pullay stress =        1.00 kB\n"
    "  free  energy   TOTEN  =       -24.12709802 eV\n"
    "  enthalpy is  TOTEN    =       -23.50294738 eV   P V=        0.62415064\n"
)


@pytest.mark.parametrize(("in_xml", "held"), [(-23.50294738, True), (-24.12709802, False)])
@pytest.mark.parametrize(("pressure", "moved"), [(-0.26419, 0.0), (-1.26419, 1.0), (0.73581, -1.0)])
def test_what_vasprun_repeats_is_told_from_the_lines_of_a_real_outcar(in_xml, held, pressure, moved):
    terms = pressure_terms(1.0, [Printed(1000.0, in_xml, None, pressure)], 5, REAL)
    assert terms.doubt == ""
    assert in_xml - terms.works[0] == pytest.approx(-24.12709802, abs=1e-6)
    assert bool(terms.works[0]) is held
    assert pressure + terms.pressure == pytest.approx(-0.26419)
    assert terms.pressure == moved


def test_without_the_enthalpy_the_last_electronic_step_tells():
    """An ionic step that is P·V (16 Å³ × 100 kbar = 0.99864 eV) above its last electronic step."""
    above, level = Printed(16.0, -9.0, -9.99864, 0.0), Printed(16.0, -9.99864, -9.99864, 0.0)
    row = "external pressure = -100.00 kB  Pullay stress = 100.00 kB"
    assert pressure_terms(100.0, [above], 2, row).works[0] == pytest.approx(0.998641, abs=1e-5)
    assert pressure_terms(100.0, [level], 2, row).works == [0.0]


def test_what_cannot_be_told_is_a_doubt_where_it_matters():
    silent = Printed(16.0, -9.0, None, 0.0)
    doubt = pressure_terms(100.0, [silent], 2, "").doubt
    assert "PSTRESS 100" in doubt
    assert "P·V (0.4993 eV/atom)" in doubt
    assert "P (100 kbar)" in doubt
    between = Printed(16.0, -9.5, -9.99864, 0.0)  # half of P·V above: neither
    assert "P·V" in pressure_terms(100.0, [between], 2, "").doubt
    assert pressure_terms(1.01325e-3, [silent], 2, "").doubt == "", "1 atm weighs 1e-5 eV/atom"
    assert pressure_terms(0.0, [silent], 2, "").works == [0.0]


def test_most_steps_decide_where_one_is_strange():
    steps = [Printed(16.0, -9.0, -9.99864, 0.0)] * 5 + [Printed(16.0, -9.0, -8.0, 0.0)]
    row = "external pressure = 0.00 kB  Pullay stress = 100.00 kB\n"
    terms = pressure_terms(100.0, steps, 2, row * 6)
    assert (len(terms.works), terms.pressure, terms.doubt) == (6, 100.0, "")
    assert all(work > 0.9 for work in terms.works)


@given(
    st.floats(-2000, 2000).filter(lambda p: abs(p) > 0.5),
    st.lists(st.tuples(st.floats(5, 5000), st.floats(-1e4, 1e3), st.floats(-3000, 3000)), min_size=1, max_size=5),
    st.booleans(),
    st.sampled_from([-1, 0, 1]),
)
def test_any_run_comes_back_to_its_own_numbers(pstress, cells, held, shift):
    """Written as VASP would in any of its habits, with its digits; 1 eV/Å³ is 1602.17733 kbar to VASP."""
    steps, outcar = [], ""
    for volume, energy, pressure in cells:
        work = pstress / 1602.17733 * volume
        steps.append(Printed(volume, round(energy + work * held, 8), None, pressure + shift * pstress))
        outcar += f"  external pressure = {pressure - pstress:11.2f} kB  Pullay stress = {pstress:11.2f} kB\n"
        outcar += f"  enthalpy is  TOTEN    = {energy + work:18.8f} eV   P V= {work:18.8f}\n"
    terms = pressure_terms(pstress, steps, 4, outcar)
    assert terms.doubt == ""
    for step, work, (_, energy, pressure) in zip(steps, terms.works, cells, strict=True):
        assert step.free - work == pytest.approx(energy, abs=1e-5)
        assert step.pressure + terms.pressure == pytest.approx(pressure, abs=1e-6)


@given(st.text(max_size=300), st.floats(allow_nan=True), st.floats(allow_nan=True))
def test_nothing_in_the_files_is_a_traceback(text, free, pressure):
    terms = pressure_terms(50.0, [Printed(20.0, free, None, pressure)], 2, text + "enthalpy is TOTEN = . eV P V= -")
    assert len(terms.works) == 1
    assert np.isfinite(terms.pressure)
