"""Edges of the graphs that the trainer will build, counted without it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ase import Atoms

#: Å²: fairchem's cap keeps all neighbors whose squared distance is within this of the first one beyond it
#: (``get_max_neighbors_mask``), so that symmetric shells stay whole.
DEGENERACY_A2 = 0.01


@dataclass(frozen=True)
class EdgeCount:
    """Edges of some structures under one cutoff and one neighbor cap.

    Attributes
    ----------
    frames, atoms, edges
        What was counted.
    capped
        Atoms with more neighbors than the cap.
    most_per_atom
        Edges per atom of the densest structure.
    """

    frames: int = 0
    atoms: int = 0
    edges: int = 0
    capped: int = 0
    most_per_atom: float = 0.0

    @property
    def per_atom(self) -> float:
        """Mean edges per atom."""
        return self.edges / self.atoms if self.atoms else 0.0

    def as_dict(self) -> dict[str, float]:
        """Return what documents say."""
        return {
            "frames": self.frames,
            "edges_per_atom": round(self.per_atom, 2),
            "most_edges_per_atom": round(self.most_per_atom, 2),
            "share_of_atoms_capped": round(self.capped / self.atoms, 4) if self.atoms else 0.0,
        }


def neighbor_distances(atoms: Atoms, cutoff_a: float) -> list[NDArray[np.float64]]:
    """Return, per atom, the sorted distances (Å) of its neighbors within the cutoff, periodic images included."""
    from ase.neighborlist import neighbor_list

    first, distances = neighbor_list("id", atoms, cutoff_a)
    order = np.argsort(first, kind="stable")
    parts = np.split(distances[order], np.cumsum(np.bincount(first, minlength=len(atoms)))[:-1])
    return [np.sort(part) for part in parts]


def edges_under(distances: NDArray[np.float64], cap: int) -> int:
    """Return how many of one atom's neighbors, by sorted distance, fairchem keeps under a cap."""
    if len(distances) <= cap:
        return len(distances)
    squares = distances**2
    return int((squares <= squares[cap] + DEGENERACY_A2).sum())


def count_edges(structures: Iterable[Atoms], cutoff_a: float, caps: Iterable[int]) -> list[EdgeCount]:
    """Return the edges of structures under each of several caps.

    Parameters
    ----------
    structures
        Periodic structures.
    cutoff_a
        Å.
    caps
        ``max_neighbors`` of the stages.
    """
    wanted = list(caps)
    counts = [EdgeCount() for _ in wanted]
    for atoms in structures:
        distances = neighbor_distances(atoms, cutoff_a)
        for place, cap in enumerate(wanted):
            edges = sum(edges_under(d, cap) for d in distances)
            seen = counts[place]
            counts[place] = EdgeCount(
                seen.frames + 1,
                seen.atoms + len(distances),
                seen.edges + edges,
                seen.capped + sum(len(d) > cap for d in distances),
                max(seen.most_per_atom, edges / max(len(distances), 1)),
            )
    return counts
