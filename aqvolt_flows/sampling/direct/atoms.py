"""The atomic level of 2DIRECT: atoms choose their structures, within each structural cluster or over all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.sampling.direct.grouping import Parents, buckets
from aqvolt_flows.sampling.direct.known import NEW, After
from aqvolt_flows.sampling.direct.parts import PartChoices, choose_in_bucket
from aqvolt_flows.sampling.direct.robust import Statistics
from aqvolt_flows.sampling.direct.rows import Rows, Shards, ahead
from aqvolt_flows.sampling.direct.selection import AtomPicks
from aqvolt_flows.sampling.direct.single_direct import Chooser, Pick, Running, fit, nearest

Numbers = NDArray[np.int64]
Mask = NDArray[np.bool_]


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
        Engine, scratch folder, order, scaling.
    """

    threshold: float
    k: int
    weight_components: bool
    pick: Pick
    together: bool
    threads: int | None
    running: Running


@dataclass(frozen=True, eq=False)
class Environments:
    """The atoms to choose from: those of known structures first, then new ones.

    Attributes
    ----------
    known
        (sum over known structures, d).
    shards
        Those of new structures, in their order.
    n_atoms
        (c + n,), atoms of each structure, known ones first.
    ranks
        (c + n,), see :mod:`aqvolt_flows.sampling.direct.known`; new ones too may have been chosen before.
    n_known
        How many are known, c.
    before
        Statistics of all atoms of earlier rounds, where they share one space.
    """

    known: Rows
    shards: Shards
    n_atoms: Numbers
    ranks: NDArray[np.int8]
    n_known: int = 0
    before: Statistics | None = None


@dataclass(frozen=True, eq=False)
class Chosen:
    """What the atoms chose.

    Attributes
    ----------
    picks
        Structures, known ones first, with clusters and distances.
    fresh
        (c + n,), structures with an atom in a cluster that a new structure was chosen for.
    statistics
        Of all atoms of all rounds, where they share one space.
    """

    picks: AtomPicks
    fresh: Mask
    statistics: Statistics | None = None


def choose_atoms(atoms: Environments, labels: Numbers, choice: AtomChoice) -> Chosen:
    """Choose atoms and return their structures, clusters and distances.

    Parameters
    ----------
    atoms
        Features with ranks and sizes of their structures.
    labels
        (c + n,), structural cluster of each structure; negative: takes no part.
    choice
        Threshold and rules.
    """
    n, known = len(atoms.n_atoms), atoms.n_known
    if not (labels[known:] >= 0).any():
        Parents(atoms.n_atoms[known:]).check_count(sum(len(block) for block in atoms.shards.blocks()))
        return Chosen(AtomPicks.joined([]), np.zeros(n, np.bool_), atoms.before)
    if choice.together:
        return _one_space(atoms, labels >= 0, choice)
    running = choice.running
    rules = PartChoices(
        *(choice.threshold, choice.k, choice.weight_components, choice.pick, running.branching, choice.threads),
        compiled=running.engine.compiled_parts,
        robust=running.scaling == "robust",
    )

    def large(rows: Rows, sizes: Numbers, ranks: NDArray[np.int8]) -> tuple[AtomPicks, Mask]:
        found = _single_direct(Shards(rows, "part", running.scratch), sizes, ranks, choice)
        return found.picks, found.fresh

    turns = None
    if running.order == "shuffled":
        turns = np.concatenate([np.arange(known), known + np.random.default_rng(running.seed).permutation(n - known)])
    source, fresh, picks = atoms.shards, np.zeros(n, np.bool_), []
    if len(atoms.known):
        source = Shards(After(atoms.known, atoms.shards), "atom_features", running.scratch)
    for bucket in ahead(buckets(source, Parents(atoms.n_atoms), labels, running.scratch, turns=turns)):
        found, structures = choose_in_bucket(bucket, atoms.n_atoms, atoms.ranks, rules, large)
        picks.append(found)
        fresh[structures] = True
    return Chosen(AtomPicks.joined(picks), fresh)


@dataclass(frozen=True, eq=False)
class _Taking:
    """The atoms whose structures take part, as shards that can be read again."""

    atoms: Shards
    parents: Parents
    takes_part: Mask

    def __iter__(self) -> Iterator[Rows]:
        seen = 0
        for block in self.atoms.blocks():
            structures = self.parents.of(seen, len(block))
            seen += len(block)
            yield block[self.takes_part[structures]]
        self.parents.check_count(seen)


def _one_space(atoms: Environments, takes_part: Mask, choice: AtomChoice) -> Chosen:
    """Choose over all atoms in one space."""
    known = atoms.n_known
    structures = np.flatnonzero(takes_part)
    parents = Parents(atoms.n_atoms[structures])
    new = _Taking(atoms.shards, Parents(atoms.n_atoms[known:]), takes_part[known:])
    shards = Shards(new, "atom_features", choice.running.scratch)
    held = atoms.known[np.repeat(takes_part[:known], atoms.n_atoms[:known])]
    sizes, ranks = atoms.n_atoms[structures], atoms.ranks[structures]
    found = _single_direct(shards, sizes, ranks, choice, parents, held, atoms.before)
    own = structures[np.searchsorted(parents.first, found.picks.structures, side="right") - 1]
    fresh = np.zeros(len(atoms.n_atoms), np.bool_)
    fresh[structures] = found.fresh
    return Chosen(replace(found.picks, structures=own), fresh, found.statistics)


def _single_direct(
    shards: Shards,
    sizes: Numbers,
    ranks: NDArray[np.int8],
    choice: AtomChoice,
    parents: Parents | None = None,
    known: Rows | None = None,
    before: Statistics | None = None,
) -> Chosen:
    """Run one DIRECT over atoms and return rows in place of structures.

    ``sizes``, ``ranks`` and what is fresh are those of each row's structure, or of each structure of ``parents``.
    """
    running = choice.running
    fitted = fit(shards, choice.threshold, choice.weight_components, running, known, before)
    chooser = Chooser(len(fitted.clusters.centers), choice.k, choice.threshold, choice.pick)
    marked, labels, seen = bool((ranks != NEW).any()), [], 0
    for found, distances in nearest(fitted.points, running.engine.index(fitted.clusters.centers), running.engine):
        own = np.arange(seen, seen + len(found)) if parents is None else parents.of(seen, len(found))
        chooser.add(found, distances, sizes[own], ranks[own])
        if marked:
            labels.append(found.astype(np.int32))
        seen += len(found)
    fitted.points.close()
    picks = AtomPicks(*chooser.chosen(), len(fitted.clusters.centers))
    owner = picks.structures if parents is None else np.searchsorted(parents.first, picks.structures, side="right") - 1
    fresh, wanting, seen = np.full(len(sizes), not marked), np.zeros(picks.n_clusters, np.bool_), 0
    wanting[picks.clusters[ranks[owner] == NEW]] = True
    for mine in labels:
        own = np.arange(seen, seen + len(mine)) if parents is None else parents.of(seen, len(mine))
        fresh[own[wanting[mine]]] = True
        seen += len(mine)
    return Chosen(picks, fresh, fitted.statistics)
