"""Ordered mixtures: which sites of a halogen are replaced when not all of them are."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from pymatgen.core import Structure

from aqvolt_flows.schemas.provenance import Failure

#: Choices of sites that are all looked at; of more, as many seeded ones.
MAX_CHOICES = 20_000
#: Å; tolerance of spglib.
SYMPREC_A = 0.01


@dataclass(frozen=True)
class Orderings:
    """Symmetry-distinct choices of sites: those to relax, and how many there are (among those that were looked at)."""

    chosen: list[tuple[int, ...]]
    n_distinct: int


def find_orderings(structure: Structure, old: str, fraction: float, limit: int) -> Orderings | Failure:
    """Return distinct ways to replace a share of the sites of one element.

    Choices that an operation of the structure's space group maps onto each other are one. Halides have one charge, so
    no electrostatic energy prefers a choice; if there are more than ``limit``, seeded ones are taken.

    Parameters
    ----------
    structure
        The parent.
    old
        Element whose sites are replaced.
    fraction
        Share of them, above 0 and at most 1.
    limit
        Choices at most.

    Returns
    -------
    Orderings or Failure
        ``no_ordering`` if the share is no whole number of sites in this cell.
    """
    sites = [i for i, site in enumerate(structure) if site.specie.symbol == old]
    n = round(fraction * len(sites))
    if not n or abs(n - fraction * len(sites)) > 1e-6:
        message = f"{fraction:g} of {len(sites)} {old} sites is no whole number of them"
        return Failure(reason="no_ordering", message=message)
    if n == len(sites):
        return Orderings([tuple(sites)], 1)
    rng = random.Random(0)
    if math.comb(len(sites), n) <= MAX_CHOICES:
        choices = list(itertools.combinations(sites, n))
    else:
        choices = sorted({tuple(sorted(rng.sample(sites, n))) for _ in range(MAX_CHOICES)})
    permutations = site_permutations(structure)
    distinct = sorted({min(tuple(sorted(p[i] for i in choice)) for p in permutations) for choice in choices})
    chosen = distinct if len(distinct) <= limit else sorted(rng.sample(distinct, limit))
    return Orderings(chosen, len(distinct))


def site_permutations(structure: Structure) -> list[list[int]]:
    """Return where each operation of the space group takes each site; the identity alone if spglib finds none."""
    import spglib

    frac = np.asarray(structure.frac_coords)
    cell: Any = (np.asarray(structure.lattice.matrix), frac, [site.specie.Z for site in structure])
    found = spglib.get_symmetry(cell, symprec=SYMPREC_A)
    identity = list(range(len(structure)))
    if found is None:
        return [identity]
    permutations = {tuple(identity)}
    for rotation, translation in zip(found["rotations"], found["translations"], strict=True):
        moved = frac @ np.asarray(rotation).T + translation
        apart = moved[:, None] - frac[None]
        apart -= np.round(apart)
        distances = np.linalg.norm(apart @ structure.lattice.matrix, axis=2)
        permutations.add(tuple(int(i) for i in distances.argmin(axis=1)))
    return [list(p) for p in sorted(permutations) if len(set(p)) == len(p)]
