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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.sampling.direct.atoms import AtomChoice
from aqvolt_flows.sampling.direct.birch import BRANCHING
from aqvolt_flows.sampling.direct.engines import EngineName, Search, load_engine
from aqvolt_flows.sampling.direct.joint import Marks, Rules, joint_selection
from aqvolt_flows.sampling.direct.known import Known
from aqvolt_flows.sampling.direct.nearest import BEAM
from aqvolt_flows.sampling.direct.rows import Rows, Shards
from aqvolt_flows.sampling.direct.selection import Selection
from aqvolt_flows.sampling.direct.single_direct import (
    ONE_TREE_ROWS,
    Chooser,
    Order,
    Pick,
    Running,
    Scaling,
    fit,
    nearest,
)
from aqvolt_flows.sampling.direct.state import SampledSpace

Index = NDArray[np.int64]


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
    scaling: Scaling = "standard",
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
    scaling
        ``standard``: columns are divided by their standard deviation. ``robust``: by that of values drawn back to
        limits, so that a few wild rows do not make all others one (:mod:`aqvolt_flows.sampling.direct.robust`).

    Returns
    -------
    numpy.ndarray
        Sorted row indices. Identical rows are one choice, the first of them.

    Raises
    ------
    InputError
        If features are not finite or empty, or threshold or k are not positive.

    Examples
    --------
    >>> rows = np.repeat(np.eye(3), 5, axis=0)
    >>> direct_select(rows, threshold=0.01).tolist()
    [0, 5, 10]
    """
    _check_choice(threshold, k)
    _check_name("order", order, ("given", "shuffled"))
    _check_name("scaling", scaling, ("standard", "robust"))
    with _scratch(scratch) as folder:
        used = load_engine(engine, device, threads, search, beam)
        running = Running(used, folder, order=order, seed=seed, one_tree_rows=one_tree_rows, scaling=scaling)
        shards = Shards(features, "features", folder)
        fitted = fit(shards, threshold, weight_components, running)
        chooser = Chooser(len(fitted.clusters.centers), k, threshold)
        for found in nearest(fitted.points, running.engine.index(fitted.clusters.centers), running.engine):
            chooser.add(*found)
        fitted.points.close()
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
        How rows enter the CF trees: as they come, or shuffled by the seed.
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
    one_tree_rows, scaling
        As in :func:`direct_select`; scaling on both levels, cells for structures and for atoms in one global space.
    remember
        Keep the features of what is chosen in ``Selection.state``, which a later round needs; it takes one more pass
        over the features, and their size times the share that is chosen in memory.
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
    scaling: Scaling = "standard"
    remember: bool = True

    def select(
        self,
        structure_features: Rows | Iterable[Rows],
        atom_features: Rows | Iterable[Rows],
        n_atoms: NDArray[np.integer],
        covered: Rows | Iterable[Rows] | Known | None = None,
        *,
        chosen: NDArray[np.bool_] | None = None,
        unlabeled: NDArray[np.bool_] | None = None,
        shape: Known | None = None,
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
            A dataset that is there already: :class:`~aqvolt_flows.sampling.direct.known.Known` structures with their
            atoms, around which clusters form; what they stand for, atom by atom, is not chosen again. Structure
            features alone, (m, d_structure), keep structures within the threshold of one of them out, whatever their
            atoms are.
        chosen
            (n,), structures that earlier rounds chose. They stand for the clusters that they are in, so that a round
            over the structures of all rounds, in the order of rounds, adds what a joint choice would.
        unlabeled
            (n,), of those, the ones that nobody has paid for yet. They are chosen again or given back
            (``Selection.given_back``), as a joint choice would have it. Default: none, all of them stay.
        shape
            Structures that the space is fitted to besides those given, and that play no other part: a first round over
            a few systems then measures with the scale of all that are to come.

        Raises
        ------
        InputError
            If shapes do not fit together, values are not finite, or a threshold is not positive.
        """
        return self._select(structure_features, atom_features, n_atoms, Marks(covered, chosen, unlabeled, shape=shape))

    def extend(
        self,
        state: SampledSpace,
        structure_features: Rows | Iterable[Rows],
        atom_features: Rows | Iterable[Rows],
        n_atoms: NDArray[np.integer],
        covered: Rows | Iterable[Rows] | Known | None = None,
        unlabeled: NDArray[np.bool_] | None = None,
    ) -> Selection:
        """Select from new structures what earlier rounds do not stand for, in a space fitted to all rounds.

        For when the rows of earlier rounds are not at hand: only what they chose, and their statistics, are. Where
        they are, ``select(..., chosen=...)`` over all of them is nearer to a joint choice: rows that were not chosen
        also make clusters (docs/performance/sampling.md compares both).

        Parameters
        ----------
        state
            ``Selection.state`` of the round before, or a loaded one.
        structure_features, atom_features, n_atoms, covered
            As in :meth:`select`; the new structures alone.
        unlabeled
            (c,), rows of ``state.known`` that nobody has paid for yet; see :meth:`select`.

        Raises
        ------
        InputError
            As :meth:`select`; or if the state was made with another threshold, scaling or encoder, or does not hold
            the features of what it chose.
        """
        if state.threshold != self.structure_threshold:
            raise InputError(
                f"The state was sampled at threshold {state.threshold}, this round asks for "
                f"{self.structure_threshold}; rounds of one space share a threshold."
            )
        if state.known is None or state.structures is None:
            raise InputError(
                "The state holds no features of what it chose (version 0.1 wrote it, or remember=False); select from "
                "all frames again, with those that are chosen as covered=Known(...)."
            )
        if (state.structures.sample is not None) != (self.scaling == "robust"):
            raise InputError(
                f"The state was not sampled with scaling {self.scaling!r}; rounds of one space share the scaling."
            )
        marks = Marks(covered, unlabeled=unlabeled, state=state)
        return self._select(structure_features, atom_features, n_atoms, marks)

    def _check(self) -> None:
        for threshold in (self.structure_threshold, self.atom_threshold):
            _check_choice(threshold, self.k)
        _check_name("stage1", self.stage1, ("partition", "selection"))
        _check_name("stage2", self.stage2, ("per_cluster", "global"))
        _check_name("pick", self.pick, ("nearest", "smallest"))
        _check_name("order", self.order, ("given", "shuffled"))
        _check_name("scaling", self.scaling, ("standard", "robust"))
        if self.branching < 2:
            raise InputError(f"branching is {self.branching}; expected at least two entries per node.")

    def _select(
        self,
        structure_features: Rows | Iterable[Rows],
        atom_features: Rows | Iterable[Rows],
        n_atoms: NDArray[np.integer],
        marks: Marks,
    ) -> Selection:
        self._check()
        counts = _check_counts(n_atoms)
        marks.check(len(counts))
        with _scratch(self.scratch) as folder:
            running = Running(
                load_engine(self.engine, self.device, self.threads, self.search, self.beam),
                *(folder, self.memory_bytes, self.order, self.seed, self.branching, self.one_tree_rows, self.scaling),
            )
            most = running.engine.most_rows
            if most is not None and counts.sum() > most:
                raise InputError(
                    f"The engine {self.engine} is a reference for at most {most:,} atoms, {counts.sum():,} were given; "
                    "use engine cpu, which follows the same algorithm in bounded memory."
                )
            structures = Shards(structure_features, "structure_features", folder)
            atoms = Shards(atom_features, "atom_features", folder)
            try:
                return joint_selection(self._rules(running), structures, atoms, counts, marks).run()
            finally:
                structures.close()
                atoms.close()

    def _rules(self, running: Running) -> Rules:
        atoms = AtomChoice(
            *(self.atom_threshold, self.k, self.weight_components, self.pick, self.stage2 == "global", self.threads),
            running=running,
        )
        return Rules(self.structure_threshold, self.stage1, self.remember, atoms, self.parameters)

    @property
    def parameters(self) -> dict[str, Any]:
        """The choices that decide the result, as plain values."""
        ways = {"engine", "device", "threads", "scratch", "memory_bytes", "remember"}
        return {name: value for name, value in asdict(self).items() if name not in ways}


def _check_counts(n_atoms: Any) -> Index:
    counts = np.asarray(n_atoms.detach().cpu() if hasattr(n_atoms, "detach") else n_atoms)
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or (counts < 1).any():
        raise InputError(
            f"n_atoms has shape {counts.shape} and type {counts.dtype}; expected one positive count for each structure."
        )
    return counts.astype(np.int64)
