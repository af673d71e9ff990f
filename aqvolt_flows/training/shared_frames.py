"""Frames of one release's training set that another release of a mixture validates or tests on.

Frames of one reduced formula are compared whose volumes per atom agree; pymatgen's ``StructureMatcher`` then decides
with tight tolerances, so that order of atoms, origin, orientation and choice of cell do not hide a copy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aqvolt_flows.chemistry import symbols_of
from aqvolt_flows.training.data import LabelledFrame, Source, Split, frames, some_frames

#: Volumes per atom of copies agree within this fraction.
VOLUME_TOLERANCE = 1e-4
#: ``StructureMatcher``: fraction of a length, of (V/N)^(1/3), and degrees. 0.005 × 2.5 Å is about 0.01 Å.
LTOL, STOL, ANGLE_TOL = 1e-3, 5e-3, 0.1
#: Pairs that are compared atom by atom at most.
MAX_PAIRS = 50_000


@dataclass
class Shared:
    """What a search found.

    Attributes
    ----------
    training
        Source → (index in its training split, which frame of which other source it is).
    compared, left_out
        Pairs that were and were not compared atom by atom.
    """

    training: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    compared: int = 0
    left_out: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return what documents say."""
        return {
            "found": {name: len(places) for name, places in self.training.items()},
            "pairs_compared": self.compared,
            "pairs_left_out": self.left_out,
        }


def shared_frames(sources: Sequence[Source], lost: Mapping[tuple[str, str], Set[int]]) -> Shared:
    """Find training frames of one source among validation and test frames of another.

    Parameters
    ----------
    sources
        The releases of a mixture.
    lost
        (source, split) → indices that are left out for other reasons.
    """
    guarded: dict[tuple[tuple[int, int], ...], list[tuple[float, str, str, int]]] = defaultdict(list)
    for source in sources:
        for split in ("val", "test"):
            if split in source.splits:
                for index, key, volume in _keys(source.splits[split], lost.get((source.name, split), frozenset())):
                    guarded[key].append((volume, source.name, split, index))
    for places in guarded.values():
        places.sort()
    splits = {(s.name, name): split for s in sources for name, split in s.splits.items()}
    shared = Shared()
    for source in sources:
        found = []
        for index, key, volume in _keys(source.splits["train"], lost.get((source.name, "train"), frozenset())):
            near = _near(guarded.get(key, []), volume, source.name)
            same = _first_same(source.splits["train"], index, near, splits, shared)
            if same is not None:
                found.append((index, same))
        if found:
            shared.training[source.name] = found
    return shared


def _keys(split: Split, lost: Set[int]) -> Any:
    for index, frame in enumerate(frames(split)):
        if index not in lost and np.isfinite(frame.cell).all():
            yield index, _formula(frame), abs(float(np.linalg.det(frame.cell))) / len(frame.numbers)


def _formula(frame: LabelledFrame) -> tuple[tuple[int, int], ...]:
    numbers, counts = np.unique(frame.numbers, return_counts=True)
    divisor = int(np.gcd.reduce(counts))
    return tuple((int(z), int(n) // divisor) for z, n in zip(numbers, counts, strict=True))


def _near(places: list[tuple[float, str, str, int]], volume: float, name: str) -> list[tuple[str, str, int]]:
    low = np.searchsorted([p[0] for p in places], volume * (1 - VOLUME_TOLERANCE))
    found = []
    for other_volume, other, split, index in places[int(low) :]:
        if other_volume > volume * (1 + VOLUME_TOLERANCE):
            break
        if other != name:
            found.append((other, split, index))
    return found


def _first_same(
    train: Split,
    index: int,
    near: Sequence[tuple[str, str, int]],
    splits: Mapping[tuple[str, str], Split],
    shared: Shared,
) -> str | None:
    """Return which of the near frames is the same configuration as a training frame, or None."""
    if not near:
        return None
    (own,) = some_frames(train, [index])
    for name, split, place in near:
        if shared.compared >= MAX_PAIRS:
            shared.left_out += 1
            continue
        shared.compared += 1
        (other,) = some_frames(splits[name, split], [place])
        if same_configuration(own, other):
            return f"{other.frame_id} in {split} of {name}"
    return None


def same_configuration(one: LabelledFrame, other: LabelledFrame) -> bool:
    """Return whether two frames are one configuration, whatever the order of atoms, origin and cell."""
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

    matcher = StructureMatcher(ltol=LTOL, stol=STOL, angle_tol=ANGLE_TOL, primitive_cell=True, scale=False)
    first, second = (
        Structure(f.cell, symbols_of(f.numbers), f.positions, coords_are_cartesian=True) for f in (one, other)
    )
    return bool(matcher.fit(first, second))
