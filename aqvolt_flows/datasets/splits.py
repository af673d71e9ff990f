"""Train, validation and test by hashing groups, so that new data never move old frames.

A group's place depends on its own name and the salt alone: ``u = first 52 bits of SHA-256(salt, group) / 2⁵²`` falls
into [0, train), [train, train + val) or the rest. A set so small that a split stays empty borrows one group for it, the
one whose hash lies nearest; that is written into the manifest, because it is undone when the split fills by itself.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Assignment:
    """Which group is in which split.

    Attributes
    ----------
    splits
        Group → train, val or test.
    borrowed
        Group → the split its hash would have given, for groups moved into a split that was empty.
    """

    splits: dict[str, str]
    borrowed: dict[str, str] = field(default_factory=dict)


def unit_hash(group: str, salt: str) -> float:
    """Return the place of a group in [0, 1)."""
    digest = hashlib.sha256(f"{salt}\0{group}".encode()).hexdigest()
    return int(digest[:13], 16) / 2.0**52


def intervals(fractions: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Return each split's half-open interval of [0, 1); the last one with a share ends at 1 exactly."""
    result: dict[str, tuple[float, float]] = {}
    low = 0.0
    last = [s for s in SPLITS if fractions.get(s, 0.0) > 0][-1]
    for split in SPLITS:
        share = fractions.get(split, 0.0)
        high = 1.0 if split == last and share > 0 else low + share
        result[split] = (low, high)
        low = high
    return result


def assign(groups: Iterable[str], fractions: Mapping[str, float], salt: str) -> Assignment:
    """Return the split of every group.

    Parameters
    ----------
    groups
        Names of groups, in any order, repeated or not.
    fractions
        Shares of train, val and test; they add up to 1.
    salt
        Seeds the hash.
    """
    places = {group: unit_hash(group, salt) for group in sorted(set(groups))}
    bounds = intervals(fractions)
    splits = {g: next(s for s, (low, high) in bounds.items() if low <= u < high) for g, u in places.items()}
    borrowed: dict[str, str] = {}
    if len(places) < len(SPLITS):
        return Assignment(splits)
    for split in ("val", "test", "train"):
        if fractions.get(split, 0.0) <= 0 or split in splits.values():
            continue
        size = Counter(splits.values())
        lenders = [g for g in places if size[splits[g]] > 1 and g not in borrowed]
        if not lenders:
            continue
        low, high = bounds[split]
        nearest = min(lenders, key=lambda g: (max(low - places[g], places[g] - high, 0.0), g))
        borrowed[nearest] = splits[nearest]
        splits[nearest] = split
    return Assignment(splits, borrowed)
