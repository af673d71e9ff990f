"""How VASP's MD hands on its state: velocities in CONTCAR and POSCAR, the state of the random numbers in REPORT."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def read_velocities(path: Path, n_atoms: int) -> np.ndarray | None:
    """Return the velocities (n_atoms, 3; Å/fs) behind the positions of a POSCAR, or None."""
    lines = path.read_text().splitlines()[8 + n_atoms :]
    if lines and lines[0].strip().lower().startswith("l"):  # Lattice velocities and vectors
        lines = lines[8:]
    rows = [line.split() for line in lines[1 : 1 + n_atoms]]
    if len(rows) < n_atoms or any(len(row) < 3 for row in rows):
        return None
    return np.array([[float(x) for x in row[:3]] for row in rows])


def velocity_blocks(lattice: np.ndarray, rate: np.ndarray, velocities: np.ndarray) -> str:
    """Return what VASP writes behind the positions of an NpT run's CONTCAR."""
    rows = lambda block: "".join(" " + " ".join(f"{x:15.7E}" for x in r) + "\n" for r in block)  # noqa: E731
    return f"Lattice velocities and vectors\n  1\n{rows(rate)}{rows(lattice)}\n{rows(velocities)}"


def report_line(step: int, seed: int, calls: int) -> str:
    return f"   {'=' * 40}\n    MD step No. {step:6d}\n           RANDOM_SEED = {seed:17d}{calls:17d}{0:17d}\n"
