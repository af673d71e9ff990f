"""What models that were trained must satisfy wherever they are loaded: symmetries, size, derivatives, both interfaces.

The weights are random (eSEN) or those that fine-tunings start from (SevenNet): the checks are about the loading and
about the network, not about what it learned.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from saved_models import save_esen
from scipy.spatial.transform import Rotation

from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials import load_potential
from aqvolt_flows.potentials.checkpoints import checkpoint_sha256
from aqvolt_flows.potentials.fairchem import choose_task
from aqvolt_flows.units import matrix_to_voigt

pytestmark = pytest.mark.slow
#: Energies per element of the eSEN, eV.
REFERENCES = {3: -3.0, 17: -4.0}
H = 1e-3


def sevennet(_folder: Path) -> str:
    import sevenn

    weights = Path(sevenn.__file__).parent / "pretrained_potentials/SevenNet_MF_0/checkpoint_sevennet_mf_0.pth"
    return f"sevennet:{weights}#R2SCAN@sha256:{checkpoint_sha256(weights)}"


def esen(folder: Path) -> str:
    return save_esen(folder / "inference_ckpt.pt", REFERENCES, scale=3.0)


@pytest.fixture(scope="module", params=[esen, sevennet], ids=["esen", "sevennet"])
def model(request, tmp_path_factory) -> str:
    make: Callable[[Path], str] = request.param
    return make(tmp_path_factory.mktemp("model"))


def rattled() -> Atoms:
    atoms = bulk("LiCl", "rocksalt", a=5.2, cubic=True)
    atoms.rattle(0.12, seed=1)
    return atoms


def strained(atoms: Atoms, strain: np.ndarray) -> Atoms:
    copy = atoms.copy()
    copy.set_cell(atoms.cell[:] @ (np.eye(3) + strain), scale_atoms=True)
    return copy


ROTATION = Rotation.from_euler("xyz", [0.3, 1.1, -0.7]).as_matrix()
ORDER = [5, 0, 7, 2, 1, 6, 3, 4]
MOVED = [(0, 0), (2, 1), (5, 2)]
STRAINS = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]


def systems() -> dict[str, Atoms]:
    """Every structure that the checks below look at, so that each precision needs one batch."""
    found = {"here": rattled(), "doubled": rattled().repeat((2, 1, 1))}
    turned = rattled()
    turned.set_cell(turned.cell[:] @ ROTATION.T, scale_atoms=True)
    found["turned"] = turned
    shifted = rattled()
    shifted.positions += [0.7, -1.3, 2.9]
    found["shifted"] = shifted
    found["permuted"] = rattled()[ORDER]
    outside = rattled()
    outside.positions += np.arange(8)[:, None] % 3 * outside.cell[0] - 2 * outside.cell[2]
    found["outside"] = outside
    for sign in (1, -1):
        for atom, axis in MOVED:
            copy = rattled()
            copy.positions[atom, axis] += sign * H
            found[f"{atom}{axis}{sign}"] = copy
        for i, j in STRAINS:
            strain = np.zeros((3, 3))
            strain[i, j] += sign * H / 2
            strain[j, i] += sign * H / 2
            found[f"strain{i}{j}{sign}"] = strained(rattled(), strain)
    return found


@pytest.fixture(scope="module")
def found(model: str) -> dict[str, Any]:
    """Evaluations in double precision."""
    structures = systems()
    potential = load_potential(model, dtype="float64")
    return dict(zip(structures, potential.evaluate(list(structures.values()), 64), strict=True))


def test_forces_are_minus_the_gradient(found):
    """Central differences: an error of h² F''/6, below 1e-4 eV/Å for h = 0.001 Å."""
    slopes = [(found[f"{a}{x}1"].energy - found[f"{a}{x}-1"].energy) / (2 * H) for a, x in MOVED]
    assert np.abs(found["here"].forces).max() > 0.02, "else the comparison would say nothing"
    assert [-found["here"].forces[a, x] for a, x in MOVED] == pytest.approx(slopes, abs=1e-4)


def test_the_stress_is_the_strain_derivative(found):
    slopes = [(found[f"strain{i}{j}1"].energy - found[f"strain{i}{j}-1"].energy) / (2 * H) for i, j in STRAINS]
    assert np.abs(found["here"].stress).max() > 1e-3
    assert list(found["here"].stress) == pytest.approx([s / rattled().get_volume() for s in slopes], abs=2e-5)


def test_twice_the_cell_is_twice_the_energy(found):
    here, doubled = found["here"], found["doubled"]
    assert doubled.energy == pytest.approx(2 * here.energy, abs=1e-5)
    np.testing.assert_allclose(doubled.forces, np.tile(here.forces, (2, 1)), atol=1e-5)
    np.testing.assert_allclose(doubled.stress, here.stress, atol=1e-6)


def test_a_turned_crystal_has_turned_forces_and_stress(found):
    here, turned = found["here"], found["turned"]
    assert turned.energy == pytest.approx(here.energy, abs=1e-5)
    np.testing.assert_allclose(turned.forces, here.forces @ ROTATION.T, atol=1e-5)
    full = here.stress[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
    expected = matrix_to_voigt(ROTATION @ full @ ROTATION.T)
    np.testing.assert_allclose(turned.stress, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["shifted", "outside"])
def test_where_the_atoms_are_told_to_be_does_not_matter(found, name):
    """A translation, and atoms written outside of their cell."""
    here, other = found["here"], found[name]
    assert other.energy == pytest.approx(here.energy, abs=1e-5)
    np.testing.assert_allclose(other.forces, here.forces, atol=1e-5)
    np.testing.assert_allclose(other.stress, here.stress, atol=1e-6)


def test_the_order_of_the_atoms_does_not_matter(found):
    here, permuted = found["here"], found["permuted"]
    assert permuted.energy == pytest.approx(here.energy, abs=1e-5)
    np.testing.assert_allclose(permuted.forces, here.forces[ORDER], atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # of the packages that are compared with
def test_the_package_s_own_calculator_agrees(model, found):
    """Independent: fairchem's and sevenn's ASE calculators with their own graphs, in single precision."""
    atoms = rattled()
    atoms.calc = load_potential(model).ase_calculator()
    here = found["here"]
    assert atoms.get_potential_energy() == pytest.approx(here.energy, abs=1e-3)
    np.testing.assert_allclose(atoms.get_forces(), here.forces, atol=2e-3)
    np.testing.assert_allclose(atoms.get_stress(), here.stress, atol=2e-4)


def test_the_task_comes_from_the_checkpoint(tmp_path: Path):
    """Two tasks are two levels of theory: none is chosen in silence, each is loaded by its name."""
    string = save_esen(tmp_path / "two.pt", REFERENCES, task="oc20")
    with pytest.raises(InputError, match=r"has the tasks omat, oc20 and none was named; name one as in .*two.pt#omat"):
        load_potential(string).evaluate([rattled()])
    with pytest.raises(InputError, match="and not 'odac'"):
        load_potential(string.replace("@", "#odac@")).evaluate([rattled()])
    for task in ("omat", "oc20"):
        potential = load_potential(string.replace("@", f"#{task}@"))
        (found,) = potential.evaluate([rattled()])
        assert potential.task == potential.calculator().task_name == task
        assert np.isfinite(found.energy)
        assert potential.elements == {3, 17}


def test_a_checkpoint_without_a_task_says_so():
    with pytest.raises(InputError, match=r"x.pt has no task and none was named; give an inference_ckpt.pt"):
        choose_task(Path("x.pt"), [], None)
