"""Labels of one configuration met twice: found by wrap-invariant features, confirmed atom by atom.

Rounding and hashing coordinates misses copies that straddle a rounding boundary. Here every configuration has
features that change by at most a known amount when atoms move by at most the tolerance: the nine cell components, and
Z-weighted structure factors at six small reciprocal vectors (indifferent to wrapping and to the order of like atoms).
Pairs that are near in all of them are compared atom by atom, so features may only ever propose too many.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

Array = NDArray[np.float64]
Configuration = tuple[NDArray[np.int16], Array, Array]

_HKL = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1]], dtype=float)


class DuplicateFinder:
    """Collects configurations one by one and tells which repeat an earlier one.

    Parameters
    ----------
    tolerance_a
        Largest difference of any cell component and any atomic position (nearest image), Å.
    """

    def __init__(self, tolerance_a: float) -> None:
        self.tolerance_a = tolerance_a
        self._members: dict[tuple[str, bytes], list[tuple[str, Array, float]]] = defaultdict(list)

    def add(self, identity: str, numbers: NDArray[np.int16], positions: Array, cell: Array, kind: str = "") -> None:
        """Take one configuration; only those of one ``kind`` (a protocol) and composition are compared."""
        key = (kind, np.sort(numbers).tobytes())
        inverse = np.linalg.inv(cell)
        phases = 2 * np.pi * (positions @ inverse) @ _HKL.T
        weights = (numbers / numbers.sum())[:, None]
        factors = np.concatenate([(weights * np.cos(phases)).sum(axis=0), (weights * np.sin(phases)).sum(axis=0)])
        # An atom that moves by t, in a cell changed by as much, moves its phases by no more than this times t:
        spread = 1 + 3 * float(np.abs(positions @ inverse).max())
        reach = 2 * np.pi * 3 * float(np.abs(inverse).sum(axis=0).max()) * spread
        self._members[key].append((identity, np.concatenate([cell.ravel(), factors]), reach))

    def repeats(self, load: Callable[[Sequence[str]], dict[str, Configuration]]) -> dict[str, str]:
        """Return identity → the earlier (smaller) identity it repeats.

        Parameters
        ----------
        load
            Returns the configurations of some identities; called for proposed pairs only.
        """
        found: dict[str, str] = {}
        for members in self._members.values():
            for first, second in self._proposed(members):
                if first in found or second in found:
                    continue
                pair = load([first, second])
                if same_configuration(pair[first], pair[second], self.tolerance_a):
                    found[second] = first
        return found

    def _proposed(self, members: list[tuple[str, Array, float]]) -> Iterable[tuple[str, str]]:
        if len(members) < 2:
            return []
        members = sorted(members, key=lambda m: m[0])
        features = np.array([m[1] for m in members])
        scale = np.concatenate([np.full(9, 1.0), np.full(2 * len(_HKL), max(m[2] for m in members))])
        pairs = cKDTree(features / scale).query_pairs(self.tolerance_a * (1 + 1e-9), p=np.inf)
        return [(members[i][0], members[j][0]) for i, j in sorted(pairs)]


def same_configuration(a: Configuration, b: Configuration, tolerance_a: float) -> bool:
    """Return whether two periodic configurations agree within the tolerance, like atoms in any order.

    Parameters
    ----------
    a, b
        Atomic numbers (n), positions (n, 3) and cell (3, 3) in Å.
    """
    (numbers_a, positions_a, cell_a), (numbers_b, positions_b, cell_b) = a, b
    if len(numbers_a) != len(numbers_b) or np.abs(cell_a - cell_b).max() > tolerance_a:
        return False
    for z in np.unique(numbers_a):
        of_a, of_b = positions_a[numbers_a == z], positions_b[numbers_b == z]
        if len(of_a) != len(of_b):
            return False
        fractional = (of_a[:, None, :] - of_b[None, :, :]) @ np.linalg.inv(cell_a)
        shift = (fractional - np.rint(fractional)) @ cell_a
        distance = np.linalg.norm(shift, axis=-1)
        if np.diagonal(distance).max() <= tolerance_a:
            continue
        matched = linear_sum_assignment(distance > tolerance_a)
        if (distance[matched] > tolerance_a).any():
            return False
    return True
