"""Many configurations as flat arrays: what encoders work on, without a Python object for each frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]
Index = NDArray[np.int64]

#: No two nuclei of a solid are this close (H₂: 0.74 Å); graphs of such frames carry no meaning. Å.
CLOSEST_A = 0.3
#: Å³. Points at least d apart have at least d³/√2 each, the close packing (Hales, DOI 10.4007/annals.2005.162.1065).
_LEAST_VOLUME_A3 = CLOSEST_A**3 / np.sqrt(2)
#: A cell so thin that the cutoff needs more images than this along an axis is replaced by its reduced cell.
_MAX_IMAGES = 12


class FlatFrames(Sequence["Atoms"]):
    """Periodic configurations as flat arrays; item ``i`` is frame ``i`` as ASE Atoms.

    Parameters
    ----------
    numbers
        (sum of n_atoms,), atomic numbers.
    positions
        (sum of n_atoms, 3), Å.
    cells
        (n, 3, 3), Å, rows are lattice vectors.
    offsets
        (n + 1,), first atom of each frame, and the end.
    """

    def __init__(self, numbers: ArrayLike, positions: ArrayLike, cells: ArrayLike, offsets: ArrayLike) -> None:
        self.numbers: Index = np.asarray(numbers, np.int64)
        self.positions: Array = np.asarray(positions, float).reshape(-1, 3)
        self.cells: Array = np.asarray(cells, float).reshape(-1, 3, 3)
        self.offsets: Index = np.asarray(offsets, np.int64)

    @classmethod
    def of(cls, frames: Sequence[Atoms]) -> FlatFrames:
        """Return frames as flat arrays; they are taken as periodic in all directions."""
        if isinstance(frames, FlatFrames):
            return frames
        counts = [len(atoms) for atoms in frames]
        return cls(
            np.concatenate([np.empty(0, np.int64), *(atoms.numbers for atoms in frames)]),
            np.concatenate([np.empty((0, 3)), *(atoms.positions for atoms in frames)]),
            np.array([atoms.cell.array for atoms in frames]),
            np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        )

    @classmethod
    def joined(cls, parts: Iterable[FlatFrames]) -> FlatFrames:
        """Return the frames of several parts, one after the other."""
        parts = list(parts)
        counts = np.concatenate([np.empty(0, np.int64), *(part.n_atoms for part in parts)])
        return cls(
            np.concatenate([np.empty(0, np.int64), *(part.numbers for part in parts)]),
            np.concatenate([np.empty((0, 3)), *(part.positions for part in parts)]),
            np.concatenate([np.empty((0, 3, 3)), *(part.cells for part in parts)]),
            np.concatenate([[0], np.cumsum(counts)]),
        )

    @property
    def n_atoms(self) -> Index:
        """(n,), atoms of each frame."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        """Return how many frames there are."""
        return len(self.cells)

    @overload
    def __getitem__(self, index: int) -> Atoms: ...

    @overload
    def __getitem__(self, index: slice) -> FlatFrames: ...

    def __getitem__(self, index: int | slice) -> Atoms | FlatFrames:
        """Return a frame as ASE Atoms, or some frames."""
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        from ase import Atoms

        if not -len(self) <= index < len(self):
            raise IndexError(index)
        i = index % len(self)
        part = slice(self.offsets[i], self.offsets[i + 1])
        return Atoms(numbers=self.numbers[part], positions=self.positions[part], cell=self.cells[i], pbc=True)

    def take(self, indices: ArrayLike | Sequence[int]) -> FlatFrames:
        """Return some frames in the order given."""
        chosen = np.asarray(indices, np.int64)
        counts = self.n_atoms[chosen]
        ends = np.cumsum(counts)
        within = np.arange(counts.sum()) - np.repeat(ends - counts, counts)
        rows = np.repeat(self.offsets[:-1][chosen], counts) + within
        return FlatFrames(
            self.numbers[rows], self.positions[rows], self.cells[chosen], np.concatenate([[0], ends]).astype(np.int64)
        )

    def every(self, of_atoms: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return for which frames a condition holds for all atoms, (n,); a frame without atoms counts as True."""
        failed = np.concatenate([[0], np.cumsum(~of_atoms)])
        return np.asarray(np.diff(failed[self.offsets]) == 0)

    def refusals(self, known: frozenset[int] | None) -> dict[int, str]:
        """Return why frames cannot be encoded, as far as that can be told without distances.

        Parameters
        ----------
        known
            Atomic numbers that the model knows; None: all.

        Returns
        -------
        dict
            Index → ``no_atoms``, ``not_finite``, ``unknown_element``, or ``close_atoms`` for a cell with less volume
            per atom than atoms 0.3 Å apart can have.
        """
        finite = np.isfinite(self.cells).all(axis=(1, 2)) & self.every(
            np.asarray(np.isfinite(self.positions).all(axis=1))
        )
        volumes = np.abs(np.linalg.det(np.where(finite[:, None, None], self.cells, np.eye(3))))
        strange = np.zeros(len(self), bool) if known is None else ~self.every(_are_in(self.numbers, known))
        reasons = {
            "close_atoms": finite & (volumes < _LEAST_VOLUME_A3 * self.n_atoms),
            "unknown_element": strange,
            "not_finite": ~finite,
            "no_atoms": self.n_atoms == 0,
        }
        return {int(i): reason for reason, found in reasons.items() for i in np.flatnonzero(found)}

    def reduced(self, cutoff: float) -> FlatFrames:
        """Return the same crystals, cells that are too skewed for a search within ``cutoff`` (Å) replaced.

        A lattice has many cells; in one with long and nearly parallel vectors the planes are close, and a search would
        go through thousands of images. Such a cell is replaced by its Minkowski-reduced one (ASE).
        """
        from aqvolt_flows.sampling.distances import reaches

        skewed = np.flatnonzero((reaches(self.cells, cutoff) > _MAX_IMAGES).any(axis=1))
        if not len(skewed):
            return self
        from ase.geometry import minkowski_reduce, wrap_positions

        cells, positions = self.cells.copy(), self.positions.copy()
        for i in skewed:
            part = slice(self.offsets[i], self.offsets[i + 1])
            cells[i] = minkowski_reduce(cells[i])[0]
            positions[part] = wrap_positions(positions[part], cells[i], pbc=True)
        return FlatFrames(self.numbers, positions, cells, self.offsets)


def _are_in(numbers: Index, known: frozenset[int]) -> NDArray[np.bool_]:
    inside = np.zeros(max(max(known, default=0), int(numbers.max(initial=0)), 0) + 1, bool)
    inside[[z for z in known if z >= 0]] = True
    return np.asarray(inside[np.maximum(numbers, 0)] & (numbers >= 0))
