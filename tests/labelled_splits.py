"""Labeled structures whose labels are analytic, written as ASE-LMDB by ASE's own backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

#: Energies that are added per atom to a Lennard-Jones crystal, eV.
ATOM_ENERGIES = {"Li": -2.0, "Na": -1.5, "Cl": -4.5, "F": -3.25}


def label(formula: str, a: float, seed: int, cubic: bool = False) -> Atoms:
    """Return a strained, rattled rock salt with Lennard-Jones labels (energy, forces, stress) and atomic shifts."""
    rng = np.random.default_rng(seed)
    atoms = bulk(formula, "rocksalt", a=a, cubic=cubic)
    strain = rng.normal(scale=0.015, size=(3, 3))
    atoms.set_cell(atoms.cell[:] @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
    atoms.calc = LennardJones(sigma=a / 2.25, epsilon=0.1, rc=6.0, smooth=True)
    shift = sum(ATOM_ENERGIES[s] for s in atoms.get_chemical_symbols())
    atoms.calc = SinglePointCalculator(
        atoms, energy=atoms.get_potential_energy() + shift, forces=atoms.get_forces(), stress=atoms.get_stress()
    )
    return atoms


def write_split(release: Path, split: str, frames: list[Atoms]) -> Path:
    """Write frames as ``exports/aselmdb/SPLIT`` of a release folder."""
    import ase.db
    import ase_db_backends  # noqa: F401

    folder = release / "exports" / "aselmdb" / split
    folder.mkdir(parents=True)
    with ase.db.connect(str(folder / "data.0000.aselmdb"), type="aselmdb") as database:
        for index, atoms in enumerate(frames):
            database.write(atoms, data={"sid": f"{split}-{index}"})
    np.savez_compressed(folder / "metadata.npz", natoms=np.array([len(a) for a in frames], dtype=np.int64))
    return folder
