"""Replacing a halogen by another one, to raise the share of the rare ones (section 2.1).

All atoms of one halogen are replaced at once (a share of them as an option), the volume is rescaled by ionic radii, and
the relaxed structure must still be the one it was rescaled to. "Significant framework changes, as defined by the
default parameters in the StructureMatcher algorithm" are discarded: those defaults do not map LiCl onto LiBr (the
species differ), so the relaxed structure is compared with the substituted one before relaxation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymatgen.core import Composition, Element, Structure

from aqvolt_flows.candidates.framework import Tolerances, compare
from aqvolt_flows.chemistry import HALOGENS
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.generation import SubstitutionParameters


@dataclass(frozen=True)
class Substitution:
    """One replacement: in which parent, which halogen by which, and on which share of its sites."""

    parent_id: str
    old: str
    new: str
    fraction: float = 1.0


def possible_substitutions(elements: Sequence[str], parameters: SubstitutionParameters) -> list[tuple[str, str]]:
    """Return the (old, new) that a parent with these elements allows, in the order of ``to_halogens``."""
    olds = [h for h in parameters.from_halogens if h in elements]
    return [(old, new) for new in parameters.to_halogens if new not in elements for old in olds]


def choose_substitutions(
    parents: Sequence[tuple[str, Sequence[str]]],
    pool: Mapping[str, int],
    parameters: SubstitutionParameters,
    made: Mapping[str, Collection[tuple[str, str]]] | None = None,
) -> list[Substitution]:
    """Return the replacements that balance a pool.

    Every parent gets at most ``per_parent`` of them, whichever of its halogens they replace, each for every one of
    ``fractions``. Each goes to the halogen
    that the pool, with the replacements chosen so far, has least of (a tie: the order of ``to_halogens``), out of those
    the parent does not have. With as many as there are halogens (the default: F → Cl, Br, I) every one is made, and
    balance decides nothing.

    Parameters
    ----------
    parents
        (candidate_id, elements), taken in this order.
    pool
        Halogen → number of structures of the pool that contain it.
    parameters
        Which halogens go and come.
    made
        (old, new) of a parent that are made or queued; they count among its ``per_parent``.
    """
    counts = {h: pool.get(h, 0) for h in HALOGENS}
    chosen: list[Substitution] = []
    for parent_id, elements in parents:
        there = set((made or {}).get(parent_id, ()))
        possible = [pair for pair in possible_substitutions(elements, parameters) if pair not in there]
        for _ in range(min(parameters.per_parent - len(there), len(possible))):
            best = min(possible, key=lambda pair: counts[pair[1]])  # the first of a tie: the order given
            possible.remove(best)
            chosen += [Substitution(parent_id, *best, fraction) for fraction in parameters.fractions]
            counts[best[1]] += len(parameters.fractions)
    return chosen


def halogen_counts(elements: Sequence[Sequence[str]]) -> dict[str, int]:
    """Return how many structures contain each halogen; one with two counts for both."""
    return {h: sum(h in e for e in elements) for h in HALOGENS}


def ionic_radius(element: str, state: float) -> float:
    """Return a radius in Å: Shannon's for six neighbors where there is one.

    R. D. Shannon, Acta Cryst. A 32, 751 (1976), DOI 10.1107/S0567739476001551, as pymatgen holds it. For a state
    without an entry, the nearest state that has one; for an element without any (or state 0), pymatgen's atomic radius.
    """
    radii = _shannon_radii(element)
    if radii and state != 0:
        same_sign = {s: r for s, r in radii.items() if s * state > 0}
        if same_sign:
            return same_sign[min(same_sign, key=lambda s: (abs(s - state), s))]
    radius = Element(element).atomic_radius
    if radius is None:
        raise InputError(f"{element} has neither an ionic nor an atomic radius; leave it out of substitution.")
    return float(radius)


def _shannon_radii(element: str) -> dict[int, float]:
    """Return state → ionic radius for coordination VI (high spin where there are two), else the table's first."""
    table = Element(element).data.get("Shannon radii") or {}
    found = {}
    for state, by_coordination in table.items():
        spins = by_coordination.get("VI") or next(iter(by_coordination.values()))
        entry = spins.get("") or spins.get("High Spin") or next(iter(spins.values()))
        found[int(state)] = float(entry["ionic_radius"])
    return found


def linear_scale(composition: Composition, old: str, new: str, fraction: float = 1.0) -> float:
    """Return the factor on lengths when one halide replaces another, or a share: the ratio of cation–anion distances.

    A distance is the sum of mean radii, cations and anions each averaged over their atoms. Charges are pymatgen's
    most likely guess; without one, every element that is no halogen counts with its atomic radius.
    """
    charges = _charges(composition)
    amounts = composition.get_el_amt_dict()
    cations = [(ionic_radius(e, charges.get(e, 0.0)), n) for e, n in amounts.items() if not _is_anion(e, charges)]
    anions = [(e, n) for e, n in amounts.items() if _is_anion(e, charges)]
    mean_cation = _mean(cations)
    before = _mean([(ionic_radius(e, min(charges.get(e, -1.0), -1.0)), n) for e, n in anions])
    mixed = [
        pair
        for e, n in anions
        for pair in ([(new, fraction * n), (old, (1 - fraction) * n)] if e == old else [(e, n)])
        if pair[1]
    ]
    after = _mean([(ionic_radius(e, min(charges.get(old if e == new else e, -1.0), -1.0)), n) for e, n in mixed])
    return (mean_cation + after) / (mean_cation + before)


def _charges(composition: Composition) -> dict[str, float]:
    guesses = composition.element_composition.reduced_composition.oxi_state_guesses(max_sites=-1)
    return {str(e): float(v) for e, v in guesses[0].items()} if guesses else {}


def _is_anion(element: str, charges: Mapping[str, float]) -> bool:
    return charges.get(element, -1.0 if element in HALOGENS else 0.0) < 0


def _mean(pairs: Sequence[tuple[float, float]]) -> float:
    weights = sum(n for _, n in pairs)
    return sum(r * n for r, n in pairs) / weights if weights else 0.0


def substitute(structure: Structure, old: str, new: str, sites: Sequence[int] | None = None) -> Structure:
    """Return the structure with one halogen replaced and the volume rescaled by ionic radii.

    Parameters
    ----------
    structure
        The parent.
    old, new
        Halogens.
    sites
        Sites of ``old`` that are replaced; by default all.

    Raises
    ------
    InputError
        If the structure does not contain ``old``, contains ``new``, or either is no halogen.
    """
    elements = {e.symbol for e in structure.composition.elements}
    for symbol in (old, new):
        if symbol not in HALOGENS:
            raise InputError(f"{symbol} is no halogen of this work; expected one of {', '.join(HALOGENS)}.")
    if old not in elements or new in elements:
        raise InputError(
            f"{structure.composition.reduced_formula}: {old} cannot become {new}; the structure must contain "
            f"{old} and no {new}."
        )
    all_sites = [i for i, site in enumerate(structure) if site.specie.symbol == old]
    replaced = set(all_sites if sites is None else sites)
    scale = linear_scale(structure.composition, old, new, len(replaced) / len(all_sites))
    symbols = [new if i in replaced else site.specie.symbol for i, site in enumerate(structure)]
    made = Structure(structure.lattice, symbols, structure.frac_coords)
    made.scale_lattice(structure.volume * scale**3)
    return made


@dataclass(frozen=True)
class FrameworkChange:
    """What relaxation did to a substituted structure.

    Attributes
    ----------
    kept
        The relaxed structure is the substituted one within the default tolerances of ``StructureMatcher``.
    rms_a
        Root mean square displacement at equal volume, Å; None without a match.
    volume_change
        V/V₀ − 1.
    length_change, angle_change
        Largest relative change of a length, and of an angle (degrees), of the primitive cell at equal volume.
    limit
        Which tolerance was exceeded, with both numbers; empty if none was.
    """

    kept: bool
    rms_a: float | None
    volume_change: float
    length_change: float | None = None
    angle_change: float | None = None
    limit: str = ""

    def as_decisions(self) -> dict[str, Any]:
        """Return the numbers for a document."""
        numbers = {
            "rms_displacement_a": self.rms_a,
            "volume_change": self.volume_change,
            "length_change": self.length_change,
            "angle_change_deg": self.angle_change,
        }
        rounded = {k: None if v is None else round(v, 6) for k, v in numbers.items()}
        return {"framework_kept": self.kept, **rounded, "limit": self.limit or None}


def framework_change(before: Structure, after: Structure) -> FrameworkChange:
    """Compare the substituted structure before and after relaxation at the default tolerances of ``StructureMatcher``.

    The result does not depend on the cell (:mod:`aqvolt_flows.candidates.framework`).
    """
    found = compare(before, after, Tolerances())
    return FrameworkChange(
        found.kept, found.rms_a, found.volume_change, found.length_change, found.angle_change, found.limit
    )
