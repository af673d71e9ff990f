"""The stand-in VASP reads its inputs as VASP does, refuses what VASP refuses, and starts fast."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from fake_vasp import physics
from fake_vasp.potcars import potcar_text
from hypothesis import given, settings
from hypothesis import strategies as st

EXECUTABLE = Path(physics.__file__).with_name("vasp_std.py")
POSCAR = """LiCl
1.0
0.0 2.565 2.565
2.565 0.0 2.565
2.565 2.565 0.0
Li Cl
1 1
direct
0 0 0
0.5 0.5 0.5
"""
INCAR = "METAGGA = R2scan\nISPIN = 2\nMAGMOM = 2*0.6\nKSPACING = 0.22\nEDIFF = 1e-5\nNELM = 200\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "POSCAR").write_text(POSCAR)
    (tmp_path / "INCAR").write_text(INCAR)
    (tmp_path / "POTCAR").write_text(potcar_text("Li") + potcar_text("Cl"))
    return tmp_path


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(EXECUTABLE)], cwd=folder, capture_output=True, text=True, check=False)


def vasprun(folder: Path):
    from pymatgen.io.vasp.outputs import Vasprun

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Vasprun(folder / "vasprun.xml", parse_potcar_file=False)


def test_it_imports_numpy_and_the_standard_library_only():
    program = (
        f"import runpy, sys; sys.path.insert(0, {str(EXECUTABLE.parent)!r})\n"
        f"runpy.run_path({str(EXECUTABLE)!r}, run_name='stand_in')\n"
        "print([m for m in ('ase', 'pymatgen', 'scipy', 'monty', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_kpoints_wins_over_kspacing(folder: Path):
    """KSPACING 0.22 and the 5.13 Å cell: |b| = 2π √3 / 5.13 Å = 2.12, so 10 divisions."""
    assert run(folder).returncode == 0
    assert vasprun(folder).kpoints.kpts[0] == (10, 10, 10)
    (folder / "KPOINTS").write_text("mesh\n0\nGamma\n3 4 5\n0 0 0\n")
    assert run(folder).returncode == 0
    assert vasprun(folder).kpoints.kpts[0] == (3, 4, 5)


def test_the_order_of_potcar_decides_what_the_atoms_are(folder: Path):
    (folder / "POTCAR").write_text(potcar_text("Cl") + potcar_text("Li"))
    done = run(folder)
    assert "overwrites the type information in POSCAR" in done.stdout
    assert [str(s) for s in vasprun(folder).atomic_symbols] == ["Cl", "Li"]


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("POTCAR", potcar_text("Cl"), "", "number of potentials on File POTCAR incompatible"),
        ("INCAR", "2*0.6", "0.6", "Error reading item 'MAGMOM'"),
        ("INCAR", "R2scan", "R3scan", "Error reading item 'METAGGA'"),
        ("INCAR", "0.22", "0", "Error reading item 'KSPACING'"),
        ("INCAR", "1e-5", "1e-5x", "Error reading item 'EDIFF'"),
        ("POSCAR", "0.5 0.5 0.5", "0 0 0", "internal error in subroutine SGRCON"),
        ("POSCAR", "0.5 0.5 0.5\n", "", "No initial positions read in"),
        ("POSCAR", "0.0 2.565 2.565\n2.565 0.0 2.565", "2.565 0.0 2.565\n0.0 2.565 2.565", "triple product"),
    ],
)
def test_it_refuses_what_vasp_refuses(folder: Path, name: str, old: str, new: str, said: str):
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))
    done = run(folder)
    assert done.returncode == 1
    assert said in done.stdout
    assert "REFUSE TO CONTINUE" in done.stdout


@settings(max_examples=15)
@given(st.integers(0, 1000), st.floats(4.5, 6.5))
def test_the_potential_is_consistent(seed: int, a: float):
    """Central differences of the energy: forces by ±10⁻⁴ Å, the stress by ±10⁻⁴ of strain."""
    rng = np.random.default_rng(seed)
    cell = a / 2 * (np.ones((3, 3)) - np.eye(3)) + 0.05 * rng.normal(size=(3, 3))
    fractional = np.array([[0, 0, 0], [0.5, 0.5, 0.5]]) + 0.02 * rng.normal(size=(2, 3))
    species, radii, atoms = ["Li", "Cl"], [0.76, 1.81], [0.0, 0.0]

    def energy(moved: np.ndarray, strained: np.ndarray) -> float:
        return physics.evaluate(strained, moved, species, radii, atoms)[0]

    _, forces, stress = physics.evaluate(cell, fractional, species, radii, atoms)
    step = 1e-4 * np.linalg.inv(cell)[0]
    up, down = (fractional + np.array([[0, 0, 0], s * step]) for s in (1, -1))
    assert forces[1, 0] == pytest.approx(-(energy(up, cell) - energy(down, cell)) / 2e-4, abs=1e-5)
    strain = np.zeros((3, 3))
    strain[0, 1] = strain[1, 0] = 1e-4
    plus, minus = (cell @ (np.eye(3) + s * strain) for s in (1, -1))
    slope = (energy(fractional, plus) - energy(fractional, minus)) / 4e-4 / abs(np.linalg.det(cell))
    assert stress[0, 1] == pytest.approx(slope, abs=1e-7)
