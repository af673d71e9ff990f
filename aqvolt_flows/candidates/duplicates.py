"""Which structures are one: bucketed first, then compared with pymatgen's ``StructureMatcher``.

Structures are compared only within a bucket: the reduced composition, and the number of atoms in the
primitive cell. ``StructureMatcher`` itself calls no two structures equal that differ in either, so
bucketing loses no pair. What it could lose is left out on purpose: the space group (a snapshot at 300 K
of a rock salt is P1, its parent Fm-3m) and the volume (the matcher compares at equal volume by default).

Each structure is reduced to its Niggli primitive cell once and kept as arrays (about 1 kB for 20 atoms);
a structure is a duplicate if it matches one kept before it, which is the rule of
``StructureMatcher.group_structures``: both keep the same ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Lattice, Structure

from aqvolt_flows.chemistry import reduced_formula
from aqvolt_flows.schemas.parameters import DuplicateParameters

#: With fewer structures, starting processes takes longer than the work.
PARALLEL_FROM = 200


@dataclass(frozen=True, slots=True)
class Compact:
    """A structure as arrays.

    Attributes
    ----------
    cell
        Lattice vectors as rows, shape (3, 3), Å.
    numbers
        Atomic numbers, shape (n,).
    frac
        Fractional coordinates, shape (n, 3).
    """

    cell: NDArray[np.float64]
    numbers: NDArray[np.uint8]
    frac: NDArray[np.float64]

    @classmethod
    def of(cls, structure: Structure) -> Self:
        """Return the arrays of an ordered structure; oxidation states and site properties are left behind."""
        numbers = np.array([site.specie.Z for site in structure], dtype=np.uint8)
        return cls(np.array(structure.lattice.matrix), numbers, np.array(structure.frac_coords))

    def structure(self) -> Structure:
        """Return the structure."""
        return Structure(Lattice(self.cell), self.numbers.tolist(), self.frac)

    @property
    def volume_per_atom(self) -> float:
        """Å³."""
        return abs(float(np.linalg.det(self.cell))) / len(self.numbers)


@dataclass(frozen=True, slots=True)
class Known:
    """A structure that was kept, reduced."""

    identity: str
    reduced: Compact


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison found.

    Attributes
    ----------
    identity
        The structure that was compared.
    duplicate_of
        The one kept before it that is the same, or None: it is new.
    volume_ratio
        Its volume per atom over that of the one kept.
    problem
        Why it could not be compared; empty if it was.
    """

    identity: str
    duplicate_of: str | None = None
    volume_ratio: float | None = None
    problem: str = ""


def structure_matcher(parameters: DuplicateParameters) -> Any:
    """Return pymatgen's matcher with these tolerances, elements compared without oxidation states."""
    from pymatgen.core.structure_matcher import ElementComparator, StructureMatcher

    return StructureMatcher(
        ltol=parameters.ltol,
        stol=parameters.stol,
        angle_tol=parameters.angle_tol,
        scale=parameters.scale,
        primitive_cell=True,
        attempt_supercell=False,
        comparator=ElementComparator(),
    )


def reduce_structure(structure: Structure) -> Structure:
    """Return the Niggli cell of the primitive cell, the form in which the matcher compares."""
    return structure.get_reduced_structure(reduction_algo="niggli").get_primitive_structure()


def _compare(
    task: tuple[DuplicateParameters, list[tuple[str, Compact]], list[Known]],
) -> tuple[list[Verdict], list[Known]]:
    """Compare structures of one composition with those kept, in order; return verdicts and the new ones."""
    parameters, offered, known = task
    matcher = structure_matcher(parameters)
    kept: dict[int, list[tuple[Known, Structure]]] = defaultdict(list)
    for k in known:
        kept[len(k.reduced.numbers)].append((k, k.reduced.structure()))
    verdicts, new = [], []
    for identity, compact in offered:
        try:
            reduced = reduce_structure(compact.structure())
            own = Compact.of(reduced)
            bucket = kept[len(reduced)]
            same = next((k for k, s in bucket if matcher.fit(s, reduced, skip_structure_reduction=True)), None)
        except Exception as error:  # noqa: BLE001 - a cell that pymatgen cannot reduce must not end the import
            said = f"its cell cannot be reduced and compared ({type(error).__name__}: {error})"
            verdicts.append(Verdict(identity, problem=" ".join(said.split())[:300]))
            continue
        if same is None:
            new.append(Known(identity, own))
            bucket.append((new[-1], reduced))
            verdicts.append(Verdict(identity))
        else:
            ratio = round(own.volume_per_atom / same.reduced.volume_per_atom, 4)
            verdicts.append(Verdict(identity, same.identity, ratio))
    return verdicts, new


@dataclass
class Deduplicator:
    """Remembers the structures that were kept and finds those that come again.

    Parameters
    ----------
    parameters
        Tolerances.
    load
        Returns (formula, identity, structure) of those kept earlier under any of some reduced formulas,
        e.g. from a database; asked once per formula.
    workers
        Processes; 1 compares in this one.
    """

    parameters: DuplicateParameters = field(default_factory=DuplicateParameters)
    load: Callable[[list[str]], Iterable[tuple[str, str, Structure]]] | None = None
    workers: int = 1
    _known: dict[str, list[Known]] = field(default_factory=dict, init=False, repr=False)
    _identities: set[str] = field(default_factory=set, init=False, repr=False)
    _executor: Executor | None = field(default=None, init=False, repr=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None

    def check(self, offered: Sequence[tuple[str, Structure]]) -> list[Verdict]:
        """Return one verdict per structure, in order; the new ones are remembered.

        Parameters
        ----------
        offered
            (identity, ordered structure); an identity kept before is new again, not its own duplicate.
        """
        by_formula: dict[str, list[tuple[str, Compact]]] = defaultdict(list)
        for identity, structure in offered:
            by_formula[reduced_formula(structure.composition.element_composition)].append(
                (identity, Compact.of(structure))
            )
        verdicts: dict[str, Verdict] = {}
        tasks, formulas = [], []
        self._recall([f for f in by_formula if f not in self._known])
        for formula, group in by_formula.items():
            verdicts |= {i: Verdict(i) for i, _ in group if i in self._identities}
            fresh = dict(pair for pair in group if pair[0] not in self._identities)
            if fresh:
                tasks.append((self.parameters, list(fresh.items()), self._known[formula]))
                formulas.append(formula)
        for formula, (found, new) in zip(formulas, self._run(tasks), strict=True):
            verdicts |= {v.identity: v for v in found}
            self._known[formula] += new
            self._identities.update(k.identity for k in new)
        return [verdicts[identity] for identity, _ in offered]

    def _recall(self, formulas: list[str]) -> None:
        self._known |= {f: [] for f in formulas}
        for formula, identity, structure in self.load(formulas) if self.load and formulas else ():
            self._known[formula].append(Known(identity, Compact.of(reduce_structure(structure))))
            self._identities.add(identity)

    def _run(self, tasks: list[Any]) -> Iterable[tuple[list[Verdict], list[Known]]]:
        if self.workers < 2 or sum(len(offered) for _, offered, _ in tasks) < PARALLEL_FROM:
            return map(_compare, tasks)
        if self._executor is None:
            self._executor = ProcessPoolExecutor(self.workers, mp_context=get_context("spawn"))
        return self._executor.map(_compare, tasks, chunksize=4)


def unique(
    structures: Mapping[str, Structure], parameters: DuplicateParameters | None = None, workers: int = 1
) -> dict[str, str | None]:
    """Return for each structure the earlier one that it duplicates, or None.

    Examples
    --------
    >>> salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.13), ["Li", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    >>> unique({"a": salt, "b": salt * (2, 1, 1)})
    {'a': None, 'b': 'a'}
    """
    with Deduplicator(parameters or DuplicateParameters(), workers=workers) as seen:
        return {v.identity: v.duplicate_of for v in seen.check(list(structures.items()))}
