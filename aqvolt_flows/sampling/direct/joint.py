"""One round of 2DIRECT: a joint choice from the structures of all rounds, in which earlier choices come first.

The space is fitted to the rows of all rounds, and both levels are clustered as if nothing had been chosen. An atomic
cluster with an earlier choice near its center needs no new one. A structure is covered if that holds for all its atoms:
the structure's mean alone hides one new atom among many.

Structures of a state and of covered sets are not among the rows given; they go in before them, so that clusters form
around them. In what follows they are numbered 0 … c − 1, and the rows given from c on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError
from aqvolt_flows.sampling.direct.atoms import AtomChoice, Chosen, Environments, choose_atoms
from aqvolt_flows.sampling.direct.coverage import gaps_summary
from aqvolt_flows.sampling.direct.known import FIXED, NEW, OFFERED, After, Known
from aqvolt_flows.sampling.direct.robust import Statistics
from aqvolt_flows.sampling.direct.rows import PointStore, Rows, Shards, ahead, coalesced
from aqvolt_flows.sampling.direct.selection import AtomClusters, Selection
from aqvolt_flows.sampling.direct.single_direct import (
    Chooser,
    Fitted,
    Running,
    fit,
    fit_space,
    gaps,
    rotate,
    sub_clusters,
)
from aqvolt_flows.sampling.direct.state import SampledSpace

Index = NDArray[np.int64]
Mask = NDArray[np.bool_]
Points = NDArray[np.float32]


@dataclass(frozen=True)
class Rules:
    """The choices of a round.

    Attributes
    ----------
    structure_threshold, stage1, remember
        As in :class:`aqvolt_flows.sampling.TwoStageDirect`.
    atoms
        Those of the atomic level; number and rank of rows, weights and scaling hold on both.
    parameters
        All of them, as plain values.
    """

    structure_threshold: float
    stage1: Literal["partition", "selection"]
    remember: bool
    atoms: AtomChoice
    parameters: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Earlier:
    """What goes in first.

    Attributes
    ----------
    known
        Features of c structures.
    ranks
        (c + n,), of these and of the rows given (:mod:`aqvolt_flows.sampling.direct.known`).
    structures, atoms
        Statistics of rows that are not read again: of earlier rounds, of covered sets, and of sets that shape the space
        only.
    marked
        Whether it is rows given that may be given back, or those of a state.
    """

    known: Known
    ranks: NDArray[np.int8]
    structures: Statistics | None = None
    atoms: Statistics | None = None
    marked: bool = True


@dataclass(frozen=True, eq=False)
class Assigned:
    """Where structures are on the structural level, known ones first.

    Attributes
    ----------
    labels, distances
        (c + n,), structural cluster and distance to its center; −1: covered without atoms, and distance to what covers.
    components
        (c + n, 2), for the picture.
    eligible
        (c + n,), whether the structure takes part on the atomic level.
    """

    labels: Index
    distances: Points
    components: Points
    eligible: Mask


@dataclass(frozen=True, eq=False)
class JointSelection:
    """One round.

    Attributes
    ----------
    rules
        The choices, and how it runs.
    structures, atoms, counts
        Structures to choose from, their atoms, and how many atoms each has.
    earlier
        What goes in first, and what was chosen before.
    """

    rules: Rules
    structures: Shards
    atoms: Shards
    counts: Index
    earlier: Earlier

    def run(self) -> Selection:
        """Return the choice."""
        known, ranks = self.earlier.known, self.earlier.ranks
        for shards, rows in ((self.structures, known.structures), (self.atoms, known.atoms)):
            if len(rows):
                shards.with_columns(rows.shape[1])
        fitted = self._structural(known, self.earlier.structures)
        found = fitted.points.count - len(known)
        if len(self.counts) != found:
            raise InputError(
                f"n_atoms has shape {self.counts.shape}; expected one positive count for each of {found} structures."
            )
        sizes = np.concatenate([known.n_atoms, self.counts])
        where = self._assign(fitted, known, ranks, sizes)
        environments = Environments(known.atoms, self.atoms, sizes, ranks, len(known), self.earlier.atoms)
        chosen = choose_atoms(environments, np.where(where.eligible, where.labels, -1), self.rules.atoms)
        selection = self._selection(fitted, where, chosen)
        fitted.points.close()
        return selection

    @property
    def running(self) -> Running:
        """How it runs."""
        return self.rules.atoms.running

    def _structural(self, known: Known, before: Statistics | None) -> Fitted:
        """Return known and new structures in a space of all, with clusters of what is not covered without atoms."""
        m, weighted = self.rules, self.rules.atoms.weight_components
        bare = known.n_atoms == 0
        if not bare.any():
            return fit(self.structures, m.structure_threshold, weighted, self.running, known.structures, before)
        space, statistics = fit_space(ahead(self.structures.blocks()), weighted, self.running, before)
        rows = Shards(After(known.structures, self.structures), "structure_features", self.running.scratch)
        points = rotate(rows, space, self.running)
        within = self.running.engine.index(points.take(np.flatnonzero(bare)))
        entering, seen, first = PointStore(self.running.scratch, "new", self.running.memory_bytes), 0, 0
        for block in points.blocks():
            open_ = within.query(block)[1] > m.structure_threshold
            places = np.arange(seen, seen + len(block))
            ours = places < len(known)
            open_[ours] = ~bare[places[ours]]
            entering.append(block[open_])
            first += int(open_[ours].sum())
            seen += len(block)
        clusters = sub_clusters(entering, len(space.weights), m.structure_threshold, self.running, first)
        entering.close()
        return Fitted(space, statistics, points, clusters)

    def _assign(self, fitted: Fitted, known: Known, ranks: NDArray[np.int8], sizes: Index) -> Assigned:
        """Return where all structures are, and which of them take part on the atomic level."""
        n, m, engine = fitted.points.count, len(fitted.clusters.centers), self.running.engine
        labels, distances = np.full(n, -1, np.int64), np.empty(n, np.float32)
        components = np.zeros((n, 2), np.float32)
        bare = np.flatnonzero(known.n_atoms == 0)
        within = engine.index(fitted.points.take(bare)) if len(bare) else None
        index = engine.index(fitted.clusters.centers) if m else None
        first = 0
        for block in ahead(coalesced(fitted.points.blocks(), engine.rows_per_query)):
            rows = np.arange(first, first + len(block))
            first += len(block)
            components[rows, : min(2, block.shape[1])] = block[:, :2]
            new = np.ones(len(block), np.bool_)
            if within is not None:
                distances[rows] = within.query(block)[1]
                new = distances[rows] > self.rules.structure_threshold
                ours = rows < len(known)
                new[ours] = known.n_atoms[rows[ours]] > 0
            if index is not None and new.any():
                labels[rows[new]], distances[rows[new]] = index.query(block[new])
        eligible = labels >= 0
        if self.rules.stage1 == "selection":
            chooser = Chooser(m, self.rules.atoms.k, self.rules.structure_threshold, self.rules.atoms.pick)
            part = np.flatnonzero(eligible)
            chooser.add(labels[part], distances[part], sizes[part], ranks[part])
            eligible = (ranks == FIXED) & (labels >= 0)
            eligible[part[chooser.chosen()[0]]] = True
        return Assigned(labels, distances, components, eligible)

    def _selection(self, fitted: Fitted, where: Assigned, chosen: Chosen) -> Selection:
        """Return what was chosen, and the state for the next round."""
        m, known, ranks, c = self.rules, self.earlier.known, self.earlier.ranks, len(self.earlier.known)
        taken = np.zeros(len(ranks), np.bool_)
        taken[chosen.picks.structures] = True
        stays = taken | (ranks == FIXED)
        back = np.flatnonzero(~taken & (ranks == OFFERED))
        state = SampledSpace(
            fitted.space,
            m.structure_threshold,
            fitted.clusters.centers,
            fitted.clusters.radii,
            fitted.clusters.counts,
            chosen=fitted.points.take(np.flatnonzero(stays)),
            parameters=m.parameters,
        )
        if m.remember:
            held = known.take(stays[:c]) + self._features(stays[c:])
            state = replace(state, known=held, structures=fitted.statistics, atoms=chosen.statistics)
        apart = gaps(fitted.points, state.chosen if len(state.chosen) else state.reference, self.running.engine)
        covered = where.eligible & ~chosen.fresh & (ranks == NEW)
        labels = np.where(covered, -1, where.labels)[c:]
        clusters = AtomClusters(chosen.picks.of(taken & (ranks == NEW), c))
        summary = gaps_summary(apart[c:]) | {
            "structure_clusters": float(len(fitted.clusters.centers)),
            "atom_clusters": float(chosen.picks.n_clusters),
            "covered_before": float((labels < 0).sum()),
        }
        return Selection(
            *(clusters.indices, labels, where.distances[c:], clusters, summary),
            parameters=m.parameters | {"space": fitted.space.hash, "components": len(fitted.space.weights)},
            components=where.components[c:],
            state=state,
            given_back=back - (c if self.earlier.marked else 0),
        )

    def _features(self, mine: Mask) -> Known:
        """Return some of the structures to choose from, (n,) mask, with their atoms; one pass over each."""
        atoms = picked(self.atoms, np.repeat(mine, self.counts))
        return Known.of(picked(self.structures, mine), atoms, self.counts[mine])


def picked(rows: Shards, which: Mask) -> Rows:
    """Return some rows of shards, (n,) mask, in one pass."""
    found: Rows | None = None
    first = kept = 0
    for block in rows.blocks():
        here = block[which[first : first + len(block)]]
        if found is None:
            found = np.empty((int(which.sum()), block.shape[1]), block.dtype)
        found[kept : kept + len(here)] = here
        first, kept = first + len(block), kept + len(here)
    return np.zeros((0, 0), np.float32) if found is None else found


@dataclass(frozen=True, eq=False)
class Marks:
    """What a round has to respect; see :meth:`TwoStageDirect.select` and :meth:`TwoStageDirect.extend`."""

    covered: Rows | Iterable[Rows] | Known | None = None
    chosen: Mask | None = None
    unlabeled: Mask | None = None
    state: SampledSpace | None = None
    shape: Known | None = None

    def check(self, n: int) -> None:
        """Raise :class:`InputError` unless masks fit to n structures given, or to those of the state."""
        known = n if self.state is None or self.state.known is None else len(self.state.known)
        for name, mask, size in (("chosen", self.chosen, n), ("unlabeled", self.unlabeled, known)):
            if mask is not None and (np.shape(mask) != (size,) or np.asarray(mask).dtype != np.bool_):
                raise InputError(
                    f"{name} has shape {np.shape(mask)} and type {np.asarray(mask).dtype}; expected a flag (True or "
                    f"False) for each of {size} structures."
                )


def joint_selection(rules: Rules, structures: Shards, atoms: Shards, counts: Index, marks: Marks) -> JointSelection:
    """Return the round over these structures, with what goes in first."""
    state = marks.state
    known, stats = Known.none(), (None, None) if state is None else (state.structures, state.atoms)
    mine = np.zeros(len(counts), np.bool_) if marks.chosen is None else marks.chosen
    if state is not None and state.known is not None:
        known = state.known
    free = np.zeros(0, np.bool_)
    if marks.unlabeled is not None:
        free = marks.unlabeled & mine if state is None else np.asarray(marks.unlabeled)
    if marks.covered is not None:
        added = marks.covered if isinstance(marks.covered, Known) else Known.of(marks.covered)
        known, stats = known + added, _with_statistics(rules.atoms, added, stats)
    if marks.shape is not None:
        stats = _with_statistics(rules.atoms, marks.shape, stats)
    ranks = np.where(np.concatenate([np.ones(len(known), np.bool_), mine]), FIXED, NEW).astype(np.int8)
    first = len(known) if state is None else 0
    ranks[first + np.flatnonzero(free)] = OFFERED
    earlier = Earlier(known, ranks, *stats, marked=state is None)
    return JointSelection(rules, structures, atoms, counts, earlier)


def _with_statistics(
    choice: AtomChoice, rows: Known, before: tuple[Statistics | None, Statistics | None]
) -> tuple[Statistics | None, Statistics | None]:
    """Return the statistics of structures and, where they share one space, atoms, with those of more rows."""
    structures, atoms = before
    if len(rows):
        _, structures = fit_space([rows.structures], True, choice.running, structures)
    if len(rows.atoms) and choice.together:
        _, atoms = fit_space([rows.atoms], True, choice.running, atoms)
    return structures, atoms
