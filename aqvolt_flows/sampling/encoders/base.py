"""What encoders share: the protocol, checks before and after, batches by atoms, smaller ones where memory ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.potentials.registry import batches
from aqvolt_flows.sampling.encoders.flat import CLOSEST_A, FlatFrames

if TYPE_CHECKING:
    from ase import Atoms


Array32 = NDArray[np.float32]


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

    def finite(self) -> Features:
        """Return the features without those of frames that hold a NaN or infinity, which become failures."""
        starts = self.offsets[:-1]
        good = np.asarray(np.isfinite(self.structures).all(axis=1))
        if len(starts):
            good &= np.logical_and.reduceat(np.isfinite(self.atoms).all(axis=1), starts)
        if good.all():
            return self
        n = len(good) + len(self.failures)
        places = np.array([i for i in range(n) if i not in self.failures], np.int64)
        return Features(
            self.structures[good],
            self.atoms[np.repeat(good, self.n_atoms)],
            self.n_atoms[good],
            self.failures | dict.fromkeys(places[~good].tolist(), "not_finite"),
        )


class Encoder(Protocol):
    """What every encoder can do.

    Attributes
    ----------
    name, sha256
        Encoder string, and the hash of its weights, of layers that the string chooses, and of its version.
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


class FlatEncoder(ABC):
    """What encoders share: checks before and after, batches by atoms, smaller ones where memory ends."""

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
    def _run(self, frames: FlatFrames) -> Features:
        """Return the features of a batch of frames that passed :meth:`FlatFrames.refusals`."""

    def encode(self, frames: Sequence[Atoms], max_batch_atoms: int = 4096) -> Features:
        """Return the features of frames, computed in batches of at most this many atoms.

        A batch that does not fit into memory is halved until it does; a frame that does not fit alone, and one
        that the model cannot see (atoms on top of each other, an atom without a neighbor, an unknown element), is
        a failure with a reason beside the others' features.
        """
        flat = FlatFrames.of(frames)
        failures = flat.refusals(self.known)
        good = np.array([i for i in range(len(flat)) if i not in failures], np.int64)
        parts = []
        for group in batches(flat.n_atoms[good].tolist(), max_batch_atoms):
            for part, result in halving(good[group].tolist(), lambda some: self._run(flat.take(some))):
                if result is None:
                    failures[part[0]] = "out_of_memory"
                    continue
                parts.append(result.finite())
                failures |= {part[i]: reason for i, reason in parts[-1].failures.items()}
        return Features(
            np.concatenate([np.empty((0, self.d_structure), np.float32), *(p.structures for p in parts)]),
            np.concatenate([np.empty((0, self.d_atom), np.float32), *(p.atoms for p in parts)]),
            np.concatenate([np.empty(0, np.int64), *(p.n_atoms for p in parts)]),
            dict(sorted(failures.items())),
        )

    def _no_features(self, failures: dict[int, str]) -> Features:
        none = np.empty(0, np.int64)
        return Features(
            np.empty((0, self.d_structure), np.float32), np.empty((0, self.d_atom), np.float32), none, failures
        )


class BatchedEncoder(FlatEncoder):
    """An encoder that looks at one frame after the other.

    A family gives ``_prepare`` (a frame to its graph; may be any object) and ``_forward`` (graphs to a structure
    matrix and an atom matrix). One that works on all frames of a batch at once is a
    :class:`~aqvolt_flows.sampling.encoders.pairs.PairEncoder`.
    """

    @abstractmethod
    def _prepare(self, atoms: Atoms) -> Any:
        """Return the graph of a frame."""

    @abstractmethod
    def _forward(self, prepared: list[Any]) -> tuple[Array32, Array32]:
        """Return the structure matrix and the atom matrix of graphs."""

    def _run(self, frames: FlatFrames) -> Features:
        from aqvolt_flows.sampling.distances import neighborhoods

        seen = frames.reduced(self.cutoff)
        closest, loneliest = neighborhoods(seen.offsets, seen.positions, seen.cells, self.cutoff)
        failures = dict.fromkeys(np.flatnonzero(loneliest > self.cutoff).tolist(), "isolated_atom")
        failures |= dict.fromkeys(np.flatnonzero(closest < CLOSEST_A).tolist(), "close_atoms")
        good = [i for i in range(len(frames)) if i not in failures]
        if not good:
            return self._no_features(failures)
        structures, atoms = self._forward([self._prepare(frames[i]) for i in good])
        return Features(
            np.asarray(structures, np.float32), np.asarray(atoms, np.float32), frames.n_atoms[good], failures
        )


#: How allocators that raise a plain RuntimeError say that memory ended: torch on a CPU, Warp, cuBLAS.
_MEMORY_ENDED = ("can't allocate memory", "failed to allocate", "alloc_failed", "out of memory")


def _memory_ended(error: Exception) -> bool:
    """Return whether an exception says that memory ended; torch's own class is a RuntimeError too."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in _MEMORY_ENDED)


def halving[Result](
    indices: list[int], compute: Callable[[list[int]], Result]
) -> Iterator[tuple[list[int], Result | None]]:
    """Yield parts of ``indices`` with their results in order, halving where memory ends; None for one that never fits.

    Parameters
    ----------
    indices
        At least one.
    compute
        Raises ``torch.OutOfMemoryError``, ``MemoryError`` or an allocator's RuntimeError when a part is too big.
    """
    import torch

    waiting = [indices]
    while waiting:
        part = waiting.pop()
        try:
            result: Result | None = compute(part)
        except (RuntimeError, MemoryError) as error:
            if not _memory_ended(error):
                raise
            result = None
        if result is None and torch.cuda.is_available():
            torch.cuda.empty_cache()  # outside the handler, whose traceback holds the tensors
        if result is None and len(part) > 1:
            waiting += [part[len(part) // 2 :], part[: len(part) // 2]]
        else:
            yield part, result
