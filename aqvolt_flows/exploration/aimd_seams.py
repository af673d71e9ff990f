"""By how much the energy jumps where a run is started again.

Within one run of VASP the plane waves are those of its first cell, whatever the cell becomes; a new run takes those
that ENCUT gives for the cell it starts with, so that the energy of one and the same cell differs a little before and
after (VASP wiki, Energy vs volume, Volume relaxations and Pulay stress). Forces and stress tell what the energy should
do between two neighboring steps; what is left at a seam, and is not left elsewhere, is the jump.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from aqvolt_flows.frames import Frame
from aqvolt_flows.units import VOIGT
from aqvolt_flows.vasp.outputs import Array

#: Pairs of neighboring steps on each side of a seam that tell how well forces explain energies.
PAIRS = 50


def unexplained_energy(before: Frame, after: Frame) -> float:
    """Return the part of an energy difference that forces and stress do not explain, eV/atom.

    E(after) − E(before) − W, with the work W of forces F and stress σ along the way by the trapezoidal rule:
    dE = −Σ F_i · (ds_i h) + V σ : h⁻¹ dh for fractional coordinates s and cell h (rows are vectors). The error of W
    is of third order in the step.

    Parameters
    ----------
    before, after
        Neighboring steps of one run, positions unfolded.
    """
    cells = [np.asarray(f.cell, dtype=float) for f in (before, after)]
    fractional = [
        np.asarray(f.positions, float) @ np.linalg.inv(h) for f, h in zip((before, after), cells, strict=True)
    ]
    moved, strained = fractional[1] - fractional[0], cells[1] - cells[0]
    work = 0.0
    for frame, cell in zip((before, after), cells, strict=True):
        strain = np.linalg.inv(cell) @ strained
        volume = abs(np.linalg.det(cell))
        work += 0.5 * float(volume * np.sum(_matrix(frame.stress) * strain) - np.sum(frame.forces * (moved @ cell)))
    return (after.energy - before.energy - work) / before.n_atoms


def _matrix(stress: ArrayLike) -> Array:
    matrix = np.zeros((3, 3))
    for value, (i, j) in zip(np.asarray(stress, dtype=float), VOIGT, strict=True):
        matrix[i, j] = matrix[j, i] = value
    return matrix


def jump_at(frames: Sequence[Frame], step: int, seams: Sequence[int]) -> tuple[float | None, float | None]:
    """Return the jump of the energy before a step and what it is to be compared with, both eV/atom.

    Parameters
    ----------
    frames
        Of the run, in order of their steps.
    step
        The first one after the seam.
    seams
        All such steps of the run.

    Returns
    -------
    jump, scatter
        What forces and stress leave unexplained at the seam, and the root mean square of the same between up to
        ``PAIRS`` neighboring steps on each side of it that are no seams. None where steps are missing.
    """
    pairs = [(a, b) for a, b in pairwise(frames) if b.step == a.step + 1]
    here = next((unexplained_energy(a, b) for a, b in pairs if b.step == step), None)
    near = [(a, b) for a, b in pairs if b.step not in seams and abs(b.step - step) <= PAIRS]
    if not near:
        return here, None
    return here, float(np.sqrt(np.mean([unexplained_energy(a, b) ** 2 for a, b in near])))
