"""Compositions, exclusions, radii and the isolated-atom reference energies."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources

from pymatgen.core import Composition, Element, Structure

from aqvolt_flows.errors import InputError

HALOGENS = ("F", "Cl", "Br", "I")


def chemical_system(elements: Iterable[str]) -> str:
    """Return the element symbols in alphabetical order joined by ``-``, e.g. ``Cl-Li-Y``."""
    return "-".join(sorted(set(elements)))


def reduced_formula(composition: Composition) -> str:
    """Return the reduced formula; the missing electronegativity of noble gases only orders its symbols."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No Pauling electronegativity", category=UserWarning)
        return str(composition.reduced_formula)


def describe(symbols: Sequence[str]) -> dict[str, object]:
    """Return the fields every document of a structure carries: formula, chemsys, elements, n_atoms."""
    composition = Composition({s: float(symbols.count(s)) for s in set(symbols)})
    return {
        "formula": reduced_formula(composition),
        "chemsys": chemical_system(symbols),
        "elements": sorted(set(symbols)),
        "n_atoms": len(symbols),
    }


def describe_structure(structure: Structure) -> dict[str, object]:
    """Return :func:`describe` of an ordered structure; a disordered one is an :class:`InputError`."""
    if not structure.is_ordered:
        raise InputError(
            f"{structure.composition.reduced_formula} has partially occupied sites; order it first, molecular dynamics "
            "needs whole atoms."
        )
    return describe([site.specie.symbol for site in structure])


def symbols_of(atomic_numbers: Iterable[int]) -> list[str]:
    """Return the element symbols of atomic numbers."""
    return [_symbol(int(z)) for z in atomic_numbers]


@cache
def _symbol(atomic_number: int) -> str:
    return str(Element.from_Z(atomic_number).symbol)


def radioactive(elements: Iterable[str]) -> list[str]:
    """Return those elements without a stable isotope (pymatgen: Tc, Pm, Po and beyond)."""
    return sorted(e for e in set(elements) if Element(e).is_radioactive)


def noble_gases(elements: Iterable[str]) -> list[str]:
    """Return those elements that are noble gases."""
    return sorted(e for e in set(elements) if Element(e).is_noble_gas)


@cache
def atomic_energies(functional: str = "r2SCAN") -> dict[str, float]:
    """Return isolated-atom energies in eV by element symbol.

    The table is MatPES 2025.1's atomic reference (``atomic_energies.csv`` beside this file; Kaplan et
    al., arXiv:2503.04070), VASP with the PBE_64 pseudopotentials; it ends at Z = 83.
    """
    column = {"r2SCAN": "r2scan_energy_atomic_eV", "PBE": "pbe_energy_atomic_eV"}.get(functional)
    if column is None:
        raise InputError(f"There are no isolated-atom energies for {functional!r}; known are r2SCAN and PBE.")
    text = resources.files("aqvolt_flows").joinpath("data/atomic_energies.csv").read_text()
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {row["element"]: float(row[column]) for row in rows if row[column]}


def cohesive_energy_per_atom(energy: float, symbols: Sequence[str], functional: str = "r2SCAN") -> float:
    """Return (E − Σ E_atom)/N in eV/atom; negative means bound.

    Raises
    ------
    InputError
        If an element has no isolated-atom energy.
    """
    reference = atomic_energies(functional)
    missing = sorted(set(symbols) - set(reference))
    if missing:
        raise InputError(f"No isolated-atom {functional} energy for {', '.join(missing)}; the table ends at Z = 83.")
    return (energy - sum(reference[s] for s in symbols)) / len(symbols)
