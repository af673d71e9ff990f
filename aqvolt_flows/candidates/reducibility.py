"""How many Li a host can take up: its redox metals pay for each with one electron (section 2.1).

The paper discards hosts that cannot be reduced enough "based on oxidation state analysis methods outlined by
Rutt et al." (ACS Appl. Mater. Interfaces 14, 44367 (2022), DOI 10.1021/acsami.2c11733). The rule here: guess the
host's oxidation states, let every redox metal go down to the lowest state of ``data/oxidation_states.csv``, and keep
the host if that pays for at least one Li per cell.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Any

from pymatgen.core import Composition, Structure

from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.provenance import Failure

#: The redox-active metals of section 2.1.
REDOX_METALS = ("Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Nb", "Mo", "Ru", "Ag", "W", "Re", "Sb", "Bi")


@dataclass(frozen=True)
class OxidationState:
    """One line of the table: a state, a compound that has it, and who says so."""

    state: int
    compound: str
    source: str


@cache
def oxidation_state_table() -> dict[str, tuple[OxidationState, ...]]:
    """Return the known positive states of each redox metal, lowest first (``data/oxidation_states.csv``)."""
    text = resources.files("aqvolt_flows").joinpath("data/oxidation_states.csv").read_text()
    table: dict[str, list[OxidationState]] = {}
    for row in csv.DictReader(line for line in text.splitlines() if not line.startswith("#")):
        table.setdefault(row["element"], []).append(OxidationState(int(row["state"]), row["compound"], row["source"]))
    return {element: tuple(sorted(states, key=lambda s: s.state)) for element, states in table.items()}


def lowest_state(element: str) -> int:
    """Return the lowest positive oxidation state that insertion may reduce a redox metal to.

    Raises
    ------
    InputError
        If the element is not in the table.
    """
    states = oxidation_state_table().get(element)
    if states is None:
        known = ", ".join(oxidation_state_table())
        raise InputError(f"{element} is not a redox metal of the table; known are {known}.")
    return states[0].state


@dataclass(frozen=True)
class Reduction:
    """What a host's redox metals can pay for.

    Attributes
    ----------
    oxidation_states
        Element → guessed state, averaged over the element's sites.
    method
        How the states were found: ``composition`` or ``bond_valence``.
    electrons
        Redox metal → electrons per cell that it takes on its way to its lowest state.
    max_li
        Whole Li per cell that those electrons pay for.
    """

    oxidation_states: Mapping[str, float]
    method: str
    electrons: Mapping[str, float]
    max_li: int

    def as_decisions(self) -> dict[str, Any]:
        """Return the numbers that go into a document."""
        return {
            "oxidation_states": dict(self.oxidation_states),
            "oxidation_state_method": self.method,
            "lowest_states": {m: lowest_state(m) for m in self.electrons},
            "electrons_per_cell": dict(self.electrons),
            "max_li": self.max_li,
        }


def guess_oxidation_states(structure: Structure) -> tuple[dict[str, float], str] | None:
    """Return element → average state and how it was found, or None if nothing balances the charge.

    First the most likely charge-balanced guess for the composition among states seen in the ICSD (pymatgen's
    ``oxi_state_guesses``), then bond valences (``BVAnalyzer``), which look at the structure. All-zero guesses
    (intermetallics) are none.
    """
    states = _composition_states(structure.composition.element_composition.reduced_formula)
    return (dict(states), "composition") if states else _bond_valence_states(structure)


@lru_cache(maxsize=4096)
def _composition_states(formula: str) -> tuple[tuple[str, float], ...]:
    """Return the most likely states of a formula, element by element; empty if none balances the charge."""
    for guess in Composition(formula).oxi_state_guesses(max_sites=-1):
        if any(abs(v) > 0 for v in guess.values()):
            return tuple((str(e), round(float(v), 6)) for e, v in guess.items())
    return ()


def _bond_valence_states(structure: Structure) -> tuple[dict[str, float], str] | None:
    from pymatgen.analysis.bond_valence import BVAnalyzer

    try:
        valences = BVAnalyzer().get_valences(structure)
    except (ValueError, KeyError, IndexError, TypeError):
        return None  # pymatgen says "cannot assign" in several ways; no guess is what they all mean
    sums: dict[str, list[float]] = {}
    for site, valence in zip(structure, valences, strict=True):
        sums.setdefault(site.specie.symbol, []).append(float(valence))
    return {e: round(sum(v) / len(v), 6) for e, v in sorted(sums.items())}, "bond_valence"


def assess_reducibility(structure: Structure, metals: Iterable[str] = REDOX_METALS) -> Reduction | Failure:
    """Return how many Li the host's cell can compensate, or why that cannot be said or is none.

    Parameters
    ----------
    structure
        The host, ordered and without Li.
    metals
        Redox metals that may be reduced; each must be in the table.

    Returns
    -------
    Reduction or Failure
        Reasons: ``no_redox_metal``, ``no_oxidation_state``, ``not_reducible``.

    Notes
    -----
    The number is extensive: twice the cell, twice the Li. A half-electron left over pays for no Li.
    """
    return _reduction(structure.composition, metals, lambda: guess_oxidation_states(structure))


def assess_formula(formula: str, n_atoms: int, metals: Iterable[str] = REDOX_METALS) -> Reduction | Failure | None:
    """Return :func:`assess_reducibility` of a cell without its structure.

    Parameters
    ----------
    formula
        Reduced formula.
    n_atoms
        Atoms of the cell.
    metals
        Redox metals that may be reduced.

    Returns
    -------
    Reduction, Failure or None
        None if no states balance the charge of the formula: bond valences, which need the structure, decide.
    """
    unit = Composition(formula)
    states = _composition_states(formula)
    found = _reduction(
        unit * (n_atoms / unit.num_atoms), metals, lambda: (dict(states), "composition") if states else None
    )
    return None if isinstance(found, Failure) and found.reason == "no_oxidation_state" else found


def _reduction(
    composition: Composition, metals: Iterable[str], guess: Callable[[], tuple[dict[str, float], str] | None]
) -> Reduction | Failure:
    amounts, metals = composition.get_el_amt_dict(), list(metals)
    active = [m for m in metals if m in amounts]
    formula = composition.reduced_formula
    if not active:
        return Failure(reason="no_redox_metal", message=f"{formula} has none of {', '.join(metals)}")
    guessed = guess()
    if guessed is None:
        return Failure(reason="no_oxidation_state", message=f"no charge-balanced oxidation states for {formula}")
    states, method = guessed
    electrons = {m: round(max(0.0, states[m] - lowest_state(m)) * amounts[m], 6) for m in active}
    max_li = math.floor(sum(electrons.values()) + 1e-6)
    if max_li < 1:
        seen = ", ".join(f"{m} {states[m]:+g} (lowest {lowest_state(m):+d})" for m in active)
        return Failure(reason="not_reducible", message=f"{formula}: {seen} compensates no Li")
    return Reduction(states, method, electrons, max_li)
