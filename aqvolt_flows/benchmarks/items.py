"""What a benchmark measures a model on: structures with an identity, from candidates, a release, or given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pymatgen.core import Structure

from aqvolt_flows.benchmarks.release_data import count_release, read_part
from aqvolt_flows.identity import content_hash, content_key, structure_hash
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.stores import Database
from aqvolt_flows.structures import to_structure


@dataclass(frozen=True, eq=False)
class Item:
    """One structure of a set.

    Attributes
    ----------
    name
        What people call it.
    identity
        Unique in its set; rows name it as ``item_id``.
    structure
        As given, partial occupancy kept; None where it could not be read.
    reference
        What a model is compared with, where the benchmark needs one: for ``force_bins`` a
        :class:`~aqvolt_flows.benchmarks.item_errors.Reference`.
    source, subset
        Where it comes from, for tables by source and subset.
    group
        Of which candidate it is a frame; the unit of the bootstrap. Empty: its own.
    failure
        Why there is no structure.
    """

    name: str
    identity: str
    structure: Structure | None
    reference: Any = None
    source: str = ""
    subset: str = ""
    group: str = ""
    failure: Failure | None = None


class ItemSet(Protocol):
    """A set of items that is read in parts."""

    @property
    def dataset(self) -> str:
        """What tables call it."""
        ...

    @property
    def release_id(self) -> str | None:
        """Of the release that it is, if it is one."""
        ...

    def __len__(self) -> int: ...

    def part(self, first: int, size: int) -> list[Item]:
        """Return ``size`` items from number ``first`` on, fewer at the end."""
        ...


@dataclass(frozen=True)
class GivenItems:
    """Items in memory: of a file, or of a script."""

    items: Sequence[Item]
    dataset: str
    release_id: str | None = None

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.items)

    def part(self, first: int, size: int) -> list[Item]:
        """Return some of them."""
        return list(self.items[first : first + size])


@dataclass(frozen=True)
class CandidateItems:
    """Candidates of a project, by identity."""

    database: Database
    ids: Sequence[str]
    release_id: str | None = None

    @property
    def dataset(self) -> str:
        """What tables call them."""
        return f"{len(self.ids)} candidates"

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.ids)

    def part(self, first: int, size: int) -> list[Item]:
        """Read some of them."""
        return candidate_items(self.database.find_by_ids("candidates", self.ids[first : first + size]))


def candidate_items(documents: Iterable[Any]) -> list[Item]:
    """Return documents of ``candidates`` as items."""
    return [
        Item(
            d["name"],
            d["candidate_id"],
            Structure.from_dict(d["structure"]),
            source=d["source"],
            group=d["candidate_id"],
        )
        for d in documents
    ]


@dataclass(frozen=True)
class ReleaseItems:
    """The labels of one split of a release's folder."""

    folder: Path
    split: str
    release_id: str | None = None

    @property
    def dataset(self) -> str:
        """What tables call them."""
        return f"{self.release_id or self.folder.name} {self.split}"

    def __len__(self) -> int:
        """Return how many there are."""
        return count_release(self.folder, self.split)

    def part(self, first: int, size: int) -> list[Item]:
        """Read some of them."""
        return [
            Item(
                f"{i.formula} {i.frame_id}",
                i.reference.item_id,
                to_structure(i.atoms),
                i.reference,
                source=i.source,
                subset=i.split,
                group=i.candidate_id or i.frame_id,
            )
            for i in read_part(self.folder, self.split, first, size)
        ]


def identity_of(items: ItemSet, at_once: int = 1000) -> str:
    """Return the hash of a set: of the identities of its items, in their order."""
    named = [i.identity for first in range(0, len(items), at_once) for i in items.part(first, at_once)]
    return content_hash(named)


def items_of(structures: Iterable[tuple[str, Structure]], source: str = "") -> list[Item]:
    """Return named structures as items; their hash is their identity, a repeated one is numbered."""
    return numbered(Item(name, structure_hash(s), s, source=source) for name, s in structures)


def broken_item(name: str, source: str, number: int, reason: str) -> Item:
    """Return the item of an entry that could not be read: it is counted, and has no number."""
    identity = content_key("benchmark-item/unreadable", source=source, number=number, reason=reason)
    return Item(name, identity, None, source=source, failure=Failure(reason="unreadable", message=reason))


def numbered(items: Iterable[Item]) -> list[Item]:
    """Return items with unique identities: the second of two equal ones ends in ``-2``."""
    seen: Counter[str] = Counter()
    found = []
    for item in items:
        seen[item.identity] += 1
        count = seen[item.identity]
        found.append(item if count == 1 else replace(item, identity=f"{item.identity}-{count}"))
    return found
