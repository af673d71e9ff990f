"""What is chosen or covered already: rows of earlier rounds and of other datasets, which a round has to respect."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError
from aqvolt_flows.sampling.direct.rows import Rows, Shards

#: Ranks: chosen for good, chosen but to be chosen again or given back, and new.
FIXED, OFFERED, NEW = 0, 1, 2
#: A row that is chosen for good stands for its cluster if it lies within so many thresholds of the center. A joint
#: choice takes the row nearest to the center; one at the rim leaves the other side bare. With 0.7, rounds choose as
#: many as a joint choice, to 10 %, with equal gaps; with 1 they choose 15 % fewer, with 0.5 7 % more
#: (docs/performance/sampling.md).
REACH = 0.7


@dataclass(frozen=True, eq=False)
class Known:
    """Structures that are chosen or covered, with their features: a space can be refitted around them.

    Attributes
    ----------
    structures
        (c, d_structure).
    atoms
        (sum of n_atoms, d_atom).
    n_atoms
        (c,). Zero: atoms are not known, and the structure covers what is within the threshold of it in the structural
        space alone.
    names
        (c,), what the caller calls them.
    """

    structures: Rows
    atoms: Rows
    n_atoms: NDArray[np.int64]
    names: NDArray[np.str_]

    @classmethod
    def of(
        cls,
        structures: Rows | Iterable[Rows],
        atoms: Rows | Iterable[Rows] | None = None,
        n_atoms: NDArray[np.integer] | None = None,
    ) -> Known:
        """Return structures (m, d_structure) with their atoms, or without: see ``n_atoms``.

        Raises
        ------
        InputError
            If rows are not finite numbers, or n_atoms do not add up.
        """
        rows = _whole(structures, "covered features")
        counts = np.zeros(len(rows), np.int64) if n_atoms is None else np.asarray(n_atoms, np.int64)
        environments = np.zeros((0, 0), np.float32) if atoms is None else _whole(atoms, "covered atoms")
        if counts.shape != (len(rows),) or (counts < 0).any() or counts.sum() != len(environments):
            raise InputError(
                f"{len(rows)} covered structures came with n_atoms of shape {counts.shape}, {counts.sum()} in all, and "
                f"{len(environments)} rows of atoms; give n_atoms of each structure and the features of all its atoms."
            )
        return cls(rows, environments, counts, np.full(len(rows), "", dtype=np.str_))

    @classmethod
    def none(cls) -> Known:
        """Return no structures."""
        empty = np.zeros((0, 0), np.float32)
        return cls(empty, empty, np.zeros(0, np.int64), np.zeros(0, np.str_))

    def __len__(self) -> int:
        """Return how many structures there are."""
        return len(self.n_atoms)

    def take(self, which: NDArray[np.bool_]) -> Known:
        """Return some of them, (c,) mask."""
        atoms = self.atoms[np.repeat(which, self.n_atoms)]
        return Known(self.structures[which], atoms, self.n_atoms[which], self.names[which])

    def __add__(self, other: Known) -> Known:
        """Return both, one after the other."""
        pairs = zip(self._arrays(), other._arrays(), strict=True)
        return Known(*(_joined(a, b, what) for (what, a), (_, b) in pairs))

    def _arrays(self) -> tuple[tuple[str, NDArray], ...]:
        names = ("structures", "atoms", "n_atoms", "names")
        return tuple((name, getattr(self, name)) for name in names)


@dataclass(frozen=True, eq=False)
class After:
    """Known rows, then those of shards; read again as often as the shards can be."""

    known: Rows
    shards: Shards

    def __iter__(self) -> Iterator[Rows]:
        if len(self.known):
            yield self.known
        yield from self.shards.blocks()


def _joined(a: NDArray, b: NDArray, what: str) -> NDArray:
    if a.ndim == 1:
        return np.concatenate([a, b])
    if not len(a) or not len(b):
        return b if len(b) else a
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"Known {what} have {a.shape[1]} columns, those that are added {b.shape[1]}; use one encoder and layer."
        )
    return np.concatenate([a, b])


def _whole(rows: Rows | Iterable[Rows], what: str) -> Rows:
    if isinstance(rows, np.ndarray) and not len(rows):
        return rows
    return np.concatenate(list(Shards(rows, what, None).blocks()))
