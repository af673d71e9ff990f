"""Stage 2: atoms choose their structures, within each structural cluster or over all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.sampling.grouping import Parents, buckets
from aqvolt_flows.sampling.parts import PartChoices, choose_in_bucket
from aqvolt_flows.sampling.shards import Rows, Shards
from aqvolt_flows.sampling.space import Moments
from aqvolt_flows.sampling.stage import Chooser, Pick, Running, fit, nearest

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class AtomChoice:
    """The choices of stage 2.

    Attributes
    ----------
    threshold, k, weight_components, pick
        As in :class:`aqvolt_flows.sampling.TwoStageDirect`.
    together
        One space for all atoms instead of one for each structural cluster.
    threads
        Of the loop over parts.
    running
        Engine, scratch folder, order.
    """

    threshold: float
    k: int
    weight_components: bool
    pick: Pick
    together: bool
    threads: int | None
    running: Running


def choose_atoms(
    atoms: Shards, n_atoms: Numbers, labels: Numbers, choice: AtomChoice
) -> tuple[dict[int, list[int]], int]:
    """Choose atoms and return their structures.

    Parameters
    ----------
    atoms
        Features in the order of the structures.
    n_atoms
        (n,), atoms of each structure.
    labels
        (n,), structural cluster of each structure; negative: takes no part.
    choice
        Threshold and rules.

    Returns
    -------
    (dict, int)
        The atomic clusters that chose each chosen structure, and how many atomic clusters there are.
    """
    parents = Parents(n_atoms)
    found: dict[int, list[int]] = {}
    if not (labels >= 0).any():
        parents.check_count(sum(len(block) for block in atoms.blocks()))
        return found, 0
    if choice.together:
        rows, clusters, total = _one_space(_Taking(atoms, parents, labels >= 0), n_atoms, labels >= 0, choice)
        _note(found, rows, clusters)
        return found, total
    rules = PartChoices(
        *(choice.threshold, choice.k, choice.weight_components, choice.pick, choice.running.branching, choice.threads)
    )

    def large(rows: Rows, sizes: Numbers) -> tuple[Numbers, Numbers, int]:
        if Moments.of(rows).constant.all():
            return np.array([np.argmin(sizes)]), np.zeros(1, np.int64), 1
        return _whole_stage(Shards(rows, "part", choice.running.scratch), sizes, choice)

    total = 0
    for bucket in buckets(atoms, parents, labels, choice.running.scratch):
        rows, clusters, count = choose_in_bucket(bucket, n_atoms, rules, large)
        _note(found, rows, clusters + total)
        total += count
    return found, total


def _note(found: dict[int, list[int]], structures: Numbers, clusters: Numbers) -> None:
    for structure, cluster in zip(structures.tolist(), clusters.tolist(), strict=True):
        found.setdefault(structure, []).append(cluster)


@dataclass(frozen=True, eq=False)
class _Taking:
    """The atoms whose structures take part, as shards that can be read again."""

    atoms: Shards
    parents: Parents
    takes_part: NDArray[np.bool_]

    def __iter__(self) -> Iterator[Rows]:
        seen = 0
        for block in self.atoms.blocks():
            structures = self.parents.of(seen, len(block))
            seen += len(block)
            yield block[self.takes_part[structures]]
        self.parents.check_count(seen)


def _one_space(
    rows: _Taking, n_atoms: Numbers, takes_part: NDArray[np.bool_], choice: AtomChoice
) -> tuple[Numbers, Numbers, int]:
    """Choose over all atoms in one space; return the structures of the chosen, their clusters, how many clusters."""
    structures = np.flatnonzero(takes_part)
    parents = Parents(n_atoms[structures])
    shards = Shards(rows, "atom_features", choice.running.scratch)
    chosen, clusters, total = _whole_stage(shards, n_atoms[structures], choice, parents)
    return structures[np.searchsorted(parents.first, chosen, side="right") - 1], clusters, total


def _whole_stage(
    shards: Shards, sizes: Numbers, choice: AtomChoice, parents: Parents | None = None
) -> tuple[Numbers, Numbers, int]:
    """Run one stage over atoms; ``sizes`` are those of each row's structure, or of each structure of ``parents``."""
    running = choice.running
    _, points, clusters = fit(shards, choice.threshold, choice.weight_components, running)
    chooser = Chooser(len(clusters.centres), choice.k, choice.threshold, choice.pick)
    seen = 0
    for found, distances in nearest(points, running.engine.index(clusters.centres), running.engine):
        own = slice(seen, seen + len(found)) if parents is None else parents.of(seen, len(found))
        chooser.add(found, distances, sizes[own])
        seen += len(found)
    points.close()
    return *chooser.chosen(), len(clusters.centres)
