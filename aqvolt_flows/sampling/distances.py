"""Distances between atoms of a periodic cell: the closest pair, and the atom that is farthest from all others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.sampling.direct.kernels import compiled

if TYPE_CHECKING:
    pass


Array = NDArray[np.float64]


#: A cell that needs more images than this along an axis is thinner than an atom, and has no volume to speak of.
_MAX_IMAGES = 12


def reaches(cells: Array, cutoff: float | Array) -> Array:
    """Return how far ``cutoff`` (Å) reaches along each axis, in fractions of the cells, (n, 3).

    A vector shorter than the cutoff has fractional components below cutoff / h, with h the heights of the cell.
    Differences of positions wrapped to [-1/2, 1/2] therefore need periodic images up to
    ``ceil(cutoff / h + 1/2) - 1``: none for a cutoff of half the height.

    Parameters
    ----------
    cells
        (n, 3, 3), Å.
    cutoff
        Å, or (n,).
    """
    volumes = np.abs(np.linalg.det(cells))
    areas = np.linalg.norm(np.cross(cells[:, [1, 2, 0]], cells[:, [2, 0, 1]]), axis=2)
    heights = np.maximum(volumes[:, None] / np.maximum(areas, 1e-300), 1e-6)
    return np.asarray(np.reshape(cutoff, (-1, 1)) / heights, dtype=float)


@compiled
def _search(fractional, cell, radii, reach, nearest):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the smallest squared distance over squared sum of radii; fill ``nearest`` with squared distances.

    Only pairs within the reach are seen.
    """
    n = len(fractional)
    worst = np.inf
    most = np.empty(3, np.int64)
    for k in range(3):
        most[k] = min(int(np.ceil(reach[k] + 0.5)) - 1, _MAX_IMAGES)
    for i in range(n):
        for j in range(i, n):
            f0 = fractional[j, 0] - fractional[i, 0]
            f1 = fractional[j, 1] - fractional[i, 1]
            f2 = fractional[j, 2] - fractional[i, 2]
            f0, f1, f2 = f0 - np.rint(f0), f1 - np.rint(f1), f2 - np.rint(f2)
            for a in range(-most[0], most[0] + 1):
                if abs(f0 + a) > reach[0]:
                    continue
                for b in range(-most[1], most[1] + 1):
                    if abs(f1 + b) > reach[1]:
                        continue
                    for c in range(-most[2], most[2] + 1):
                        if abs(f2 + c) > reach[2] or (i == j and a == 0 and b == 0 and c == 0):
                            continue
                        square = 0.0
                        for k in range(3):
                            x = (f0 + a) * cell[0, k] + (f1 + b) * cell[1, k] + (f2 + c) * cell[2, k]
                            square += x * x
                        nearest[i] = min(nearest[i], square)
                        nearest[j] = min(nearest[j], square)
                        worst = min(worst, square / (radii[i] + radii[j]) ** 2)
    return worst


@compiled
def _neighborhoods(offsets, fractional, cells, reach, closest, loneliest):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Fill in, for each frame, the smallest squared distance, and the largest one of an atom to its nearest."""
    for frame in range(len(cells)):
        first, last = offsets[frame], offsets[frame + 1]
        nearest = np.full(last - first, np.inf)
        _search(fractional[first:last], cells[frame], np.ones(last - first), reach[frame], nearest)
        for i in range(last - first):
            closest[frame] = min(closest[frame], nearest[i])
            loneliest[frame] = max(loneliest[frame], nearest[i])


def neighborhoods(
    offsets: NDArray[np.int64], positions: Array, cells: Array, cutoff: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return :func:`neighborhood` of many frames, (n,) and (n,), Å.

    Parameters
    ----------
    offsets
        (n + 1,), first atom of each frame, and the end.
    positions, cells
        (sum of n_atoms, 3) and (n, 3, 3), Å; finite, cells with a volume.
    cutoff
        Å.
    """
    closest, loneliest = np.full(len(cells), np.inf), np.zeros(len(cells))
    of_frame = np.repeat(np.arange(len(cells)), np.diff(offsets))
    fractional = np.einsum("ij,ijk->ik", positions, np.linalg.inv(cells)[of_frame])
    _neighborhoods(offsets, fractional, cells, reaches(cells, cutoff), closest, loneliest)
    return np.sqrt(closest), np.sqrt(loneliest)


def neighborhood(positions: Array, cell: Array, cutoff: float) -> tuple[float, float]:
    """Return the smallest distance between two atoms, and the largest distance of an atom to its nearest, Å.

    Periodic images count. Distances above ``cutoff`` may be returned too large or infinite.

    Parameters
    ----------
    positions, cell
        (n, 3) and (3, 3), Å; finite, n ≥ 1.
    cutoff
        Å.
    """
    if abs(np.linalg.det(cell)) < 1e-6:
        return 0.0, np.inf
    offsets = np.array([0, len(positions)])
    closest, loneliest = neighborhoods(offsets, np.asarray(positions, float), np.asarray(cell, float)[None], cutoff)
    return float(closest[0]), float(loneliest[0])
