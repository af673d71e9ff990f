"""OUTCAR and OSZICAR beside ASE, and readers on damaged files: no traceback, and the steps before the damage stay."""

from __future__ import annotations

import gzip
import math
import shutil
from pathlib import Path

import ase.io
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vasp_forms import MESH, TITLES, Form, oszicar, outcar, vasprun

from aqvolt_flows.vasp.outcar import OutcarReader
from aqvolt_flows.vasp.outputs import ionic_energies, temperatures_in
from aqvolt_flows.vasp.steps import SourcesDisagreeError, ionic_step
from aqvolt_flows.vasp.vasprun import VasprunReader

REAL = Path(__file__).with_name("gaas_r2scan_static")
STEPS = 3
FORM = Form(steps=STEPS, scf=4)
VASPRUN, OUTCAR, OSZICAR = (
    vasprun(FORM).encode(),
    outcar(FORM).encode(),
    oszicar(FORM, ["300.", "310.", "320."]).encode(),
)
MANY = settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
#: Where to cut out, and what to put in.
DAMAGE = st.tuples(
    st.floats(0, 1), st.integers(0, 400), st.binary(max_size=12) | st.sampled_from([b"********", b"NaN", b"<", b"-"])
)


def damaged(data: bytes, damage: tuple[float, int, bytes], start: int = 0) -> bytes:
    at = start + int(damage[0] * (len(data) - start))
    return data[:at] + damage[2] + data[at + damage[1] :]


def energies(reader):
    """Return E₀ of the steps that are whole and do not contradict themselves."""
    found = []
    for raw in reader.steps():
        try:
            found.append(ionic_step(raw, reader.header).energy)
        except SourcesDisagreeError:
            found.append(None)
    return found


def test_the_real_outcar_is_what_ase_reads():
    """GaAs, VASP 6.4.1; OUTCAR prints fewer digits than vasprun.xml: 10⁻⁵ Å, 10⁻⁶ eV/Å."""
    reader = OutcarReader(REAL / "OUTCAR.gz")
    (raw,) = reader.steps()
    step = ionic_step(raw, reader.header)
    with gzip.open(REAL / "OUTCAR.gz", "rt") as text:
        atoms = ase.io.read(text, format="vasp-out")
    assert step.energy == atoms.get_potential_energy() == -27.04397986
    assert step.scf_steps == 12
    np.testing.assert_allclose(step.forces, atoms.get_forces())
    np.testing.assert_allclose(step.stress, atoms.get_stress(), atol=1e-8)
    np.testing.assert_allclose(step.positions, atoms.positions, atol=1e-9)
    assert (reader.header.version, reader.header.symbols) == ("6.4.1", ["Ga", "As"])
    assert reader.header.titles == ["PAW_PBE Ga_d 06Jul2010", "PAW_PBE As 22Sep2009"]
    assert reader.header.parameters["METAGGA"] == "R2SCAN"
    assert (reader.header.incar["KSPACING"], reader.header.parameters["ENCUT"]) == (0.22, 680.0)


def test_outcar_and_vasprun_of_a_run_are_the_same_labels(tmp_path):
    (tmp_path / "vasprun.xml").write_bytes(VASPRUN)
    (tmp_path / "OUTCAR.gz").write_bytes(gzip.compress(OUTCAR))
    readers = VasprunReader(tmp_path / "vasprun.xml"), OutcarReader(tmp_path / "OUTCAR.gz")
    one, other = ([ionic_step(raw, r.header) for raw in r.steps()] for r in readers)
    assert len(one) == len(other) == STEPS
    for left, right in zip(one, other, strict=True):
        assert (left.energy, left.free_energy, left.scf_steps) == (right.energy, right.free_energy, right.scf_steps)
        np.testing.assert_allclose(left.stress, right.stress, atol=1e-8)
        np.testing.assert_allclose(left.forces, right.forces, atol=1e-6)
        np.testing.assert_allclose(left.positions, right.positions, atol=1e-5)
    for reader in readers:
        assert (reader.header.titles, reader.header.kpoints.divisions) == (list(TITLES), MESH)


def test_the_energy_beside_one_without_dispersion_is_the_first(tmp_path):
    """VASP with vdW prints both on a line (OUTCAR of Ge, VASP 5.4.4)."""
    text = outcar(Form()).replace(
        "-9.25000000 eV\n\n  energy  ", "-9.25000000 eV    w/o vdW =       -8.00000000 eV\n\n  energy  "
    )
    text = text.replace(
        "entropy=       -9.15000000  energy", "entropy=       -9.15000000 eV    w/o vdW =       -8.10000000  energy"
    )
    assert text.count("w/o vdW") == 2
    (tmp_path / "OUTCAR").write_text(text)
    assert energies(OutcarReader(tmp_path / "OUTCAR")) == [-9.20]


def test_a_temperature_of_stars_moves_no_other():
    """OSZICAR has five places for T; a run that explodes prints stars."""
    text = oszicar(Form(steps=4), ["300.", "******", "9000.", "290.5"])
    found = temperatures_in(text)
    assert math.isnan(found[1])
    assert (found[0], found[2], found[3]) == (300.0, 9000.0, 290.5)
    assert ionic_energies("", text)["OSZICAR"][3] == pytest.approx((-9.247, -9.197))


@MANY
@given(DAMAGE)
def test_a_damaged_vasprun_keeps_the_steps_before_it(tmp_path_factory, damage):
    start = VASPRUN.index(b"<calculation>", VASPRUN.index(b"<calculation>", VASPRUN.index(b"<calculation>") + 1) + 1)
    folder = tmp_path_factory.mktemp("v")
    path = folder / "vasprun.xml"
    path.write_bytes(damaged(VASPRUN, damage))
    energies(VasprunReader(path, eigenvalues=True))
    path.write_bytes(damaged(VASPRUN, damage, start))
    assert energies(VasprunReader(path))[:2] == pytest.approx([-9.20, -9.199])
    shutil.rmtree(folder)


@MANY
@given(DAMAGE)
def test_a_damaged_outcar_keeps_the_steps_before_it(tmp_path_factory, damage):
    start = OUTCAR.rindex(b"Iteration      3(   1)")
    folder = tmp_path_factory.mktemp("o")
    path = folder / "OUTCAR"
    path.write_bytes(damaged(OUTCAR, damage))
    energies(OutcarReader(path))
    path.write_bytes(damaged(OUTCAR, damage, start))
    assert energies(OutcarReader(path))[:2] == pytest.approx([-9.20, -9.199])
    shutil.rmtree(folder)


@MANY
@given(DAMAGE)
def test_a_damaged_oszicar_keeps_the_steps_before_it(damage):
    temperatures_in(damaged(OSZICAR, damage).decode(errors="replace"))
    ionic_energies("", damaged(OSZICAR, damage).decode(errors="replace"))
    start = OSZICAR.index(b"\n", OSZICAR.index(b"310.")) + 1
    assert temperatures_in(damaged(OSZICAR, damage, start).decode(errors="replace"))[:2] == [300.0, 310.0]


@pytest.mark.parametrize(
    "data", [b"", b"<", b"\x1f\x8b", gzip.compress(VASPRUN)[:200], b"\x00" * 100, b"Fake OUTCAR file"]
)
def test_what_is_no_output_of_vasp_says_so(tmp_path, data):
    for reader in (VasprunReader, OutcarReader):
        path = tmp_path / reader.__name__
        path.write_bytes(data)
        assert energies(reader(path)) == []
