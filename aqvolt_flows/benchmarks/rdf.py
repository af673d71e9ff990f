"""Radial distribution of the other elements around lithium, and how far two of them are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element

#: Largest distance, Å, and width of a bin, Å.
R_MAX_A, BIN_A = 6.0, 0.05
#: Frames that are averaged, evenly spread.
MAX_FRAMES = 20


@dataclass(frozen=True, eq=False)
class Distribution:
    """g(r) of one element around lithium.

    Attributes
    ----------
    r_a
        (k,), centers of the bins, Å.
    g
        (k,), 1 where the element is spread evenly.
    density_per_a3
        Mean number density of the element.
    """

    r_a: NDArray[np.float64]
    g: NDArray[np.float64]
    density_per_a3: float

    def neighbors_within(self, r_a: float) -> float:
        """Return the mean number of these atoms within a distance of a lithium."""
        inside = self.r_a < r_a
        width = self.r_a[1] - self.r_a[0]
        edges = self.r_a[inside] - width / 2
        shells = 4 / 3 * np.pi * ((edges + width) ** 3 - edges**3)
        return float((self.g[inside] * shells).sum() * self.density_per_a3)


def around_lithium(
    numbers: NDArray[np.int64],
    positions: NDArray[np.float64],
    cells: NDArray[np.float64],
    max_frames: int = MAX_FRAMES,
) -> dict[str, Distribution]:
    """Return g(r) of every other element around lithium; periodic images count, so small cells are no limit.

    Parameters
    ----------
    numbers
        (n,), atomic numbers; lithium among them.
    positions, cells
        (k, n, 3) and (k, 3, 3), Å.
    max_frames
        Frames that are averaged.
    """
    from ase.neighborlist import primitive_neighbor_list

    chosen = np.unique(np.linspace(0, len(positions) - 1, min(max_frames, len(positions))).astype(int))
    edges = np.linspace(0, R_MAX_A, round(R_MAX_A / BIN_A) + 1)
    lithium = numbers == 3
    counts = {int(z): np.zeros(len(edges) - 1) for z in np.unique(numbers[~lithium])}
    volumes = []
    for frame in chosen:
        i, j, d = primitive_neighbor_list("ijd", (True, True, True), cells[frame], positions[frame], R_MAX_A)
        from_lithium = lithium[i]
        kinds, distances = numbers[j[from_lithium]], d[from_lithium]
        for z in counts:
            counts[z] += np.histogram(distances[kinds == z], edges)[0]
        volumes.append(abs(np.linalg.det(cells[frame])))
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    found = {}
    for z, count in counts.items():
        density = float((numbers == z).sum() / np.mean(volumes))
        g = count / (len(chosen) * lithium.sum() * density * shells)
        found[Element.from_Z(z).symbol] = Distribution((edges[1:] + edges[:-1]) / 2, g, density)
    return found


def difference(ours: Distribution, reference: Distribution) -> float:
    """Return Σ |g − g_ref| / Σ (g + g_ref) over the bins: 0 for equal, 1 for distributions without overlap."""
    total = float((ours.g + reference.g).sum())
    return float(np.abs(ours.g - reference.g).sum()) / total if total else 0.0


def differences(
    ours: Mapping[str, Distribution], reference: Mapping[str, Distribution], elements: Sequence[str] | None = None
) -> dict[str, float]:
    """Return :func:`difference` for every element that both have."""
    common = sorted(set(ours) & set(reference) & set(elements or ours))
    return {x: difference(ours[x], reference[x]) for x in common}
