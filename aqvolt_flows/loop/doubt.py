"""How little a model can be trusted on a frame: the spread of a committee, or the distance from what it has seen.

Both give a :class:`Doubt` per frame, with one number an atom, so that filters, trust levels and calibration do not ask
which it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Doubt:
    """Doubt about one frame.

    Attributes
    ----------
    atoms
        (n_atoms,), of each atom's force: σ_F in eV/Å for a committee; a distance, without unit, for features.
    energy
        Standard deviation of the energy, eV/atom; NaN where the estimator says nothing of energies.
    """

    atoms: Array
    energy: float = float("nan")

    @property
    def largest(self) -> float:
        """The largest of all atoms, DP-GEN's max_devi_f."""
        return float(self.atoms.max(initial=0.0))

    @property
    def mean(self) -> float:
        """The mean over the atoms, DP-GEN's avg_devi_f."""
        return float(self.atoms.mean()) if len(self.atoms) else 0.0


def committee_doubt(energies: Array, forces: Array) -> Doubt:
    """Return the spread of a committee on one frame.

    σ_F,i = √⟨|F_i − ⟨F_i⟩|²⟩ over the members (population, not sample): DeePMD-kit's model deviation
    (docs.deepmodeling.com/projects/deepmd, "Calculate Model Deviation"); the energy's likewise, over the atoms.

    Parameters
    ----------
    energies
        (n_members,), total, eV.
    forces
        (n_members, n_atoms, 3), eV/Å.

    Raises
    ------
    InputError
        If there are fewer than two members, or the shapes do not belong together.
    """
    if len(energies) < 2:
        raise InputError(f"A committee of {len(energies)} has no spread; give at least two models.")
    if forces.ndim != 3 or forces.shape[::2] != (len(energies), 3):
        raise InputError(
            f"Forces of a committee have shape {forces.shape}; expected ({len(energies)} members, atoms, 3)."
        )
    spread = forces - forces.mean(axis=0)
    sigma = np.sqrt((spread**2).sum(axis=-1).mean(axis=0))
    return Doubt(sigma, float(np.std(energies)) / max(forces.shape[1], 1))


class FeatureDistance:
    """Distance of an atom's features to the nearest atom of the training set: a doubt without a committee.

    Columns are divided by their standard deviation over the training set, and the distance by the square root of their
    number. Without calibration it has no unit. Like Janet et al., DOI 10.1039/C9SC02298H, in the descriptor space.

    Parameters
    ----------
    seen
        (n, d), features of the atoms of the training set.

    Raises
    ------
    InputError
        If there is no row, or a value is not finite.
    """

    def __init__(self, seen: NDArray[np.floating]) -> None:
        from scipy.spatial import cKDTree

        rows = np.asarray(seen, dtype=np.float64)
        if rows.ndim != 2 or not len(rows):
            raise InputError(f"Features of a training set have shape {rows.shape}; expected (atoms, features), not 0.")
        _check_finite(rows, "the training set")
        spread = rows.std(axis=0)
        # a column that the training set never varies says "new" wherever it differs; its own size is the yardstick
        self._scale = np.where(spread > 1e-9 * np.maximum(np.abs(rows).max(axis=0), 1e-300), spread, 1.0)
        self._scale *= np.sqrt(rows.shape[1])
        self._tree = cKDTree(rows / self._scale)

    def doubts(self, atoms: NDArray[np.floating], n_atoms: Sequence[int]) -> list[Doubt]:
        """Return one doubt per frame.

        Parameters
        ----------
        atoms
            (Σ n_atoms, d), features, frame after frame.
        n_atoms
            Atoms of each frame.

        Raises
        ------
        InputError
            If columns or rows do not fit, or a value is not finite.
        """
        rows = np.asarray(atoms, dtype=np.float64)
        if rows.ndim != 2 or rows.shape != (sum(n_atoms), self._tree.m):
            raise InputError(f"Features have shape {rows.shape}; expected ({sum(n_atoms)}, {self._tree.m}).")
        _check_finite(rows, "frames")
        distances = np.asarray(self._tree.query(rows / self._scale)[0], dtype=np.float64)
        return [Doubt(part) for part in np.split(distances, np.cumsum(list(n_atoms))[:-1])]


def _check_finite(rows: Array, what: str) -> None:
    if not np.isfinite(rows).all():
        bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise InputError(f"Features of {what} are not finite, first in row {bad}; leave that frame out.")
