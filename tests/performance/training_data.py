"""Generated releases for ``training.py``: rattled rock salts labeled by a smooth pair potential, as ASE-LMDB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.neighborlist import neighbor_list

LATTICES = {"LiCl": 5.13, "LiF": 4.03}
#: Repetitions of the cubic cell of 8 atoms, and of the primitive one of 2; weights give a mean near 17 atoms.
CELLS = [((1, 1, 1), True, 10), ((2, 1, 1), True, 8), ((2, 2, 1), True, 3), ((2, 2, 2), True, 1), ((2, 2, 2), False, 4)]
CUTOFF = 6.0


def pair_potential(atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray]:
    """Return energy (eV), forces (eV/Å) and stress (eV/Å³, Voigt): Morse pairs, smooth to zero at 6 Å."""
    i, d, vectors = neighbor_list("idD", atoms, CUTOFF)
    depth, width, nearest = 0.15, 1.2, atoms.info["nearest"]
    x = np.exp(-width * (d - nearest))
    cut, dcut = (1 - (d / CUTOFF) ** 2) ** 3, -6 * d / CUTOFF**2 * (1 - (d / CUTOFF) ** 2) ** 2
    pair, dpair = depth * (x**2 - 2 * x), -2 * depth * width * (x**2 - x)
    energy = 0.5 * float((pair * cut).sum())
    slopes = (dpair * cut + pair * dcut)[:, None] * vectors / d[:, None]
    forces = np.zeros((len(atoms), 3))
    np.add.at(forces, i, slopes)
    stress = 0.5 * np.einsum("na,nb->ab", vectors, slopes) / atoms.get_volume()
    return energy, forces, stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def frame(formula: str, rng: np.random.Generator) -> Atoms:
    weights = np.array([w for *_, w in CELLS], dtype=float)
    repeats, cubic, _ = CELLS[rng.choice(len(CELLS), p=weights / weights.sum())]
    a = LATTICES[formula]
    atoms = bulk(formula, "rocksalt", a=a, cubic=cubic) * repeats
    strain = rng.normal(scale=0.02, size=(3, 3))
    atoms.set_cell(atoms.cell[:] @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    atoms.positions += rng.normal(scale=rng.uniform(0.02, 0.25), size=atoms.positions.shape)
    atoms.info["nearest"] = a / 2
    energy, forces, stress = pair_potential(atoms)
    atoms.calc = SinglePointCalculator(atoms, energy=energy - 3.0 * len(atoms), forces=forces, stress=stress)
    return atoms


def write(folder: Path, frames: list[Atoms]) -> None:
    import ase.db
    import ase_db_backends  # noqa: F401

    folder.mkdir(parents=True)
    with ase.db.connect(str(folder / "data.0000.aselmdb"), type="aselmdb") as database:
        for index, atoms in enumerate(frames):
            database.write(atoms, data={"sid": f"{folder.name}-{index}"})
    np.savez_compressed(folder / "metadata.npz", natoms=np.array([len(a) for a in frames], dtype=np.int64))


def release(place: Path, formulas: list[str], n_train: int, n_val: int) -> Path:
    folder = place / f"release-{'-'.join(formulas)}-{n_train}"
    if not (folder / "manifest.json").exists():
        rng = np.random.default_rng(0)
        frames = [frame(formulas[i % len(formulas)], rng) for i in range(n_train + n_val)]
        write(folder / "exports/aselmdb/train", frames[:n_train])
        write(folder / "exports/aselmdb/val", frames[n_train:])
        (folder / "manifest.json").write_text("{}")  # last: says that it is whole, and a release
    return folder
