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
#: Configurations of one size that are described at once.
_BLOCK = 512


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
        self._waiting: dict[int, list[tuple[str, str, Configuration]]] = defaultdict(list)

    def add(self, identity: str, numbers: NDArray[np.int16], positions: Array, cell: Array, kind: str = "") -> None:
        """Take one configuration; only those of one ``kind`` (a protocol) and composition are compared."""
        waiting = self._waiting[len(numbers)]
        waiting.append((identity, kind, (numbers, positions, cell)))
        if len(waiting) == _BLOCK:
            self._describe(len(numbers))

    def _describe(self, n_atoms: int) -> None:
        """Compute the features of the configurations of one size that wait, all at once."""
        waiting = self._waiting.pop(n_atoms)
        numbers = np.array([c[0] for _, _, c in waiting])
        positions = np.array([c[1] for _, _, c in waiting])
        cells = np.array([c[2] for _, _, c in waiting])
        inverses = np.linalg.inv(cells)
        fractional = positions @ inverses
        phases = 2 * np.pi * fractional @ _HKL.T
        weights = (numbers / numbers.sum(axis=1, keepdims=True))[..., None]
        parts = [cells.reshape(-1, 9), (weights * np.cos(phases)).sum(axis=1), (weights * np.sin(phases)).sum(axis=1)]
        features = np.concatenate(parts, axis=1)
        # An atom that moves by t, in a cell changed by as much, moves its phases by no more than this times t:
        spread = 1 + 3 * np.abs(fractional).max(axis=(1, 2))
        reach = 2 * np.pi * 3 * np.abs(inverses).sum(axis=1).max(axis=1) * spread
        kinds = np.sort(numbers, axis=1)
        for i, (identity, kind, _) in enumerate(waiting):
            self._members[kind, kinds[i].tobytes()].append((identity, features[i], float(reach[i])))

    def repeats(self, load: Callable[[Sequence[str]], dict[str, Configuration]]) -> dict[str, str]:
        """Return identity → the earlier (smaller) identity it repeats.

        Parameters
        ----------
        load
            Returns the configurations of some identities; called for proposed pairs only.
        """
        for n_atoms in list(self._waiting):
            self._describe(n_atoms)
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
