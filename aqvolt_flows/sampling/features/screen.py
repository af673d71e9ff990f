"""Which frames are encoded: finite, of a whole cell, without overlapping atoms, and not seen before.

Frames are judged in this order, and each is counted under the first reason that holds:

``not_finite``
    A NaN or infinity in cell, positions, energy or forces.
``exploded``
    The volume per atom is above ``max_volume_ratio`` times that of the trajectory's first frame, or below its
    inverse; or the cell holds less than ``min_packing`` of its volume in spheres of covalent radius (close-packed
    metals: about 0.7, rock-salt LiCl: 0.39), which also finds a trajectory whose first frame had exploded already.
``overlapping``
    Two atoms, periodic images included, are closer than ``min_distance_factor`` times the sum of their covalent
    radii.
``duplicate``
    No atom and no cell vector moved by more than ``duplicate_tolerance_a`` since the last frame kept of the same
    trajectory; or an earlier frame of the same group of trajectories, rounded to that tolerance, is the same
    (first frames of runs at several temperatures, steps that a continued run wrote twice).

Covalent radii are ASE's (Cordero et al., DOI 10.1039/b801115j). Distances use the exact periodic search of
:func:`reaches`; compiled by numba, because a frame at a time through Python is slower than the encoder's graphs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from ase.data import covalent_radii
from numpy.typing import ArrayLike, NDArray

from aqvolt_flows.frames import SCHEMA
from aqvolt_flows.sampling.direct.kernels import compiled
from aqvolt_flows.sampling.distances import Array, _search, reaches
from aqvolt_flows.sampling.encoders.flat import FlatFrames
from aqvolt_flows.schemas.parameters import SamplingParameters

if TYPE_CHECKING:
    import pyarrow as pa


#: Names of the reasons, in the order in which they are judged; the index is the code of :meth:`Screen.judge`.
REASONS = ("kept", "not_finite", "exploded", "overlapping", "duplicate")
KEPT, NOT_FINITE, EXPLODED, OVERLAPPING, DUPLICATE = range(len(REASONS))
#: Columns of a trajectory file that are read.
COLUMNS = ("trajectory_id", "step", "energy", "atomic_numbers", "positions", "cell", "forces")


@dataclass(frozen=True, eq=False)
class Block:
    """Some consecutive frames of one trajectory as flat arrays.

    Attributes
    ----------
    steps, energies
        (n,), MD step; eV.
    numbers
        (sum of n_atoms,), atomic numbers.
    positions, forces
        (sum of n_atoms, 3), Å and eV/Å.
    cells
        (n, 3, 3), Å, rows are lattice vectors.
    offsets
        (n + 1,), first atom of each frame, and the end.
    """

    steps: NDArray[np.int64]
    energies: Array
    numbers: NDArray[np.int64]
    positions: Array
    forces: Array
    cells: Array
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        """Return how many frames there are."""
        return len(self.steps)

    def frames(self, indices: ArrayLike) -> FlatFrames:
        """Return some frames as what encoders take."""
        return FlatFrames(self.numbers, self.positions, self.cells, self.offsets).take(indices)

    @classmethod
    def of(cls, table: pa.Table | pa.RecordBatch) -> Block:
        """Return the frames of an Arrow table that has :data:`COLUMNS` of the frame schema."""

        def flat(name: str) -> NDArray:
            column = table.column(name)
            joined = column.combine_chunks() if hasattr(column, "combine_chunks") else column
            values = joined.flatten() if str(SCHEMA.field(name).type).startswith("list") else joined
            return np.asarray(values.to_numpy(zero_copy_only=False))

        numbers = table.column("atomic_numbers")
        joined = numbers.combine_chunks() if hasattr(numbers, "combine_chunks") else numbers
        lengths = joined.value_lengths().to_numpy(zero_copy_only=False)
        return cls(
            steps=flat("step"),
            energies=flat("energy"),
            numbers=flat("atomic_numbers").astype(np.int64),
            positions=flat("positions").astype(float).reshape(-1, 3),
            forces=flat("forces").astype(float).reshape(-1, 3),
            cells=flat("cell").astype(float).reshape(-1, 3, 3),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        )


@compiled
def _overlaps(offsets, positions, cells, inverses, radii, reach, candidates, factor):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return, for each candidate frame, whether a pair is closer than ``factor`` times the sum of its radii."""
    found = np.zeros(len(cells), np.bool_)
    for frame in range(len(cells)):
        if not candidates[frame]:
            continue
        first, last = offsets[frame], offsets[frame + 1]
        nearest = np.full(last - first, np.inf)
        fractional = positions[first:last] @ inverses[frame]
        worst = _search(fractional, cells[frame], radii[first:last], reach[frame], nearest)
        found[frame] = worst < factor * factor
    return found


@compiled
def _repeats(offsets, numbers, positions, cells, inverses, candidates, seen, last, tolerance):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return which candidates are where the last kept frame (index ``last``, or -1) was, and the new last."""
    found = np.zeros(len(cells), np.bool_)
    for frame in range(len(cells)):
        if not candidates[frame]:
            continue
        same = last >= 0 and offsets[frame + 1] - offsets[frame] == offsets[last + 1] - offsets[last]
        if same:
            same = np.abs(cells[frame] - cells[last]).max() <= tolerance
        i = 0
        while same and i < offsets[frame + 1] - offsets[frame]:
            here, there = offsets[frame] + i, offsets[last] + i
            same = numbers[here] == numbers[there]
            d = positions[here] - positions[there]
            f = d @ inverses[frame]
            for k in range(3):
                f[k] -= np.round(f[k])
            d = f @ cells[frame]
            same = same and d @ d <= tolerance * tolerance
            i += 1
        found[frame] = same or seen[frame]
        if not found[frame]:
            last = frame
    return found


@dataclass
class Screen:
    """Judges the frames of one group of trajectories, block after block.

    Parameters
    ----------
    parameters
        Their filter fields are used; a value of 0 turns a filter off.
    """

    parameters: SamplingParameters
    _seen: set[bytes] = field(default_factory=set)
    _last: Block | None = None
    _reference: float | None = None

    def start(self, volume_per_atom: float | None) -> None:
        """Begin a trajectory whose first frame has this volume per atom (Å³); None if that is not finite."""
        self._last, self._reference = None, volume_per_atom

    def judge(self, block: Block) -> NDArray[np.int8]:
        """Return one code of :data:`REASONS` for each frame, (n,)."""
        p, n = self.parameters, len(block)
        codes = np.zeros(n, np.int8)
        if not n:
            return codes
        codes[~_finite(block)] = NOT_FINITE
        codes[(codes == KEPT) & self._exploded(block, codes == KEPT)] = EXPLODED
        alive = codes == KEPT
        cells = np.where(alive[:, None, None], block.cells, np.eye(3))
        inverses = np.linalg.inv(cells)
        if p.min_distance_factor > 0:
            radii = covalent_radii[block.numbers]
            reach = reaches(cells, p.min_distance_factor * 2 * radii.max())
            hit = _overlaps(block.offsets, block.positions, cells, inverses, radii, reach, alive, p.min_distance_factor)
            codes[hit] = OVERLAPPING
        if p.duplicate_tolerance_a > 0:
            codes[self._repeated(block, codes == KEPT, inverses)] = DUPLICATE
        return codes

    def _exploded(self, block: Block, alive: NDArray[np.bool_]) -> NDArray[np.bool_]:
        p = self.parameters
        counts = np.diff(block.offsets)
        volumes = np.abs(np.linalg.det(np.where(alive[:, None, None], block.cells, np.eye(3)))) / np.maximum(counts, 1)
        found = volumes < 1e-3  # Å³ per atom: no volume at all
        if p.max_volume_ratio > 0 and self._reference:
            found |= (volumes > p.max_volume_ratio * self._reference) | (volumes * p.max_volume_ratio < self._reference)
        balls = 4 / 3 * np.pi * covalent_radii[block.numbers] ** 3
        spheres = np.diff(np.concatenate([[0.0], np.cumsum(balls)])[block.offsets]) / np.maximum(counts, 1)
        return found | (spheres < p.min_packing * volumes)

    def _repeated(self, block: Block, alive: NDArray[np.bool_], inverses: Array) -> NDArray[np.bool_]:
        seen = np.zeros(len(block), bool)
        digests = {}
        for i in np.flatnonzero(alive):
            digests[int(i)] = self._digest(block, int(i))
            seen[i] = digests[int(i)] in self._seen
        # a frame equal to an earlier one of this block
        fresh: set[bytes] = set()
        for row, digest in digests.items():
            seen[row] |= digest in fresh
            fresh.add(digest)
        joined = block if self._last is None else _join(self._last, block)
        extra = len(joined) - len(block)
        pad = np.zeros(extra, bool)
        found = _repeats(
            joined.offsets,
            joined.numbers,
            joined.positions,
            joined.cells,
            np.concatenate([np.broadcast_to(np.eye(3), (extra, 3, 3)), inverses]),
            np.concatenate([pad, alive]),
            np.concatenate([pad, seen]),
            extra - 1,
            self.parameters.duplicate_tolerance_a,
        )[extra:]
        kept = np.flatnonzero(alive & ~found)
        self._seen.update(digests[int(i)] for i in kept)
        if len(kept):
            self._last = _one(block, int(kept[-1]))
        return np.asarray(found, dtype=bool)

    def _digest(self, block: Block, i: int) -> bytes:
        part, tolerance = slice(block.offsets[i], block.offsets[i + 1]), self.parameters.duplicate_tolerance_a
        state = hashlib.blake2b(block.numbers[part].tobytes(), digest_size=16)
        for values in (block.cells[i], block.positions[part]):
            state.update(np.round(values / tolerance).astype(np.int64).tobytes())
        return state.digest()


def _finite(block: Block) -> NDArray[np.bool_]:
    """Return which frames hold no NaN or infinity, (n,); forces of another length than positions count as bad."""
    fine = np.isfinite(block.energies) & np.isfinite(block.cells).all(axis=(1, 2))
    for rows in (block.positions, block.forces):
        if len(rows) != block.offsets[-1]:
            return np.zeros(len(block), bool)
        bad = np.concatenate([[0], np.cumsum(~np.isfinite(rows).all(axis=1))])
        fine &= np.diff(bad[block.offsets]) == 0
    return np.asarray(fine & (np.diff(block.offsets) > 0))


def _one(block: Block, i: int) -> Block:
    part = slice(block.offsets[i], block.offsets[i + 1])
    return Block(
        block.steps[i : i + 1],
        block.energies[i : i + 1],
        block.numbers[part],
        block.positions[part],
        block.forces[part],
        block.cells[i : i + 1],
        block.offsets[i : i + 2] - block.offsets[i],
    )


def _join(first: Block, second: Block) -> Block:
    names = ("steps", "energies", "numbers", "positions", "forces", "cells")
    joined = {n: np.concatenate([getattr(first, n), getattr(second, n)]) for n in names}
    return Block(**joined, offsets=np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]]))


def volume_per_atom(block: Block) -> float | None:
    """Return the volume per atom of a block's first frame, Å³, or None if it is not finite or nothing."""
    if not len(block) or not np.isfinite(block.cells[0]).all():
        return None
    volume = float(abs(np.linalg.det(block.cells[0]))) / max(int(block.offsets[1] - block.offsets[0]), 1)
    return volume or None
