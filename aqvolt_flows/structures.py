"""What makers take as structures: pymatgen Structures and ASE Atoms, checked before anything is computed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from pymatgen.core import IMolecule, IStructure, Molecule, Structure

from aqvolt_flows.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

_EXPECTED = "expected a pymatgen Structure or ASE Atoms"


def to_structure(given: Any, name: str = "structure", disordered: bool = False) -> Structure:
    """Return a structure, checked; the order of the sites is kept.

    Parameters
    ----------
    given
        pymatgen Structure, its ``as_dict()``, or ASE Atoms, periodic in three directions, every site occupied by one
        element.
    name
        What it is called in messages.
    disordered
        Whether sites may be partly occupied.

    Raises
    ------
    InputError
        If it is something else (a path, a number), has partial occupancy, no cell, no atom, or numbers that are not
        finite.
    """
    structure = _read(given, name)
    formula = _formula(structure)
    if not len(structure):
        raise InputError(f"The {name} has no atom; {_EXPECTED} with at least one.")
    if not structure.is_ordered and not disordered:
        site = next(s for s in structure if not s.is_ordered)
        raise InputError(
            f"The {name} {formula} has the partly occupied site {site.species_string}; expected one element a site: "
            "choose an ordering first, e.g. with pymatgen's OrderDisorderedStructureTransformation."
        )
    if not (np.isfinite(structure.cart_coords).all() and np.isfinite(structure.lattice.matrix).all()):
        raise InputError(f"The {name} {formula} has coordinates or a cell that are not finite; correct it.")
    if not all(structure.lattice.pbc):
        axes = sum(structure.lattice.pbc)
        raise InputError(
            f"The {name} {formula} is periodic in {axes} of 3 directions; expected a crystal: "
            "potentials here compute it as if it were periodic in all."
        )
    if structure.volume < 1e-6:
        raise InputError(f"The {name} {formula} has a cell of no volume; expected three independent vectors, in Å.")
    return structure


def to_structures(given: Any, name: str = "structures", disordered: bool = False) -> list[Structure]:
    """Return structures, checked, in order; one alone is a list of one.

    Raises
    ------
    InputError
        If there is none, or as :func:`to_structure`; the message counts from 0.
    """
    if isinstance(given, str | PurePath | bytes) or not isinstance(given, Iterable) or _is_one(given):
        return [to_structure(given, disordered=disordered)]
    found = list(given)
    if not found:
        raise InputError(f"The list of {name} is empty; {_EXPECTED}, or a list of them.")
    return [to_structure(one, f"structure {index}", disordered) for index, one in enumerate(found)]


def to_atoms(given: Any, name: str = "structure") -> Atoms:
    """Return plain periodic ASE Atoms, without calculator; errors as :func:`to_structure`."""
    from pymatgen.io.ase import AseAtomsAdaptor

    structure = to_structure(given, name)
    return AseAtomsAdaptor.get_atoms(structure.copy(site_properties={}), msonable=False)


def supercell_factors(structure: Structure, min_length_a: float) -> tuple[int, int, int]:
    """Return how often each vector is repeated so that every one is at least ``min_length_a`` Å long."""
    a, b, c = (max(1, math.ceil(min_length_a / length - 1e-9)) for length in structure.lattice.abc)
    return a, b, c


def _formula(given: Any) -> str:
    """Return the formula; the missing electronegativity of noble gases only orders its symbols."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No Pauling electronegativity", category=UserWarning)
        return str(given.composition.formula).replace(" ", "")


def _is_one(given: Any) -> bool:
    return isinstance(given, IStructure | IMolecule | Mapping) or hasattr(given, "get_positions")


def _read(given: Any, name: str) -> Structure:
    if isinstance(given, Structure):
        return given
    if isinstance(given, IStructure):
        return Structure.from_sites(list(given))
    if isinstance(given, Molecule | IMolecule):
        formula = _formula(given)
        raise InputError(f"The {name} {formula} is a molecule without a cell; {_EXPECTED} with three vectors.")
    if isinstance(given, str | PurePath):
        raise InputError(
            f"A path was given as {name}, {str(given)!r}; {_EXPECTED}: read it first, e.g. with Structure.from_file."
        )
    if isinstance(given, Mapping):
        try:
            return Structure.from_dict(dict(given))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise InputError(f"The {name} is a mapping that is no structure ({error!r}); {_EXPECTED}.") from None
    if hasattr(given, "get_positions") and hasattr(given, "cell"):
        return _of_atoms(given, name)
    raise InputError(f"The {name} is a {type(given).__name__}; {_EXPECTED}.")


def _of_atoms(atoms: Any, name: str) -> Structure:
    formula = str(atoms.symbols)
    if not len(atoms):
        raise InputError(f"The {name} has no atom; {_EXPECTED} with at least one.")
    if not np.all(atoms.pbc) or abs(np.linalg.det(atoms.cell[:])) < 1e-6:
        axes = int(np.sum(atoms.pbc))
        raise InputError(
            f"The {name} {formula} is periodic in {axes} of 3 directions, cell volume "
            f"{abs(np.linalg.det(atoms.cell[:])):.3g} Å³; expected a crystal: set cell and pbc=True."
        )
    return Structure(atoms.cell[:], list(atoms.symbols), atoms.get_positions(), coords_are_cartesian=True)
