"""Whether the sites of a CIF agree with what else it says: formula, units, volume, density."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pymatgen.core import Composition, Element, Structure

from aqvolt_flows.candidates.readers.cif_text import Block, number
from aqvolt_flows.candidates.records import ISOTOPES
from aqvolt_flows.candidates.refusals import RecordError

#: Largest relative difference of an element's amount in an ordered crystal: amounts there are whole numbers.
ORDERED_TOLERANCE = 0.01
#: Largest difference of an atom fraction with partial occupancies, which are rounded.
DISORDERED_TOLERANCE = 0.01
VOLUME_TOLERANCE = 0.02
DENSITY_TOLERANCE = 0.05
#: g/cm³; osmium, the densest element, has 22.6, so that a larger number is of another unit.
MAX_DENSITY = 25.0


@dataclass(frozen=True)
class Stated:
    """What a block says beside its sites.

    Attributes
    ----------
    formula
        Amounts by element of ``_chemical_formula_sum`` (or ``_structural``), hydrogen's isotopes as H; empty if absent.
    units
        Formula units per cell.
    volume
        Å³.
    density
        g/cm³.
    """

    formula: Mapping[str, float]
    units: float | None
    volume: float | None
    density: float | None
    text: str = ""


def read_stated(block: Block) -> Stated:
    """Return what a block says beside its sites; what cannot be read is taken as not said."""
    text, formula = "", {}
    for tag in ("_chemical_formula_sum", "_chemical_formula_structural"):
        text = block.first(tag) or ""
        if formula := parse_formula(text):
            break
    density = _number(block, "_exptl_crystal_density_diffrn")
    return Stated(
        formula,
        _number(block, "_cell_formula_units_z"),
        _number(block, "_cell_volume"),
        density if density and density < MAX_DENSITY else None,
        " ".join(text.split()),
    )


def parse_formula(text: str) -> dict[str, float]:
    """Return amounts by element of a formula such as ``Li3 Y Cl6``; empty if it is none."""
    cleaned = re.sub(r"(?<=\d)\(\d+\)", "", text.replace("'", " ").replace("~", ""))
    try:
        found = Composition(re.sub(r"\s+", " ", cleaned).strip()).as_dict()
    except (ValueError, KeyError, TypeError, IndexError):
        return {}
    amounts: dict[str, float] = {}
    for symbol, amount in found.items():
        element = ISOTOPES.get(symbol, symbol)
        if not Element.is_valid_symbol(element) or not math.isfinite(amount) or amount <= 0:
            return {}
        amounts[element] = amounts.get(element, 0.0) + amount
    return amounts


def _number(block: Block, tag: str) -> float | None:
    text = block.first(tag)
    try:
        value = number(text) if text else None
    except ValueError:
        return None
    return value if value and math.isfinite(value) and value > 0 else None


def check_stated(structure: Structure, stated: Stated) -> None:
    """Refuse a structure that contradicts the rest of its block.

    Raises
    ------
    RecordError
        With the code ``composition``, ``cell_volume``, ``formula_units`` or ``density``, and both numbers.
    """
    if stated.volume and abs(structure.volume / stated.volume - 1) > VOLUME_TOLERANCE:
        raise RecordError(
            f"the cell parameters give {structure.volume:.2f} Å³ and the file says {stated.volume:g} Å³; correct the "
            "cell",
            "cell_volume",
        )
    counted = amounts_of(structure)
    if stated.formula:
        _check_composition(structure, counted, stated)
    density_fits = _density_ratio(structure, stated)
    if stated.formula and stated.units:
        units = sum(counted.values()) / sum(stated.formula.values())
        if not (_fits_units(units, stated) or density_fits):
            raise RecordError(
                f"the sites are {units:.4g} × {stated.text} and the file says {stated.units:g} formula units; the "
                "symmetry operations or sites are incomplete",
                "formula_units",
            )
    if density_fits is False:
        raise RecordError(
            f"the sites give {float(structure.density):.3f} g/cm³ and the file says {stated.density:g} g/cm³; the "
            "symmetry operations or sites are incomplete",
            "density",
        )


def amounts_of(structure: Structure) -> dict[str, float]:
    """Return the number of atoms of each element in the cell."""
    amounts: dict[str, float] = {}
    for species, amount in structure.composition.items():
        element = ISOTOPES.get(species.symbol, species.symbol)
        amounts[element] = amounts.get(element, 0.0) + amount
    return amounts


def shows_all_atoms(structure: Structure, stated: Stated) -> bool:
    """Return whether formula, units or density of a block say that the sites fill the cell."""
    if _density_ratio(structure, stated):
        return True
    if not stated.formula:
        return False
    units = sum(amounts_of(structure).values()) / sum(stated.formula.values())
    if stated.units:
        return _fits_units(units, stated)
    whole = [round(v) for v in stated.formula.values()]
    is_whole = all(abs(w - v) < 1e-6 for w, v in zip(whole, stated.formula.values(), strict=True))
    return is_whole and math.gcd(*whole) > 1 and abs(units - 1) < ORDERED_TOLERANCE  # the sum is of the whole cell


def _fits_units(units: float, stated: Stated) -> bool:
    """Return whether the cell holds Z formulas, or one of the formula of the whole cell, which pymatgen writes."""
    assert stated.units is not None
    if abs(units / stated.units - 1) < DENSITY_TOLERANCE:
        return True
    per_unit = [v / stated.units for v in stated.formula.values()]
    whole = all(abs(v - round(v)) < 1e-6 for v in per_unit) or any(
        abs(v - round(v)) > 1e-6 for v in stated.formula.values()
    )
    return whole and abs(units - 1) < DENSITY_TOLERANCE


def _density_ratio(structure: Structure, stated: Stated) -> bool | None:
    if not stated.density:
        return None
    return abs(float(structure.density) / stated.density - 1) <= DENSITY_TOLERANCE


def _check_composition(structure: Structure, counted: Mapping[str, float], stated: Stated) -> None:
    there, said = sum(counted.values()), sum(stated.formula.values())
    if structure.is_ordered:
        ratios = [counted.get(e, 0.0) / amount for e, amount in stated.formula.items()]
        same = counted.keys() == stated.formula.keys() and max(ratios) <= min(ratios) * (1 + ORDERED_TOLERANCE)
    else:
        elements = counted.keys() | stated.formula.keys()
        apart = [abs(counted.get(e, 0.0) / there - stated.formula.get(e, 0.0) / said) for e in elements]
        same = max(apart) <= DISORDERED_TOLERANCE
    if not same:
        sites = " ".join(f"{e}{a:.4g}" for e, a in sorted(counted.items()))
        raise RecordError(f"the formula is {stated.text} and the sites are {sites}; correct the sites", "composition")
