"""Structures from files: CIF, POSCAR, extxyz and whatever else ASE reads."""

from __future__ import annotations

from pathlib import Path

from pymatgen.core import Structure

from aqvolt_flows.errors import InputError

_EXTXYZ = {".xyz", ".extxyz"}


def read_structures(path: Path) -> list[tuple[str, Structure]]:
    """Return the named periodic structures of one file.

    Parameters
    ----------
    path
        A CIF, POSCAR/CONTCAR, pymatgen JSON, or (ext)xyz file with one or more frames.

    Raises
    ------
    InputError
        If the file is missing, is not of a known format, or a structure has no cell.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}; give the path of a CIF, POSCAR or extxyz file.")
    try:
        if path.suffix.lower() in _EXTXYZ:
            return _read_extxyz(path)
        return [(path.name, Structure.from_file(path))]
    except InputError:
        raise
    except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError, OSError, AssertionError) as error:
        raise InputError(
            f"{path} cannot be read as a structure ({type(error).__name__}: {' '.join(str(error).split())}); "
            "expected CIF, "
            "POSCAR or extxyz."
        ) from None


def _read_extxyz(path: Path) -> list[tuple[str, Structure]]:
    from ase.io import iread
    from pymatgen.io.ase import AseAtomsAdaptor

    found = []
    for index, atoms in enumerate(iread(path, index=":", format="extxyz")):
        if not atoms.pbc.all() or atoms.cell.volume < 1e-6:
            raise InputError(f"{path}: frame {index} has no periodic cell; add Lattice=… and pbc to its comment line.")
        found.append((f"{path.name}:{index}", AseAtomsAdaptor.get_structure(atoms)))
    if not found:
        raise InputError(f"{path} holds no frame.")
    return found
