"""Minima that are minima: each start is relaxed as it is and displaced, the lowest is kept, and displaced once more.

Symmetry is never broken by the forces of a symmetric structure, so that a relaxation may end on a saddle point.
Searches are generators: they yield structures and are sent what became of them, so that :func:`together` relaxes what
many hosts ask for in one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pymatgen.core import Lattice, Structure

from aqvolt_flows.dynamics.relax import Relaxed, Relaxer
from aqvolt_flows.schemas.generation import MinimumParameters
from aqvolt_flows.schemas.provenance import Failure

#: Yields structures to relax, is sent how their relaxations ended, and returns what it looked for.
type Search[T] = Generator[list[Structure], list[Relaxed], T]
#: Whether the relaxed structure of a start (its index) may be kept.
Sound = Callable[[int, Relaxed], bool]


@dataclass(frozen=True, eq=False)
class Minimum:
    """The lowest of the structures that one start relaxed to.

    Attributes
    ----------
    relaxed
        How the relaxation that is kept ended.
    energies
        eV/atom at the end of each relaxation, that of the undisplaced start first; NaN where it failed.
    drops
        One per check: by how much the lowest of the displaced copies fell below the structure, eV/atom.
    settled
        Whether the last check found nothing lower; True also where nothing was checked.
    """

    relaxed: Relaxed
    energies: tuple[float, ...]
    drops: tuple[float, ...] = ()
    settled: bool = True

    @property
    def failure(self) -> Failure | None:
        """Why it is no minimum: the relaxation's own failure, or ``not_a_minimum``."""
        if self.relaxed.failure is not None or self.settled:
            return self.relaxed.failure
        said = f"it still fell by {1000 * self.drops[-1]:.1f} meV/atom at the last of {len(self.drops)} displacements"
        return Failure(reason="not_a_minimum", message=said)

    def as_decisions(self) -> dict[str, Any]:
        """Return the numbers for a document; energies of the starts and their spread only where some were displaced."""
        numbers: dict[str, Any] = {}
        if len(self.energies) > 1:
            finite = [e for e in self.energies if np.isfinite(e)]
            undisplaced = self.energies[0]
            numbers["energies_of_starts_ev_per_atom"] = [round(e, 6) if np.isfinite(e) else None for e in self.energies]
            numbers["spread_mev_per_atom"] = round(1000 * (max(finite) - min(finite)), 3) if finite else None
            kept = np.isfinite(undisplaced) and np.isfinite(self.relaxed.energy)
            numbers["gain_mev_per_atom"] = (
                round(1000 * (undisplaced - self.relaxed.energy_per_atom), 3) if kept else None
            )
        if self.drops:
            numbers["drops_when_checked_mev_per_atom"] = [round(1000 * d, 3) for d in self.drops]
        return numbers


def displaced(structure: Structure, amplitude_a: float, *seed: int) -> Structure:
    """Return a structure with every atom moved at random; the crystal as a whole stays where it is.

    Parameters
    ----------
    structure
        Any.
    amplitude_a
        Standard deviation of each Cartesian component, Å.
    *seed
        Whole numbers that seed the displacements.
    """
    moves = np.random.default_rng(list(seed)).normal(scale=amplitude_a, size=(len(structure), 3))
    cart = np.asarray(structure.cart_coords) + moves - moves.mean(axis=0)
    species = [s.specie.symbol for s in structure]
    return Structure(Lattice(structure.lattice.matrix), species, cart, coords_are_cartesian=True)


def find_minima(starts: Sequence[Structure], sound: Sound, p: MinimumParameters, *seed: int) -> Search[list[Minimum]]:
    """Relax every start as it is and displaced ``n_rattles`` times, all together.

    Parameters
    ----------
    starts
        Structures.
    sound
        Of arrangements that are one minimum within ``same_within_ev_per_atom``, a sound one is kept.
    p
        How many, how far.
    *seed
        Tells the displacements of this search from those of others.
    """
    asked = [
        copy
        for i, start in enumerate(starts)
        for copy in (start, *(displaced(start, p.rattle_a, p.seed, *seed, 0, i, k) for k in range(p.n_rattles)))
    ]
    found = (yield asked) if asked else []
    each = 1 + p.n_rattles
    return [_lowest(i, found[i * each : (i + 1) * each], sound, p) for i in range(len(starts))]


def _lowest(index: int, ends: Sequence[Relaxed], sound: Sound, p: MinimumParameters) -> Minimum:
    """Return the lowest end; one that did not converge counts, for it shows that the others are not the lowest."""
    energies = tuple(_per_atom(end) for end in ends)
    finite = [i for i, e in enumerate(energies) if np.isfinite(e)]
    if not finite:
        return Minimum(ends[0], energies)
    limit = min(energies[i] for i in finite) + p.same_within_ev_per_atom
    near = [i for i in finite if energies[i] <= limit]
    best = min(near, key=lambda i: (not ends[i].converged, not sound(index, ends[i]), energies[i]))
    return Minimum(ends[best], energies)


def check_minimum(minimum: Minimum, index: int, sound: Sound, p: MinimumParameters, *seed: int) -> Search[Minimum]:
    """Displace a minimum and relax it again, until it falls no more or ``max_checks`` times.

    It is replaced by what it falls to; ``settled`` is False where it fell every time.
    """
    for check in range(p.max_checks):
        if not minimum.relaxed.converged:
            return minimum
        here = minimum.relaxed
        copies = [
            displaced(here.structure, p.check_rattle_a, p.seed, *seed, 1 + check, index, k)
            for k in range(max(1, p.n_rattles))
        ]
        ends = yield copies
        energies = [e for e in map(_per_atom, ends) if np.isfinite(e)]
        drop = here.energy_per_atom - min(energies, default=here.energy_per_atom)
        drops = (*minimum.drops, max(0.0, drop))
        lowest = _lowest(index, [here, *ends], sound, p).relaxed
        settled = drop <= p.same_within_ev_per_atom
        minimum = replace(minimum, relaxed=lowest, drops=drops, settled=settled)
        if settled:
            return minimum
    return minimum


def search_lowest(
    starts: Sequence[Structure], sound: Sound, p: MinimumParameters, *seed: int
) -> Search[tuple[list[Minimum], int | None]]:
    """Find the minimum of every start, and check the lowest sound one; where it falls to an unsound one, the next.

    Returns
    -------
    tuple
        The minima, and the index of the lowest sound one that passed its check, or None.
    """
    minima = yield from find_minima(starts, sound, p, *seed)
    order = sorted(range(len(minima)), key=lambda i: _order(minima[i].relaxed))
    for i in order:
        if minima[i].failure is not None or not sound(i, minima[i].relaxed):
            continue
        minima[i] = yield from check_minimum(minima[i], i, sound, p, *seed)
        if minima[i].failure is None and sound(i, minima[i].relaxed):
            return minima, i
    return minima, None


def _per_atom(relaxed: Relaxed) -> float:
    return relaxed.energy / len(relaxed.structure)


def _order(relaxed: Relaxed) -> float:
    return relaxed.energy if np.isfinite(relaxed.energy) else np.inf


def together[T](searches: Sequence[Search[T]], relax: Relaxer) -> Iterator[tuple[int, T]]:
    """Run searches in step, and yield the index and the result of each as soon as it ends.

    Parameters
    ----------
    searches
        Any number; those that have something to relax at the same time share a call of ``relax``.
    relax
        Cuts what it is given into batches that fit.
    """
    waiting: dict[int, list[Structure]] = {}
    for index, search in enumerate(searches):
        try:
            waiting[index] = next(search)
        except StopIteration as ended:
            yield index, ended.value
    while waiting:
        ends = iter(relax([s for asked in waiting.values() for s in asked]))
        answers = {index: [next(ends) for _ in asked] for index, asked in waiting.items()}
        waiting = {}
        for index, answer in answers.items():
            try:
                waiting[index] = searches[index].send(answer)
            except StopIteration as ended:
                yield index, ended.value


def alone[T](search: Search[T], relax: Relaxer) -> T:
    """Run one search and return its result."""
    ((_, result),) = together([search], relax)
    return result
