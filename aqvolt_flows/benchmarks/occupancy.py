"""Ordered supercells of crystals with partly occupied sites, all of one composition.

Rounding every site by itself changes the composition: a site that is a quarter full becomes empty everywhere. Here the
supercell has as many of every element as the crystal, to the nearest whole number, and grows until that is exact or it
is full. Which of the sites are taken is drawn with a seed; sites too close to be taken together are not, and of many
draws those with the lowest electrostatic energy are kept.
"""

from __future__ import annotations

import itertools
import math
import random
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import covalent_radii
from pymatgen.core import Composition, Element, Structure

from aqvolt_flows.errors import InputError
from aqvolt_flows.structures import supercell_factors

#: Pairs of sites closer than so much of the sum of their covalent radii are not both occupied where it can be avoided
#: (the first, Li–Li 1.66 Å), and never (the last, 1.41 Å); dynamics refuses a structure below 0.5.
CLOSE = (0.65, 0.55)
#: Draws per ordering asked for, of which the lowest in energy are kept.
DRAWS_PER_ORDERING = 8
#: Attempts to move an atom away from one that is too close.
_MOVES = 3_000
#: Relative error of the amount of an element above which a cell does not hold the composition.
MAX_ERROR = 0.05
#: An amount this close to a whole number is one: occupancies are published with two or three digits.
_WHOLE = 0.02


@dataclass(frozen=True)
class Ordered:
    """Ordered supercells of one crystal.

    Attributes
    ----------
    structures
        At least one; all of one composition.
    factors
        How often the cell is repeated.
    largest_error
        Largest relative difference of an element's amount from the crystal's.
    """

    structures: tuple[Structure, ...]
    factors: tuple[int, int, int]
    largest_error: float


def ordered_supercells(
    structure: Structure, min_length_a: float, max_atoms: int, n_orderings: int, seed: int = 0
) -> Ordered:
    """Return supercells with every vector at least so long; of a disordered crystal, several orderings.

    Parameters
    ----------
    structure
        With or without partly occupied sites; charges of sites are dropped.
    min_length_a
        Å.
    max_atoms
        The supercell of a disordered crystal grows up to so many atoms to hold whole numbers of them. One that is
        larger to begin with is not cut.
    n_orderings
        At most; fewer where there are not as many. An ordered crystal has one.
    seed
        Of the draws.

    Raises
    ------
    InputError
        If no cell holds the composition, or no draw is free of atoms on top of each other.
    """
    plain = _elements_only(structure)
    smallest = supercell_factors(plain, min_length_a)
    if plain.is_ordered:
        return Ordered((_repeated(plain, smallest),), smallest, 0.0)
    factors = _factors(plain, smallest, max_atoms)
    copies = math.prod(factors)
    wanted = {e.symbol: float(n) * copies for e, n in plain.composition.items()}
    counts = {x: round(n) for x, n in wanted.items()}
    error = max(abs(counts[x] - n) / n for x, n in wanted.items())
    if error > MAX_ERROR:
        worst = max(wanted, key=lambda x: abs(counts[x] - wanted[x]) / wanted[x])
        raise InputError(
            f"{_formula(plain)} has {wanted[worst]:.2f} {worst} in a supercell of {_size(plain) * copies:.0f} atoms, "
            f"which is no whole number within {100 * MAX_ERROR:.0f} %; allow larger cells (max_cell_atoms)."
        )
    groups, sites = _groups(_repeated(plain, factors))
    amounts = shares(groups, counts)
    drawn = _draw(sites, groups, amounts, n_orderings, seed)
    return Ordered(tuple(drawn), factors, error)


def shares(groups: Sequence[tuple[Mapping[str, float], int]], counts: Mapping[str, int]) -> list[dict[str, int]]:
    """Return how many of each element every group of equal sites takes: largest remainders, the sums as given.

    Parameters
    ----------
    groups
        Occupancy of each element, and the number of sites.
    counts
        Of each element, over all groups.

    Raises
    ------
    InputError
        If the sites cannot hold them.
    """
    taken = [{x: math.floor(f * n + 1e-6) for x, f in occupancy.items()} for occupancy, n in groups]
    for element, total in sorted(counts.items()):
        left = total - sum(t.get(element, 0) for t in taken)
        order = sorted(
            (k for k, (occupancy, _) in enumerate(groups) if element in occupancy),
            key=lambda k: (taken[k][element] - groups[k][0][element] * groups[k][1], k),
        )
        for k in itertools.cycle(order):
            if left <= 0:
                break
            room = [j for j in order if sum(taken[j].values()) < groups[j][1]]
            if not room:
                raise InputError(f"{total} {element} do not fit on the sites that may hold it; check its occupancies.")
            if k in room:
                taken[k][element] += 1
                left -= 1
    return taken


def _formula(structure: Structure) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return str(structure.composition.reduced_formula)


def _size(structure: Structure) -> float:
    return float(structure.composition.num_atoms)


def _elements_only(structure: Structure) -> Structure:
    """Return the structure without charges; occupancies that exceed one by rounding are scaled to one."""
    species = []
    for site in structure:
        amounts: dict[str, float] = defaultdict(float)
        for kind, amount in site.species.items():
            if not isinstance(getattr(kind, "symbol", None), str) or kind.symbol not in Element.__members__:
                raise InputError(f"{kind} is no chemical element; expected elements on every site.")
            amounts[kind.symbol] += float(amount)
        total = sum(amounts.values())
        if total > 1.05:
            raise InputError(f"A site holds {total:.2f} atoms ({site.species_string}); expected at most one.")
        species.append(Composition({x: a / max(total, 1.0) for x, a in amounts.items()}))
    return Structure(structure.lattice, species, structure.frac_coords)


def _repeated(structure: Structure, factors: tuple[int, int, int]) -> Structure:
    repeated: Structure = structure.copy()
    repeated.make_supercell(factors, to_unit_cell=False)
    return repeated


def _factors(structure: Structure, smallest: tuple[int, int, int], max_atoms: int) -> tuple[int, int, int]:
    """Return the smallest supercell that holds whole numbers of every element, or that comes nearest to it."""
    best: tuple[int, int, int] = smallest
    least = math.inf
    limit = max(1, math.floor(max_atoms / _size(structure)))
    la, lb, lc = (range(n, max(n, limit) + 1) for n in smallest)
    most = max(limit, math.prod(smallest))
    tried = [(a, b, c) for a, b, c in itertools.product(la, lb, lc) if a * b * c <= most]
    abc = np.array(structure.lattice.abc)
    for factors in sorted(tried, key=lambda f: (math.prod(f), float((abc * f).max()))):
        copies = math.prod(factors)
        off = max(abs(n * copies - round(n * copies)) for n in structure.composition.values())
        if off < _WHOLE:
            return factors
        relative = max(abs(n * copies - round(n * copies)) / (n * copies) for n in structure.composition.values())
        if relative < least - 1e-9:
            best, least = factors, relative
    return best


def _groups(sites: Structure) -> tuple[list[tuple[dict[str, float], int]], Structure]:
    """Return the kinds of sites with their numbers; the sites are sorted by kind."""
    kinds = [tuple(sorted((e.symbol, round(float(a), 6)) for e, a in site.species.items())) for site in sites]
    order = sorted(range(len(kinds)), key=lambda k: (kinds[k], k))
    groups = [(dict(kind), len(list(members))) for kind, members in itertools.groupby(kinds[k] for k in order)]
    return groups, Structure.from_sites([sites[k] for k in order])


def _draw(
    sites: Structure,
    groups: Sequence[tuple[Mapping[str, float], int]],
    amounts: Sequence[Mapping[str, int]],
    n_orderings: int,
    seed: int,
) -> list[Structure]:
    found: dict[tuple[str, ...], Structure] = {}
    for closeness in CLOSE:
        near = _close_pairs(sites, closeness)
        for draw in range(DRAWS_PER_ORDERING * n_orderings):
            chosen = _placed(groups, amounts, near, random.Random(f"{seed}/{draw}"))
            if chosen is not None and tuple(chosen) not in found:
                found[tuple(chosen)] = _taken(sites, chosen)
        if found:
            break
    if not found:
        raise InputError(
            f"No ordering of {_formula(sites)} keeps its atoms {CLOSE[-1]:g} times their covalent radii apart; check "
            "its occupancies and sites."
        )
    structures = list(found.values())
    charges = _charges(structures[0])
    if charges is not None and len(structures) > n_orderings:
        energies = [_coulomb(s, charges) for s in structures]
        structures = [structures[k] for k in np.argsort(energies, kind="stable")[:n_orderings]]
    return structures[:n_orderings]


def _close_pairs(sites: Structure, closeness: float) -> list[dict[int, set[tuple[str, str]]]]:
    """Return for every site the others that are close, with the pairs of elements that are too close on them.

    Pairs of two fully occupied sites are as the crystal has them.
    """
    names = [sorted(e.symbol for e in site.species) for site in sites]
    full = [site.is_ordered for site in sites]
    radii = {x: float(covalent_radii[Element(x).Z]) for x in {n for each in names for n in each}}
    first, second, _, distances = sites.get_neighbor_list(2 * closeness * max(radii.values()))
    near: list[dict[int, set[tuple[str, str]]]] = [{} for _ in sites]
    for i, j, d in zip(first.tolist(), second.tolist(), distances.tolist(), strict=True):
        if i == j or (full[i] and full[j]):
            continue
        pairs = {(x, y) for x in names[i] for y in names[j] if d < closeness * (radii[x] + radii[y])}
        if pairs:
            near[i][j] = near[i].get(j, set()) | pairs
    return near


def _placed(
    groups: Sequence[tuple[Mapping[str, float], int]],
    amounts: Sequence[Mapping[str, int]],
    near: Sequence[Mapping[int, set[tuple[str, str]]]],
    rng: random.Random,
) -> list[str] | None:
    """Return the element on each site, empty for none; None where atoms stay on top of each other.

    From a random placement, an atom that is too close to another changes places with a random empty or differently
    occupied site of its kind wherever that does not make more pairs too close.
    """
    chosen: list[str] = []
    members: list[range] = []
    for (_, n), amount in zip(groups, amounts, strict=True):
        kinds = [x for x, count in sorted(amount.items()) for _ in range(count)]
        kinds += [""] * (n - len(kinds))
        rng.shuffle(kinds)
        members += [range(len(chosen), len(chosen) + n)] * n
        chosen += kinds

    def clashes(site: int) -> int:
        here = chosen[site]
        return sum((here, chosen[other]) in pairs for other, pairs in near[site].items()) if here else 0

    for _ in range(_MOVES):
        bad = [k for k in range(len(chosen)) if clashes(k)]
        if not bad:
            return chosen
        site = rng.choice(bad)
        free = [k for k in members[site] if not chosen[k]]
        if not free:
            continue
        target = rng.choice(free)
        before = clashes(site)
        chosen[target], chosen[site] = chosen[site], ""
        if clashes(target) > before:
            chosen[site], chosen[target] = chosen[target], ""
    return None


def _taken(sites: Structure, chosen: Sequence[str]) -> Structure:
    kept = [k for k, x in enumerate(chosen) if x]
    coordinates = sites.frac_coords[kept]
    return Structure(sites.lattice, [chosen[k] for k in kept], coordinates).get_sorted_structure()


def _charges(structure: Structure) -> dict[str, float] | None:
    """Return charges of the elements by their oxidation states, or None where these do not balance."""
    composition = structure.composition.reduced_composition
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        guesses = composition.oxi_state_guesses(max_sites=-1) if len(composition) < 8 else ()
    return {str(x): float(q) for x, q in guesses[0].items()} if guesses else None


def _coulomb(structure: Structure, charges: Mapping[str, float]) -> float:
    from pymatgen.analysis.ewald import EwaldSummation

    charged = structure.copy()
    charged.add_oxidation_state_by_element(dict(charges))
    energy: float = EwaldSummation(charged, acc_factor=6.0).total_energy
    return energy
