"""What encoders share: the protocol, checks before and after, batches by atoms, smaller ones where memory ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.potentials.registry import batches

if TYPE_CHECKING:
    from ase import Atoms


Array32 = NDArray[np.float32]


#: No two nuclei of a solid are this close (H₂: 0.74 Å); graphs of such frames carry no meaning. Å.
CLOSEST_A = 0.3


@dataclass(frozen=True, eq=False)
class Features:
    """Features of a batch of frames; those that could not be encoded have no rows.

    Attributes
    ----------
    structures
        (n_encoded, d_structure), float32.
    atoms
        (sum of n_atoms, d_atom), float32; the rows of frame i follow those of frame i − 1, atoms in their order.
    n_atoms
        (n_encoded,), int64.
    failures
        Index of the frame in the batch → why it has no features: ``close_atoms``, ``isolated_atom``,
        ``unknown_element``, ``not_finite``, ``out_of_memory``.
    """

    structures: Array32
    atoms: Array32
    n_atoms: NDArray[np.int64]
    failures: dict[int, str] = field(default_factory=dict)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """(n_encoded + 1,), first row of every frame's atoms, and the end."""
        return np.concatenate([[0], np.cumsum(self.n_atoms)]).astype(np.int64)


class Encoder(Protocol):
    """What every encoder can do.

    Attributes
    ----------
    name, sha256
        Encoder string, and the hash of its weights.
    layer
        Which layers the vectors are, part of the identity of features.
    d_structure, d_atom
        Lengths of the two vectors.
    cutoff
        Radius of the graph, Å; an atom without a neighbor within it is isolated.
    """

    name: str
    sha256: str
    layer: str
    d_structure: int
    d_atom: int
    cutoff: float

    def encode(self, frames: Sequence[Atoms], max_batch_atoms: int = 4096) -> Features:
        """Return the features of frames, computed in batches of at most this many atoms."""
        ...


class BatchedEncoder(ABC):
    """What encoders share: checks before and after, batches by atoms, smaller ones where memory ends.

    A family gives ``_prepare`` (a frame to its graph; may be any object) and ``_forward`` (graphs to a structure
    matrix and an atom matrix).
    """

    name: str
    sha256: str = ""
    layer: str
    d_structure: int
    d_atom: int
    cutoff: float
    #: Atomic numbers that the model knows; None: all.
    known: frozenset[int] | None = None

    def __init__(self, name: str, device: str = "cpu") -> None:  # noqa: ARG002 - families with a model use it
        self.name = name

    @abstractmethod
    def _prepare(self, atoms: Atoms) -> Any:
        """Return the graph of a frame."""

    @abstractmethod
    def _forward(self, prepared: list[Any]) -> tuple[Array32, Array32]:
        """Return the structure matrix and the atom matrix of graphs."""

    def encode(self, frames: Sequence[Atoms], max_batch_atoms: int = 4096) -> Features:
        """Return the features of frames, computed in batches of at most this many atoms.

        A batch that does not fit into memory is halved until it does; a frame that does not fit alone, and one
        that the model cannot see (atoms on top of each other, an atom without a neighbor, an unknown element), is
        a failure with a reason beside the others' features.
        """
        failures = {i: reason for i, atoms in enumerate(frames) if (reason := self._refusal(atoms))}
        good = [i for i in range(len(frames)) if i not in failures]
        structures, atom_rows, counts = [], [], []
        for group in batches([len(frames[i]) for i in good], max_batch_atoms):
            indices = [good[g] for g in group]
            for part, result in halving(indices, lambda some: self._run([frames[i] for i in some])):
                if result is None:
                    failures[part[0]] = "out_of_memory"
                    continue
                for i, structure, rows in result.split(part, frames):
                    if np.isfinite(structure).all() and np.isfinite(rows).all():
                        structures.append(structure)
                        atom_rows.append(rows)
                        counts.append(len(rows))
                    else:
                        failures[i] = "not_finite"
        return Features(
            np.stack(structures) if structures else np.empty((0, self.d_structure), np.float32),
            np.concatenate(atom_rows) if atom_rows else np.empty((0, self.d_atom), np.float32),
            np.array(counts, dtype=np.int64),
            failures,
        )

    def _run(self, frames: list[Atoms]) -> _Result:
        structures, atoms = self._forward([self._prepare(f) for f in frames])
        return _Result(np.asarray(structures, np.float32), np.asarray(atoms, np.float32))

    def _refusal(self, atoms: Atoms) -> str | None:
        from aqvolt_flows.sampling.distances import neighborhood

        if not len(atoms):
            return "no_atoms"
        if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell[:]).all()):
            return "not_finite"
        if self.known is not None and not self.known.issuperset(atoms.numbers.tolist()):
            return "unknown_element"
        closest, loneliest = neighborhood(atoms.positions, atoms.cell[:], self.cutoff)
        if closest < CLOSEST_A:
            return "close_atoms"
        return "isolated_atom" if loneliest > self.cutoff else None


@dataclass(frozen=True, eq=False)
class _Result:
    structures: Array32
    atoms: Array32

    def split(self, indices: Sequence[int], frames: Sequence[Atoms]) -> Iterator[tuple[int, Array32, Array32]]:
        """Yield index, structure row and atom rows of each frame of a batch."""
        first = 0
        for row, i in enumerate(indices):
            last = first + len(frames[i])
            yield i, self.structures[row], self.atoms[first:last]
            first = last


def halving(indices: list[int], compute: Callable[[list[int]], _Result]) -> Iterator[tuple[list[int], _Result | None]]:
    """Yield parts of ``indices`` with their results in order, halving where memory ends; None for one that never fits.

    Parameters
    ----------
    indices
        At least one.
    compute
        Raises ``torch.OutOfMemoryError`` or ``MemoryError`` when a part is too big.
    """
    import torch

    waiting = [indices]
    while waiting:
        part = waiting.pop()
        try:
            result: _Result | None = compute(part)
        except (torch.OutOfMemoryError, MemoryError):
            result = None
        if result is None and torch.cuda.is_available():
            torch.cuda.empty_cache()  # outside the handler, whose traceback holds the tensors
        if result is None and len(part) > 1:
            waiting += [part[len(part) // 2 :], part[: len(part) // 2]]
        else:
            yield part, result
