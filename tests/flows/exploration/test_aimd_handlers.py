"""What custodian starts again makes the steps that are left, once counted, whichever handlers correct it."""

from __future__ import annotations

from pathlib import Path

import pytest
from custodian.custodian import Custodian
from fake_vasp.potcars import potcar_text
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp.inputs import Incar, Poscar

from aqvolt_flows.exploration.aimd_handlers import MDErrorHandler, MDFrozenHandler, go_on

pytestmark = [pytest.mark.filterwarnings("ignore::pymatgen.io.vasp.inputs.UnknownPotcarWarning")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of 400 steps that stopped in its 43rd with EDDRMM's warning."""
    rows = "".join(
        f"{n:7d} T=   600. E= -.1E+02 F= -.1E+02 E0= -.1E+02  EK= 0.1E+00 mag= 0.0000\n" for n in range(1, 43)
    )
    incar = {"NSW": 400, "POTIM": 2.0, "ALGO": "All", "RANDOM_SEED": [11, 0, 0], "KSPACING": 0.22, "MDALGO": 3}
    Incar(incar).write_file(tmp_path / "INCAR")
    for name, x in (("POSCAR", 0.0), ("CONTCAR", 0.1)):
        Poscar(Structure(Lattice.cubic(3.5), ["Li"], [[x, 0, 0]])).write_file(tmp_path / name)
    (tmp_path / "POTCAR").write_text(potcar_text("Li"))
    (tmp_path / "OSZICAR").write_text(rows)
    (tmp_path / "REPORT").write_text("  RANDOM_SEED =  11  126  0\n x\n  RANDOM_SEED =  11  252  0\n")
    (tmp_path / "vasp.out").write_text(" WARNING in EDDRMM: call to ZHEGV failed, returncode =   6  3     10\n")
    return tmp_path


def test_the_steps_that_are_left_follow_with_the_noise_that_follows(folder):
    handler = MDErrorHandler()
    assert handler.check(directory=str(folder))
    done = handler.correct(directory=str(folder))
    incar = Incar.from_file(folder / "INCAR")
    assert (incar["NSW"], incar["POTIM"], incar["RANDOM_SEED"]) == (358, 1.0, [11, 252, 0])
    assert Poscar.from_file(folder / "POSCAR").structure.frac_coords[0, 0] == pytest.approx(0.1)
    assert (folder / "error.1.tar.gz").is_file()
    assert done["errors"] == ["eddrmm"]
    assert any("NSW" in a["action"].get("_set", {}) for a in done["actions"]), "custodian.json tells it"


def test_two_handlers_count_one_run_once(folder):
    MDErrorHandler_, frozen = MDErrorHandler(), MDFrozenHandler(timeout=-1)
    for handler in (MDErrorHandler_, frozen):
        assert handler.check(directory=str(folder))
        handler.correct(directory=str(folder))
    assert Incar.from_file(folder / "INCAR")["NSW"] == 358
    (folder / "OSZICAR").write_text("      1 T=   600. E= 0\n")  # the next run made one more
    frozen.correct(directory=str(folder))
    assert Incar.from_file(folder / "INCAR")["NSW"] == 357


def test_a_run_without_a_step_starts_as_it_did(folder):
    (folder / "OSZICAR").write_text("       N       E\nCG :   1    0.1E+02\n")
    (folder / "CONTCAR").write_text("")
    MDErrorHandler().check(directory=str(folder))
    MDErrorHandler().correct(directory=str(folder))
    incar = Incar.from_file(folder / "INCAR")
    assert (incar["NSW"], incar["RANDOM_SEED"]) == (400, [11, 0, 0])
    assert go_on(folder, 0) == []


def test_a_basis_whose_orbitals_are_gone_is_made_again(folder):
    grids = {"NGX": 36, "NGY": 36, "NGZ": 40, "NGXF": 72, "NGYF": 72, "NGZF": 80}
    Incar(Incar.from_file(folder / "INCAR") | {"ISTART": 2} | grids).write_file(folder / "INCAR")
    (folder / "WAVECAR").write_text("orbitals")
    handler = MDErrorHandler()
    handler.check(directory=str(folder))
    handler.correct(directory=str(folder))  # custodian removes WAVECAR
    assert not (folder / "WAVECAR").exists()
    incar = Incar.from_file(folder / "INCAR")
    assert incar["ISTART"] == 0
    assert not set(grids) & set(incar), "the grids of the basis that is gone"


def test_unreadable_orbitals_are_not_asked_for_again(folder):
    """custodian removes a WAVECAR that VASP cannot read and starts from the same POSCAR."""
    Incar(Incar.from_file(folder / "INCAR") | {"ISTART": 2}).write_file(folder / "INCAR")
    (folder / "WAVECAR").write_text("cut short")
    (folder / "vasp.out").write_text(" ERROR: while reading WAVECAR, plane wave coefficients changed\n")
    handler = MDErrorHandler()
    assert handler.check(directory=str(folder))
    handler.correct(directory=str(folder))
    incar = Incar.from_file(folder / "INCAR")
    assert not (folder / "WAVECAR").exists()
    assert (incar["ISTART"], incar["NSW"]) == (0, 400)


def test_custodian_can_write_them_down(folder):
    for handler in (MDErrorHandler(), MDFrozenHandler()):
        again = type(handler).from_dict(handler.as_dict())
        assert type(again) is type(handler)
    assert Custodian([MDErrorHandler(), MDFrozenHandler()], [], max_errors=1) is not None
