"""Atoms by structural cluster: an external shuffle, so that 36 GB of atomic features need not fit in memory.

One pass writes each atom's row behind the others of its bucket, a run of consecutive clusters that fits in memory;
then buckets are read one after another. A cluster too large for a bucket has one of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError
from aqvolt_flows.sampling.direct.rows import Rows, Shards, Spool

Numbers = NDArray[np.int64]

#: Buckets of one shuffle, two open files each; most systems allow a process 1,024.
_MOST_BUCKETS = 300


@dataclass(frozen=True, eq=False)
class Bucket:
    """Atoms of consecutive clusters.

    Attributes
    ----------
    atoms
        (n, d), by cluster, within a cluster in the order of the structures' turns.
    structures
        (n,), the structure of each atom.
    starts
        (clusters + 1,), where each cluster begins.
    """

    atoms: Rows
    structures: Numbers
    starts: Numbers


class Parents:
    """Which structure each row of the atoms belongs to.

    Parameters
    ----------
    n_atoms
        (n,), atoms of each structure.
    """

    def __init__(self, n_atoms: Numbers) -> None:
        self.first = np.concatenate([[0], np.cumsum(n_atoms, dtype=np.int64)])

    @property
    def n_rows(self) -> int:
        """Atoms in all."""
        return int(self.first[-1])

    def of(self, start: int, n: int) -> Numbers:
        """Return the structures of rows start … start + n − 1."""
        if start + n > self.n_rows:
            raise InputError(
                f"n_atoms add up to {self.n_rows}, but atom_features has more rows; features of other structures may "
                "be among them."
            )
        low, high = np.searchsorted(self.first, [start, max(start, start + n - 1)], side="right") - 1
        bounds = np.clip(self.first[low : high + 2], start, start + n)
        return np.repeat(np.arange(low, high + 1), np.diff(bounds))

    def check_count(self, seen: int) -> None:
        """Raise :class:`InputError` unless as many rows were seen as n_atoms add up to."""
        if seen != self.n_rows:
            raise InputError(
                f"n_atoms add up to {self.n_rows}, but atom_features has {seen} rows; a shard may be missing."
            )


def buckets(
    atoms: Shards,
    parents: Parents,
    labels: Numbers,
    scratch: Path,
    bucket_bytes: int = 128 * 1024**2,
    turns: Numbers | None = None,
) -> Iterator[Bucket]:
    """Yield all atoms whose structure takes part, grouped by structural cluster, clusters in order.

    Parameters
    ----------
    atoms
        In the order of the structures.
    parents
        Their structures.
    labels
        (n,), cluster of each structure; negative: takes no part.
    scratch
        A folder for the buckets.
    bucket_bytes
        Size of a bucket; two of them are held in memory.
    turns
        (n,), place of each structure in its part; default: that of its row.

    Raises
    ------
    InputError
        If atoms and parents do not add up.
    """
    per_label = np.zeros(int(labels.max(initial=-1)) + 1, np.int64)
    takes_part = labels >= 0
    np.add.at(per_label, labels[takes_part], np.diff(parents.first)[takes_part])
    bucket_of = np.zeros(len(per_label), np.int16)
    files: list[tuple[Spool, Spool]] = []
    seen = 0
    try:
        for block in atoms.blocks():
            structures = parents.of(seen, len(block))
            seen += len(block)
            if not files:
                bucket_of = _plan(per_label, block.shape[1] * block.itemsize, bucket_bytes)
                files = [
                    (Spool(scratch / f"bucket-{i}.raw"), Spool(scratch / f"bucket-{i}-structures.raw"))
                    for i in range(int(bucket_of.max(initial=0)) + 1)
                ]
            _spill(block, structures, labels, bucket_of, files)
        parents.check_count(seen)
        for rows, names in files:
            if rows.count:
                yield _load(rows, names, labels, turns)
    finally:
        for pair in files:
            for spool in pair:
                spool.close()
                spool.path.unlink(missing_ok=True)


def _plan(per_label: Numbers, row_bytes: int, bucket_bytes: int) -> NDArray[np.int16]:
    """Return the bucket of each cluster: consecutive clusters share one until it is full."""
    size = max(bucket_bytes // row_bytes, int(per_label.sum()) // _MOST_BUCKETS + 1)
    bucket_of = np.empty(len(per_label), np.int16)  # numpy sorts 16 bits by radix
    bucket, held = 0, 0
    for label, rows in enumerate(per_label.tolist()):
        if held and held + rows > size:
            bucket, held = bucket + 1, 0
        bucket_of[label] = bucket
        held += rows
    return bucket_of


def _spill(
    block: Rows, structures: Numbers, labels: Numbers, bucket_of: NDArray[np.int16], files: list[tuple[Spool, Spool]]
) -> None:
    """Write the rows of a block behind those of their buckets."""
    label = labels[structures]
    kept = np.flatnonzero(label >= 0)
    bucket = bucket_of[label[kept]]
    order = np.argsort(bucket, kind="stable")
    kept, bucket = kept[order], bucket[order]
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(bucket)) + 1, [len(bucket)]])
    for first, last in pairwise(bounds.tolist()):
        if last > first:
            rows, names = files[int(bucket[first])]
            rows.append(block[kept[first:last]])
            names.append(structures[kept[first:last], None])


def _load(rows: Spool, names: Spool, labels: Numbers, turns: Numbers | None) -> Bucket:
    structures = np.concatenate(list(names.blocks()))[:, 0]
    label = labels[structures]
    order = np.argsort(label, kind="stable") if turns is None else np.lexsort((turns[structures], label))
    atoms = np.concatenate(list(rows.blocks()))[order]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(label[order])) + 1, [len(order)]])
    return Bucket(atoms, structures[order], starts)
