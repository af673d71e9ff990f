"""What may become of a host that takes up Li: every limit is a reason, with the number that was seen and the limit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pymatgen.core import Structure

from aqvolt_flows.candidates.framework import Change, Tolerances, compare
from aqvolt_flows.chemistry import HALOGENS
from aqvolt_flows.schemas.generation import LithiationParameters
from aqvolt_flows.schemas.provenance import Failure

#: Elements that count as anions when bonds are followed.
ANIONS = (*HALOGENS, "O", "S", "Se", "N")
#: Anions within this multiple of a cation's shortest distance are its neighbors; Jahn-Teller-long bonds are not.
_NEAREST = 1.2


@dataclass(frozen=True, eq=False)
class Host:
    """The empty host: as given, whose symmetry counts, and relaxed, which everything is compared with."""

    given: Structure
    relaxed: Structure


@dataclass(frozen=True, eq=False)
class Insertion:
    """What became of a host with some Li in it.

    Attributes
    ----------
    change
        Of the structure without its Li against the relaxed empty host (:mod:`aqvolt_flows.candidates.framework`).
    li_distance_a
        Shortest distance between two Li, periodic images included, Å.
    bond_stretch
        Largest relative stretch of a bond of the host.
    failure
        The first limit that was exceeded. Reasons: ``not_topotactic``, ``bond_broken``, ``volume_change``,
        ``displacement``, ``li_distance``.
    """

    change: Change
    li_distance_a: float
    bond_stretch: float
    failure: Failure | None

    @property
    def kept(self) -> bool:
        """Whether no limit was exceeded."""
        return self.failure is None


def judge_insertion(host: Host, lithiated: Structure, p: LithiationParameters) -> Insertion:
    """Compare a lithiated structure with its relaxed empty host.

    Parameters
    ----------
    host
        The empty host.
    lithiated
        Its atoms in the same order, and Li.
    p
        Tolerances and limits.
    """
    bare = lithiated.copy()
    bare.remove_species(["Li"])
    change = compare(host.relaxed, bare, Tolerances(p.ltol, p.stol, p.angle_tol), host.given)
    distance, stretch = li_distance(lithiated), bond_stretch(host.relaxed, bare)
    return Insertion(change, distance, stretch, _exceeded(change, distance, stretch, p))


def _exceeded(change: Change, distance: float, stretch: float, p: LithiationParameters) -> Failure | None:
    if not change.kept:
        return Failure(reason="not_topotactic", message=f"the host's framework changed: {change.limit}")
    if p.max_bond_stretch is not None and stretch > p.max_bond_stretch:
        said = f"a bond of the host became {100 * stretch:.1f} % longer; at most {100 * p.max_bond_stretch:g} %"
        return Failure(reason="bond_broken", message=said)
    if p.max_volume_change is not None and abs(change.volume_change) > p.max_volume_change:
        limit = f"{100 * p.max_volume_change:g} %"
        said = f"the volume changed by {100 * change.volume_change:+.1f} % of the relaxed host's; at most {limit}"
        return Failure(reason="volume_change", message=said)
    moved = change.max_displacement_a
    if p.max_displacement_a is not None and moved is not None and moved > p.max_displacement_a:
        said = f"an atom of the host moved by {moved:.2f} Å; at most {p.max_displacement_a:g} Å"
        return Failure(reason="displacement", message=said)
    if p.min_relaxed_li_distance_a is not None and distance < p.min_relaxed_li_distance_a:
        said = f"two Li are {distance:.2f} Å apart; at least {p.min_relaxed_li_distance_a:g} Å"
        return Failure(reason="li_distance", message=said)
    return None


def li_distance(structure: Structure) -> float:
    """Return the shortest distance between two Li, images of one Li included, Å; infinite without Li."""
    li = [s.frac_coords for s in structure if s.specie.symbol == "Li"]
    if not li:
        return float("inf")
    distances = np.array(structure.lattice.get_all_distances(li, li))
    np.fill_diagonal(distances, min(structure.lattice.get_niggli_reduced_lattice().abc))
    return float(distances.min())


def bond_stretch(before: Structure, after: Structure) -> float:
    """Return the largest relative stretch of the bonds between cations and their nearest anions; −1 without any.

    Parameters
    ----------
    before, after
        The same atoms in the same order. Bonds are those of ``before``: anions within 1.2 times the shortest distance
        from a cation to one.
    """
    symbols = [s.specie.symbol for s in before]
    cations = [i for i, e in enumerate(symbols) if e not in ANIONS]
    anions = [i for i, e in enumerate(symbols) if e in ANIONS]
    if not cations or not anions:
        return -1.0
    nearest = np.array(before.lattice.get_all_distances(before.frac_coords[cations], before.frac_coords[anions]))
    radius = _NEAREST * float(nearest.min(axis=1).max())
    i, j, images, lengths = before.get_neighbor_list(radius, [before[c] for c in cations])
    shortest = nearest.min(axis=1)
    bonded = np.isin(j, anions) & (lengths <= _NEAREST * shortest[i])
    i, j, images, lengths = (x[bonded] for x in (np.array(cations)[i], j, images, lengths))
    apart = before.frac_coords[j] + images - before.frac_coords[i]
    now = after.frac_coords[j] - after.frac_coords[i]
    now += np.round(apart - now)
    return float((np.linalg.norm(now @ after.lattice.matrix, axis=1) / lengths).max() - 1)
