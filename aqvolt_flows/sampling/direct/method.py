"""DIRECT on one set of features, and 2DIRECT on two levels: structures first, then atomic environments.

DIRECT is Qi et al., DOI 10.1038/s41524-024-01227-4; the two levels are AQVolt26's (section 2.1). The papers leave open
how they join. The default follows the one public reading of it (docs/sampling.md compares what each way keeps): the
structural level partitions the structures; within each part all atoms are clustered in a space of their own, the atom
nearest to each center is taken, and its structure is selected. Every choice that is left open is a parameter. The
paper calls the levels stages, and so do the parameters ``stage1`` and ``stage2``; everywhere else a stage is one of a
campaign.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.sampling.direct.atoms import AtomChoice, choose_atoms
from aqvolt_flows.sampling.direct.birch import BRANCHING, SubClusters
from aqvolt_flows.sampling.direct.coverage import gaps_summary
from aqvolt_flows.sampling.direct.engines import EngineName, Search, load_engine
from aqvolt_flows.sampling.direct.nearest import BEAM
from aqvolt_flows.sampling.direct.rows import PointStore, Rows, Shards, ahead, coalesced
from aqvolt_flows.sampling.direct.selection import AtomClusters, Selection
from aqvolt_flows.sampling.direct.single_direct import (
    ONE_TREE_ROWS,
    Chooser,
    Order,
    Pick,
    Running,
    fit,
    gaps,
    nearest,
    rotate,
    sub_clusters,
)
from aqvolt_flows.sampling.direct.space import Space
from aqvolt_flows.sampling.direct.state import SampledSpace

Index = NDArray[np.int64]
Points = NDArray[np.float32]


def _check_choice(threshold: float, k: int) -> None:
    if not threshold > 0 or not np.isfinite(threshold):
        raise InputError(
            f"The threshold is {threshold}; expected a positive length in weighted component units, e.g. 0.1."
        )
    if k < 1:
        raise InputError(f"k is {k}; expected at least one row per cluster.")


def _check_name(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{what} is {value!r}; expected {' or '.join(allowed)}.")


@contextmanager
def _scratch(folder: str | Path | None) -> Iterator[Path]:
    """Yield a temporary folder that is gone afterwards, also after an error; BLAS has one thread meanwhile."""
    if folder is not None and not Path(folder).is_dir():
        raise ResourceError(f"The scratch folder {folder} is not there; make it or name another.")
    # Blocks and parts run in threads of their own; BLAS threads on top would only wait for each other.
    with threadpool_limits(1, "blas"), tempfile.TemporaryDirectory(prefix="aqvolt-sampling-", dir=folder) as name:
        yield Path(name)


def direct_select(
    features: Rows | Iterable[Rows],
    threshold: float = 0.1,
    k: int = 1,
    weight_components: bool = True,
    seed: int = 0,
    *,
    order: Order = "given",
    engine: EngineName = "cpu",
    device: str = "cuda",
    threads: int | None = None,
    scratch: str | Path | None = None,
    search: Search = "beam",
    beam: int = BEAM,
    one_tree_rows: int = ONE_TREE_ROWS,
) -> Index:
    """Select rows that cover a feature space, by one DIRECT.

    Parameters
    ----------
    features
        (n, d), finite: a numpy array, nested lists, a pandas DataFrame or a torch tensor; or an iterable of such
        shards.
    threshold
        BIRCH radius in the weighted space.
    k
        Rows per cluster, those nearest to its center; among equals the lower row.
    weight_components
        Multiply each principal component by its share of the explained variance.
    seed
        Of a shuffled order; the given order uses none.
    order
        ``given`` or ``shuffled``: how rows enter the CF tree.
    engine, device, threads
        As in :func:`aqvolt_flows.sampling.direct.engines.load_engine`.
    scratch
        Folder for temporary files; default: the system's.
    search, beam
        How the cluster of a row is found, as in :func:`aqvolt_flows.sampling.direct.engines.load_engine`.
    one_tree_rows
        More rows are clustered in cells of the space on all cores, each cell in a CF tree of its own
        (:mod:`aqvolt_flows.sampling.direct.forest`).

    Returns
    -------
    numpy.ndarray
        Sorted row indices.

    Raises
    ------
    InputError
        If features are not finite, empty or constant, or threshold or k are not positive.

    Examples
    --------
    >>> rows = np.repeat(np.eye(3), 5, axis=0)
    >>> direct_select(rows, threshold=0.01).tolist()
    [0, 5, 10]
    """
    _check_choice(threshold, k)
    _check_name("order", order, ("given", "shuffled"))
    with _scratch(scratch) as folder:
        used = load_engine(engine, device, threads, search, beam)
        running = Running(used, folder, order=order, seed=seed, one_tree_rows=one_tree_rows)
        shards = Shards(features, "features", folder)
        _, points, clusters = fit(shards, threshold, weight_components, running)
        chooser = Chooser(len(clusters.centers), k, threshold)
        for found in nearest(points, running.engine.index(clusters.centers), running.engine):
            chooser.add(*found)
        points.close()
        shards.close()
    return chooser.chosen()[0]


@dataclass(frozen=True)
class TwoStageDirect:
    """2DIRECT: structures are partitioned, then atomic environments choose within each part.

    Parameters
    ----------
    structure_threshold, atom_threshold
        BIRCH radii in the weighted structural and atomic spaces (paper: 0.1 and 0.1).
    k
        Atoms per atomic cluster.
    weight_components
        As in :func:`direct_select`, on both levels.
    seed
        Of a shuffled order.
    stage1
        ``partition``: every structure takes part on the atomic level. ``selection``: only the structures that
        the structural level would choose by itself do.
    stage2
        ``per_cluster``: the atoms of each structural cluster have a space and clusters of their own. ``global``: all
        atoms share one.
    pick
        ``nearest``: the atom nearest to the center, among equals that of the smaller structure. ``smallest``: the
        atom of the smallest structure, among equals the nearest.
    order
        How rows enter the CF tree of structures and a global one of atoms; parts are clustered in the order of rows.
    branching
        Of the CF trees (maml: 50).
    engine, device, threads
        As in :func:`aqvolt_flows.sampling.direct.engines.load_engine`; parts are clustered on the CPU in any case.
    scratch
        Folder for temporary files, default the system's: the rotated structures beyond ``memory_bytes``, atoms by
        structural cluster (once their size), and copies of one-shot iterators.
    memory_bytes
        How much of the rotated rows stays in memory.
    search, beam
        How the cluster of a row, what covers it and its gap are found, as in
        :func:`aqvolt_flows.sampling.direct.engines.load_engine`. Distances are never below the true ones, so that a row
        counted as covered is.
    one_tree_rows
        As in :func:`direct_select`, for structures and for atoms in one global space.
    """

    structure_threshold: float = 0.1
    atom_threshold: float = 0.1
    k: int = 1
    weight_components: bool = True
    seed: int = 0
    stage1: Literal["partition", "selection"] = "partition"
    stage2: Literal["per_cluster", "global"] = "per_cluster"
    pick: Pick = "nearest"
    order: Order = "given"
    branching: int = BRANCHING
    engine: EngineName = "cpu"
    device: str = "cuda"
    threads: int | None = None
    scratch: str | Path | None = None
    memory_bytes: int = 512 * 1024**2
    search: Search = "beam"
    beam: int = BEAM
    one_tree_rows: int = ONE_TREE_ROWS

    def select(
        self,
        structure_features: Rows | Iterable[Rows],
        atom_features: Rows | Iterable[Rows],
        n_atoms: NDArray[np.integer],
        covered: Rows | Iterable[Rows] | None = None,
    ) -> Selection:
        """Select structures.

        Parameters
        ----------
        structure_features
            (n, d_structure), or shards of it; what :func:`direct_select` takes.
        atom_features
            (sum of n_atoms, d_atom) in the order of the structures, or shards of it.
        n_atoms
            (n,), atoms of each structure.
        covered
            (m, d_structure), structure features of a dataset that is there already; structures within the threshold
            of one of them take no part.

        Raises
        ------
        InputError
            If shapes do not fit together, values are not finite, or a threshold is not positive.
        """
        return self._select(structure_features, atom_features, n_atoms, None, covered)

    def extend(
        self,
        state: SampledSpace,
        structure_features: Rows | Iterable[Rows],
        atom_features: Rows | Iterable[Rows],
        n_atoms: NDArray[np.integer],
        covered: Rows | Iterable[Rows] | None = None,
    ) -> Selection:
        """Select from new structures only what earlier rounds do not cover, in their space.

        Parameters
        ----------
        state
            ``Selection.state`` of the round before, or a loaded one.
        structure_features, atom_features, n_atoms, covered
            As in :meth:`select`; the new structures alone.

        Raises
        ------
        InputError
            As :meth:`select`; or if the state was made with another threshold or another encoder.
        """
        if state.threshold != self.structure_threshold:
            raise InputError(
                f"The state was sampled at threshold {state.threshold}, this round asks for "
                f"{self.structure_threshold}; rounds of one space share a threshold."
            )
        return self._select(structure_features, atom_features, n_atoms, state, covered)

    def _check(self) -> None:
        for threshold in (self.structure_threshold, self.atom_threshold):
            _check_choice(threshold, self.k)
        _check_name("stage1", self.stage1, ("partition", "selection"))
        _check_name("stage2", self.stage2, ("per_cluster", "global"))
        _check_name("pick", self.pick, ("nearest", "smallest"))
        _check_name("order", self.order, ("given", "shuffled"))
        if self.branching < 2:
            raise InputError(f"branching is {self.branching}; expected at least two entries per node.")

    def _select(
        self,
        structure_features: Rows | Iterable[Rows],
        atom_features: Rows | Iterable[Rows],
        n_atoms: NDArray[np.integer],
        state: SampledSpace | None,
        covered: Rows | Iterable[Rows] | None,
    ) -> Selection:
        self._check()
        counts = _check_counts(n_atoms)
        with _scratch(self.scratch) as folder:
            running = Running(
                load_engine(self.engine, self.device, self.threads, self.search, self.beam),
                *(folder, self.memory_bytes, self.order, self.seed, self.branching, self.one_tree_rows),
            )
            most = running.engine.most_rows
            if most is not None and counts.sum() > most:
                raise InputError(
                    f"The engine {self.engine} is a reference for at most {most:,} atoms, {counts.sum():,} were given; "
                    "use engine cpu, which follows the same algorithm in bounded memory."
                )
            structures = Shards(structure_features, "structure_features", folder)
            atoms = Shards(atom_features, "atom_features", folder)
            space, points, clusters, before = self._stage1(structures, running, state, covered)
            if len(counts) != points.count:
                raise InputError(
                    f"n_atoms has shape {counts.shape}; expected one positive count for each of {points.count} "
                    "structures."
                )
            labels, distances, components, eligible = self._assign(points, clusters, before, counts, running)
            choice = AtomChoice(
                *(self.atom_threshold, self.k, self.weight_components, self.pick),
                *(self.stage2 == "global", self.threads, running),
            )
            picks = choose_atoms(atoms, counts, np.where(eligible, labels, -1), choice)
            chosen = AtomClusters(picks)
            indices = chosen.indices
            after = replace(
                before,
                centers=np.concatenate([before.centers, clusters.centers]),
                radii=np.concatenate([before.radii, clusters.radii]),
                counts=np.concatenate([before.counts, clusters.counts]),
                chosen=np.concatenate([before.chosen, points.take(indices)]),
            )
            apart = gaps(points, after.chosen if len(after.chosen) else after.reference, running.engine)
            for source in (points, structures, atoms):
                source.close()
        summary = gaps_summary(apart) | {
            "structure_clusters": float(len(clusters.centers)),
            "atom_clusters": float(picks.n_clusters),
            "covered_before": float((labels < 0).sum()),
        }
        parameters = self.parameters | {"space": space.hash, "components": len(space.weights)}
        return Selection(indices, labels, distances, chosen, summary, parameters, components, after)

    @property
    def parameters(self) -> dict[str, Any]:
        """The choices that decide the result, as plain values."""
        ways = {"engine", "device", "threads", "scratch", "memory_bytes"}
        return {name: value for name, value in asdict(self).items() if name not in ways}

    def _stage1(
        self,
        structures: Shards,
        running: Running,
        state: SampledSpace | None,
        covered: Rows | Iterable[Rows] | None,
    ) -> tuple[Space, PointStore, SubClusters, SampledSpace]:
        """Return the space, the structures in it, the clusters of what is not covered, and what covers."""
        if state is None and covered is None:
            space, points, clusters = fit(structures, self.structure_threshold, self.weight_components, running)
            return space, points, clusters, SampledSpace.empty(space, self.structure_threshold, self.parameters)
        if state is None:
            space, _ = running.engine.space(structures.blocks(), self.weight_components)
            state = SampledSpace.empty(space, self.structure_threshold, self.parameters)
        if covered is not None:
            state = state.with_covered(covered)
        points = rotate(structures.with_columns(len(state.space.mean)), state.space, running)
        within = running.engine.index(state.reference) if len(state.reference) else None
        new = PointStore(running.scratch, "new", running.memory_bytes)
        for block in points.blocks():
            new.append(block if within is None else block[within.query(block)[1] > state.threshold])
        clusters = sub_clusters(new, len(state.space.weights), self.structure_threshold, running)
        new.close()
        return state.space, points, clusters, state

    def _assign(
        self, points: PointStore, clusters: SubClusters, before: SampledSpace, counts: Index, running: Running
    ) -> tuple[Index, Points, Points, NDArray[np.bool_]]:
        """Return label, distance and two components of every structure, and which take part on the atomic level."""
        n, m = points.count, len(clusters.centers)
        labels, distances = np.full(n, -1, np.int64), np.empty(n, np.float32)
        components = np.zeros((n, 2), np.float32)
        within = running.engine.index(before.reference) if len(before.reference) else None
        index = running.engine.index(clusters.centers) if m else None
        first = 0
        for block in ahead(coalesced(points.blocks(), running.engine.rows_per_query)):
            rows = slice(first, first + len(block))
            first += len(block)
            components[rows, : min(2, block.shape[1])] = block[:, :2]
            new = np.ones(len(block), np.bool_)
            if within is not None:
                distances[rows] = within.query(block)[1]
                new = distances[rows] > before.threshold
            if index is not None and new.any():
                where = rows.start + np.flatnonzero(new)
                labels[where], distances[where] = index.query(block[new])
        eligible = labels >= 0
        if self.stage1 == "selection":
            chooser = Chooser(m, self.k, self.structure_threshold, self.pick)
            part = np.flatnonzero(eligible)
            chooser.add(labels[part], distances[part], counts[part])
            eligible = np.zeros(n, np.bool_)
            eligible[part[chooser.chosen()[0]]] = True
        return labels, distances, components, eligible


def _check_counts(n_atoms: Any) -> Index:
    counts = np.asarray(n_atoms.detach().cpu() if hasattr(n_atoms, "detach") else n_atoms)
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or (counts < 1).any():
        raise InputError(
            f"n_atoms has shape {counts.shape} and type {counts.dtype}; expected one positive count for each structure."
        )
    return counts.astype(np.int64)
