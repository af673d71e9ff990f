"""Which number of vasprun.xml is the energy, by version and tags, beside what pymatgen and ASE read of it."""

from __future__ import annotations

import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
from pymatgen.io.vasp.outputs import Vasprun
from vasp_forms import CELL, KBAR, MATPES, VASP_KBAR, VOLUME, Form, incar, oszicar, outcar, vasprun, write_run

from aqvolt_flows.vasp.outputs import read_calculation
from aqvolt_flows.vasp.steps import ionic_step, terms_of
from aqvolt_flows.vasp.vasprun import VasprunReader

REAL = Path(__file__).with_name("gaas_r2scan_static") / "vasprun.xml.gz"
#: What VASP 5.4.4 prints of a metal (Fe, Methfessel-Paxton): e_0_energy is an entropy term; e_wo_entrp is E₀.
OLD = {"e_fr_energy": -9.25, "e_wo_entrp": -9.20, "e_0_energy": 0.10}
DISPERSION = {"e_fr_energy": -9.25 - 0.88, "e_wo_entrp": -9.15 - 0.88, "e_0_energy": -9.20 - 0.88}
#: p·V of 5 kbar, eV.
WORK = 5.0 * VOLUME / VASP_KBAR
ENTHALPY = {k: v + WORK for k, v in {"e_fr_energy": -9.25, "e_wo_entrp": -9.15, "e_0_energy": -9.20}.items()}
PERMUTED = {"e_fr_energy": -9.20, "e_wo_entrp": -9.25, "e_0_energy": -9.15}


def pymatgen_energy(path: Path) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(Vasprun(path, parse_dos=False, parse_eigen=False, parse_potcar_file=False).final_energy)


def written(folder: Path, form: Form) -> Path:
    path = folder / "vasprun.xml"
    path.write_text(vasprun(form))
    return path


@pytest.mark.parametrize(
    ("form", "zero", "free", "readers"),
    [
        (Form(), -9.20, -9.25, ("pymatgen", "ase")),
        (Form("5.4.4.18Apr17-6-g9f103f2a35", ionic=OLD), -9.20, -9.25, ("pymatgen", "ase")),
        (Form("6.0.8", ionic=OLD), -9.20, -9.25, ("pymatgen", "ase")),
        (Form("5.2.2", zero=-9.25, without=-9.25, ionic=OLD | {"e_0_energy": 0.0}), -9.25, -9.25, ("pymatgen", "ase")),
        (Form(incar=MATPES | {"IVDW": 12}, ionic=DISPERSION), -10.08, -10.13, ("pymatgen", "ase")),
        # pymatgen calls the enthalpy an energy
        (Form(incar=MATPES | {"PSTRESS": 5.0}, ionic=ENTHALPY), -9.20, -9.25, ("ase",)),
        (Form(incar=MATPES | {"PSTRESS": 5.0}), -9.20, -9.25, ("pymatgen",)),
        # forms in which pymatgen and ASE add the entropy twice: the electronic step says what each number is
        (Form("6.1.1", ionic=PERMUTED), -9.20, -9.25, ()),
    ],
)
def test_the_energy_is_that_of_the_last_electronic_step(tmp_path, form, zero, free, readers):
    path = written(tmp_path, form)
    reader = VasprunReader(path)
    (raw,) = reader.steps()
    terms = terms_of([raw], reader.header, outcar=outcar(form))
    step = ionic_step(raw, reader.header, work=terms.works[0], pressure=terms.pressure)
    assert step.energy == pytest.approx(zero, abs=2e-8)
    assert step.free_energy == pytest.approx(free, abs=2e-8)
    assert step.stress[2] == pytest.approx(-30.0 / KBAR)
    assert step.positions[1] == pytest.approx(np.array([0.5, 0.5, 0.5]) @ CELL)
    if "pymatgen" in readers:
        assert step.energy == pytest.approx(pymatgen_energy(path), abs=2e-8)
    if "ase" in readers:
        atoms = ase.io.read(path, format="vasp-xml")
        assert step.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-7)  # its eV has 9 digits
        assert step.free_energy == pytest.approx(atoms.calc.results["free_energy"], abs=1e-7)
        np.testing.assert_allclose(step.forces, atoms.get_forces())
        theirs = atoms.get_stress() - np.array([1, 1, 1, 0, 0, 0]) * form.pstress / KBAR  # ASE has it as printed
        np.testing.assert_allclose(step.stress, theirs, atol=1e-8)


@pytest.mark.parametrize(
    ("form", "reason", "said"),
    [
        (Form(ionic=DISPERSION), "energy_mismatch", "-0.880000 eV from that of its last electronic step, and INCAR"),
        (Form(ionic=OLD), "energy_mismatch", "9.350000 eV in the ionic step and 0.050000 eV in its last electronic"),
        (Form("5.4.4", scf=0, ionic=OLD), "energy_mismatch", "VASP 5.4.4 prints another quantity as e_0_energy"),
        (Form(stress=False), "no_stress", "ISIF = 0"),
        (Form(forces=False), "no_forces", "no forces"),
        (Form("6.1.2"), "old_vasp", "VASP 6.1.2 knows r2SCAN only if it was patched; expected 6.2.0 or later"),
        (Form(titles=("PAW Li 17Jan2003", "PAW Cl 17Jan2003")), "protocol_changed", "its POTCARs are of LDA"),
    ],
)
def test_what_contradicts_is_refused_with_its_reason(tmp_path, form, reason, said):
    if not form.scf:
        form.incar = {k: v for k, v in MATPES.items() if k != "METAGGA"}
    found = read_calculation(write_run(tmp_path, form))
    assert (found.failure.reason, found.converged) == (reason, False)
    assert said in found.failure.message


@pytest.mark.parametrize("name", ["OUTCAR", "OSZICAR"])
def test_files_of_one_run_that_name_two_energies_are_refused(tmp_path, name):
    other = Form(free=-9.26)
    text = {"OUTCAR": outcar, "OSZICAR": oszicar}[name](other)
    found = read_calculation(write_run(tmp_path, Form(), **{name: text}))
    assert found.failure.reason == "energy_mismatch"
    assert f"F is -9.250000 eV in vasprun.xml and -9.260000 eV in {name}" in found.failure.message
    assert read_calculation(write_run(tmp_path, Form(), **{name: ""})).failure is None or name == "OUTCAR"


def test_numbers_that_vasp_could_not_print_are_no_result(tmp_path):
    text = vasprun(Form()).replace("      0.10000000 </v>", " ************** </v>", 1)
    assert "****" in text
    found = read_calculation(write_run(tmp_path, Form(), vasprun__xml=text))
    assert np.isnan(found.steps[0].forces).any()


def test_nelm_is_that_of_the_scf_and_not_of_the_response_functions(tmp_path):
    """VASP lists NELM twice; the second, 1, is of linear response (real files of 5.2 to 6.4)."""
    found = read_calculation(write_run(tmp_path, Form(scf=9)))
    assert (found.nelm, found.converged) == (200, True)
    assert not read_calculation(write_run(tmp_path, Form(scf=200))).converged


def test_the_real_file_is_what_pymatgen_and_ase_read():
    """GaAs, VASP 6.4.1, r2SCAN; all numbers, the gap included."""
    reader = VasprunReader(REAL, eigenvalues=True)
    (raw,) = reader.steps()
    step = ionic_step(raw, reader.header)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = Vasprun(REAL, parse_dos=False, parse_potcar_file=False)
    atoms = ase.io.read(REAL, format="vasp-xml")
    assert step.energy == float(theirs.final_energy) == atoms.get_potential_energy()
    np.testing.assert_array_equal(step.forces, theirs.ionic_steps[-1]["forces"])
    np.testing.assert_array_equal(raw.stress, theirs.ionic_steps[-1]["stress"])
    np.testing.assert_allclose(step.stress, atoms.get_stress(), atol=1e-9)
    np.testing.assert_allclose(step.positions, atoms.positions, atol=1e-12)
    assert reader.bandgap() == pytest.approx(theirs.eigenvalue_band_properties[0], abs=1e-9)
    head = reader.header
    assert head.symbols == [str(s) for s in theirs.atomic_symbols]
    assert head.titles == theirs.potcar_symbols
    assert list(head.kpoints.divisions) == list(theirs.kpoints.kpts[0])
    assert head.parameters["ENMAX"] == theirs.parameters["ENMAX"] == 680.0


def test_a_file_that_is_cut_keeps_its_whole_steps(tmp_path):
    form = Form(steps=4)
    text = vasprun(form)
    cut = text.index("<calculation>", text.index("<calculation>", text.index("<calculation>") + 5) + 5) + 300
    path = tmp_path / "vasprun.xml"
    path.write_text(text[:cut])
    reader = VasprunReader(path)
    steps = [ionic_step(raw, reader.header) for raw in reader.steps()]
    assert [s.energy for s in steps] == pytest.approx([-9.20, -9.199])
    assert "damaged or cut short" in reader.problem
    found = read_calculation(write_run(tmp_path / "run", form, vasprun__xml=text[:cut]), partial=True)
    assert len(found.steps) == 2


def test_a_bad_step_keeps_the_steps_before_it(tmp_path):
    form = Form(steps=3)
    before, energy, after = vasprun(form).rpartition("<energy>")
    text = before + energy + after.replace("-9.24800000", "-7.24800000")
    found = read_calculation(write_run(tmp_path, form, vasprun__xml=text, INCAR=incar(MATPES)), partial=True)
    assert found.failure.reason == "energy_mismatch"
    assert [s.energy for s in found.steps] == pytest.approx([-9.20, -9.199])
