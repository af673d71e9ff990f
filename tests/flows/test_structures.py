"""What counts as a structure, whatever it comes as; and as a labeled one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from pymatgen.core import Lattice, Molecule, Structure

from aqvolt_flows.errors import InputError
from aqvolt_flows.labeled import labels_as_plain, to_labeled
from aqvolt_flows.structures import to_atoms, to_structure, to_structures

LICL = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.13), ["Li", "Cl"], [[0, 0, 0], [0.5] * 3])


def test_the_same_crystal_in_every_form() -> None:
    forms = [LICL, LICL.as_dict(), LICL.to_ase_atoms(msonable=False)]
    for found in to_structures(forms):
        assert found.composition == LICL.composition
        assert np.allclose(found.lattice.matrix, LICL.lattice.matrix)
        assert np.allclose(found.cart_coords, LICL.cart_coords)
    assert len(to_structures(LICL)) == len(to_structures(forms[2])) == 1
    again = to_atoms(LICL)
    assert again.pbc.all()
    assert again.calc is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("a.cif", "A path was given as structure, 'a.cif'.*read it first"),
        (Path("b.vasp"), "A path was given as structure, 'b.vasp'"),
        (7, "is a int; expected a pymatgen Structure or ASE Atoms"),
        ({"lattice": 1}, "is a mapping that is no structure"),
        (Molecule(["H"], [[0, 0, 0]]), "is a molecule without a cell"),
        (Atoms("Ar"), "periodic in 0 of 3 directions"),
        (fcc111("Al", (1, 1, 2), vacuum=6.0), "periodic in 2 of 3 directions"),
        (Atoms(cell=np.eye(3), pbc=True), "has no atom"),
        (Structure(Lattice.cubic(4), [{"Li": 0.5, "Na": 0.5}], [[0, 0, 0]]), "partly occupied site Na:0.5, Li:0.5"),
        (Structure(Lattice.cubic(4), ["Li"], [[np.nan, 0, 0]]), "not finite"),
    ],
)  # fmt: skip
def test_what_is_none_is_named(given, message) -> None:
    with pytest.raises(InputError, match=message):
        to_structure(given)


def test_one_bad_structure_of_a_list_is_counted_from_zero() -> None:
    with pytest.raises(InputError, match="The structure 1 is a float"):
        to_structures([LICL, 2.0])
    with pytest.raises(InputError, match="The list of structures is empty"):
        to_structures([])


def test_atoms_keep_their_results_as_labels() -> None:
    argon = bulk("Ar", "fcc", a=5.3, cubic=True)
    argon.rattle(0.1, seed=1)
    argon.calc = LennardJones(sigma=3.4, epsilon=0.0104)
    energy, forces, stress = argon.get_potential_energy(), argon.get_forces(), argon.get_stress()
    (label,) = to_labeled(labels_as_plain([argon]))
    assert label.energy == energy
    np.testing.assert_array_equal(label.forces, forces)
    np.testing.assert_array_equal(label.stress, stress)


def test_what_has_no_label_is_named() -> None:
    with pytest.raises(InputError, match="The Atoms Ar carry no energy and forces"):
        labels_as_plain([bulk("Ar")])
    with pytest.raises(InputError, match="Label 0 has no energy and no forces"):
        to_labeled([{"structure": LICL, "energy": None, "forces": None}])
    with pytest.raises(InputError, match=r"Label 0 has forces of shape \(1, 3\); expected \(8, 3\)"):
        to_labeled([{"structure": LICL, "energy": 1.0, "forces": [[0, 0, 0]]}])
    with pytest.raises(InputError, match="Label 0 is a int"):
        to_labeled([3])
    bad = bulk("Ar")
    bad.calc = SinglePointCalculator(bad, energy=float("nan"), forces=np.zeros((1, 3)))
    with pytest.raises(InputError, match="not finite"):
        to_labeled([bad])
