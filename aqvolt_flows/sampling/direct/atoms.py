"""The atomic level of 2DIRECT: atoms choose their structures, within each structural cluster or over all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.sampling.direct.grouping import Parents, buckets
from aqvolt_flows.sampling.direct.parts import PartChoices, choose_in_bucket
from aqvolt_flows.sampling.direct.rows import Rows, Shards, ahead
from aqvolt_flows.sampling.direct.selection import AtomPicks
from aqvolt_flows.sampling.direct.single_direct import Chooser, Pick, Running, fit, nearest
from aqvolt_flows.sampling.direct.space import Moments

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class AtomChoice:
    """The choices of the atomic level.

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


def choose_atoms(atoms: Shards, n_atoms: Numbers, labels: Numbers, choice: AtomChoice) -> AtomPicks:
    """Choose atoms and return their structures, clusters and distances.

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
    """
    parents = Parents(n_atoms)
    if not (labels >= 0).any():
        parents.check_count(sum(len(block) for block in atoms.blocks()))
        return AtomPicks.joined([])
    if choice.together:
        return _one_space(_Taking(atoms, parents, labels >= 0), n_atoms, labels >= 0, choice)
    rules = PartChoices(
        *(choice.threshold, choice.k, choice.weight_components, choice.pick, choice.running.branching, choice.threads),
        compiled=choice.running.engine.compiled_parts,
    )

    def large(rows: Rows, sizes: Numbers) -> AtomPicks:
        if Moments.of(rows).constant.all():
            return AtomPicks(np.array([np.argmin(sizes)]), np.zeros(1, np.int64), np.zeros(1, np.float32), 1)
        return _single_direct(Shards(rows, "part", choice.running.scratch), sizes, choice)

    grouped = buckets(atoms, parents, labels, choice.running.scratch)
    return AtomPicks.joined([choose_in_bucket(bucket, n_atoms, rules, large) for bucket in ahead(grouped)])


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


def _one_space(rows: _Taking, n_atoms: Numbers, takes_part: NDArray[np.bool_], choice: AtomChoice) -> AtomPicks:
    """Choose over all atoms in one space."""
    structures = np.flatnonzero(takes_part)
    parents = Parents(n_atoms[structures])
    shards = Shards(rows, "atom_features", choice.running.scratch)
    picks = _single_direct(shards, n_atoms[structures], choice, parents)
    return replace(picks, structures=structures[np.searchsorted(parents.first, picks.structures, side="right") - 1])


def _single_direct(shards: Shards, sizes: Numbers, choice: AtomChoice, parents: Parents | None = None) -> AtomPicks:
    """Run one DIRECT over atoms and return rows in place of structures.

    ``sizes`` are those of each row's structure, or of each structure of ``parents``.
    """
    running = choice.running
    _, points, clusters = fit(shards, choice.threshold, choice.weight_components, running)
    chooser = Chooser(len(clusters.centers), choice.k, choice.threshold, choice.pick)
    seen = 0
    for found, distances in nearest(points, running.engine.index(clusters.centers), running.engine):
        own = slice(seen, seen + len(found)) if parents is None else parents.of(seen, len(found))
        chooser.add(found, distances, sizes[own])
        seen += len(found)
    points.close()
    return AtomPicks(*chooser.chosen(), len(clusters.centers))
