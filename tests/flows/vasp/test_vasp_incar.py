"""One spelling for each INCAR value, what tags are there for, and what a campaign may set."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice
from vasp_forms import CELL, MATPES, MESH, Form, write_run

from aqvolt_flows.errors import ConfigError
from aqvolt_flows.labeling.vasp import outcome_from_directory
from aqvolt_flows.vasp.incar import plain_value, theory
from aqvolt_flows.vasp.outputs import read_incar
from aqvolt_flows.vasp.settings import frozen_incar, r2scan_protocol, static_incar
from aqvolt_flows.vasp.used import mesh_of

PLAIN = r2scan_protocol().protocol_id


@pytest.mark.parametrize(
    ("tag", "spellings", "value"),
    [
        ("ENCUT", ["680", 680, 680.0, "680.", " 6.8E2 ", "6.8d2", np.float64(680)], 680.0),
        ("EDIFF", ["1E-5", "1.0D-05", 1e-5, ".00001"], 1e-5),
        ("LASPH", [".TRUE.", "T", True, ".T.", "true", "TRUE ! aspherical"], True),
        ("LREAL", [".FALSE.", "F", False], False),
        ("LREAL", ["Auto", "A", "auto # fast"], "AUTO"),
        ("LREAL", ["On", "O"], "ON"),
        ("PREC", ["A", "Accurate", "accura", "ACC"], "ACCURATE"),
        ("PREC", ["N", "Normal", "normal"], "NORMAL"),
        ("METAGGA", ["R2SCAN", "R2scan", " r2scan "], "R2SCAN"),
        ("METAGGA", ["--", "None", "", None], None),
        ("GGA", ["Pe", "PE", "pe ! comment"], "PE"),
        ("MAGMOM", ["0.6 5", [0.6, 5], (0.6, 5.0)], [0.6, 5.0]),
        ("ALGO", ["N", "Normal"], "NORMAL"),
    ],
)
def test_spellings_of_one_value_are_one(tag, spellings, value):
    for spelling in spellings:
        assert plain_value(tag, spelling) == value
        if tag not in ("METAGGA", "GGA"):
            assert theory({tag: spelling}) == theory({tag: value})


@pytest.mark.parametrize(
    "updates",
    [
        {"ENCUT": "680"},
        {"encut": 680},
        {"LREAL": ".FALSE."},
        {"PREC": "A"},
        {"METAGGA": "r2scan"},
        {"KSPACING": "0.22"},
        {"IVDW": 0},
        {"ADDGRID": ".FALSE."},
        {"NCORE": 8, "ALGO": "Normal", "NELM": 120, "SYMPREC": 1e-6, "ISTART": 1, "LWAVE": "T", "ISIF": 2},
    ],
)
def test_spellings_and_the_path_make_no_other_protocol(updates):
    assert r2scan_protocol(updates).protocol_id == PLAIN


def test_the_level_makes_another_protocol_once():
    first, second = ({"ENCUT": "800", "PREC": "n"}, {"PREC": "Normal", "ENCUT": 800.0})
    assert r2scan_protocol(first).protocol_id == r2scan_protocol(second).protocol_id != PLAIN


@pytest.mark.parametrize(
    ("updates", "said"),
    [
        ({"ICHARG": 11}, "not self-consistent"),
        ({"ICHARG": "12"}, "not self-consistent"),
        ({"ALGO": "None"}, "does not search the ground state"),
        ({"ALGO": "Eigenval"}, "does not search the ground state"),
        ({"ALGO": "GW0"}, "does not search the ground state"),
        ({"NELM": 3}, "expected at least 30"),
        ({"SYMPREC": 0.1}, "expected at most 0.0001"),
        ({"ISIF": 0}, "stress"),
        ({"ISIF": 1}, "stress"),
        ({"ML_LMLFF": ".TRUE."}, "machine-learned"),
        ({"LDAU": True}, "fixes it"),
        ({"LDAUU": [5.0]}, "fixes it"),
        ({"NBANDS": 40}, "fixes it"),
        ({"IVDW": 12}, r"makes r2SCAN\+D3\(BJ\) of r2SCAN"),
        ({"LHFCALC": True}, "of r2SCAN"),
        ({"METAGGA": "SCAN"}, "expected R2SCAN"),
        ({"ENCUT": "high"}, "no number"),
        ({"ENCUT": -5}, "above 0"),
        ({"SIGMA": float("nan")}, "no number"),
    ],
)
def test_what_makes_no_label_is_refused_by_name(updates, said):
    with pytest.raises(ConfigError, match=said) as raised:
        static_incar(updates)
    assert next(iter(updates)) in str(raised.value)
    with pytest.raises(ConfigError):
        r2scan_protocol(updates)


VALUES = st.one_of(st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.integers(), max_size=3))


@given(st.sampled_from(["ENCUT", "PREC", "LREAL", "METAGGA", "GGA", "FOO", "MAGMOM"]), VALUES)
def test_the_plain_value_is_its_own(tag, value):
    once = plain_value(tag, value)
    again = plain_value(tag, once)
    assert again == once or (isinstance(once, float) and math.isnan(once))


def test_an_incar_file_is_read_as_vasp_reads_it(tmp_path):
    """VASP wiki, INCAR: comments from # or !, several tags a line with ;, a backslash continues, the first counts."""
    text = "SYSTEM = LiCl ; ENCUT = 680 ! eV\nISMEAR=0;SIGMA = .05\nMAGMOM = 0.6 \\\n 5\n"
    text += "# METAGGA = SCAN\nENCUT = 520\nLREAL = .FALSE.\n"
    (tmp_path / "INCAR").write_text(text)
    found = read_incar(tmp_path)
    assert found == {
        "SYSTEM": "LICL", "ENCUT": 680.0, "ISMEAR": 0.0, "SIGMA": 0.05, "MAGMOM": [0.6, 5.0], "LREAL": False
    }  # fmt: skip


def test_the_mesh_of_kspacing_is_vasps():
    """GaAs of the real static (a = 5.6 Å, primitive): VASP made 9 × 9 × 9 of KSPACING 0.22."""
    assert mesh_of(np.array([[0, 2.8, 2.8], [2.8, 0, 2.8], [2.8, 2.8, 0]]), 0.22) == [(9,)] * 3
    lengths = np.array(Lattice(CELL).reciprocal_lattice.abc)
    assert mesh_of(CELL, 0.22) == [(math.ceil(x / 0.22),) for x in lengths] == [(n,) for n in MESH]


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (Form(), None),
        (Form(used={"ENMAX": 520.0}), "ENCUT: 680.0 → 520.0"),
        (Form(used={"ISMEAR": 1}), "ISMEAR: 0.0 → 1.0"),
        (Form(used={"LREAL": True}), "LREAL: False → True"),
        (Form(used={"METAGGA": "SCAN"}), "VASP used SCAN"),
        (Form(mesh=(8, 8, 8)), "k-points: 10×10×10 (KSPACING 0.22) → 8×8×8"),
        (Form(mesh=(10, 10, 10), scheme="Monkhorst-Pack"), "Gamma-centered → Monkhorst-Pack"),
        (Form(mesh=None), "a list of 2"),
    ],
)
def test_what_vasp_used_is_compared_and_not_incar_alone(tmp_path, form, said):
    """A KPOINTS file beside KSPACING, a tag that VASP did not take: INCAR is right, the run is not."""
    incar = {k: v for k, v in frozen_incar().items() if k in MATPES}
    outcome = outcome_from_directory(write_run(tmp_path, form), "f", "k", r2scan_protocol(), incar=incar)
    if said is None:
        assert (outcome.status, outcome.energy) == ("converged", -9.2)
        return
    assert (outcome.status, outcome.failure.reason) == ("failed", "protocol_changed")
    assert said in outcome.failure.message
