"""One imported record: a structure with its provenance, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pymatgen.core import Element, Lattice, Species, Structure

from aqvolt_flows.candidates.refusals import RecordError

#: A periodic cell below this holds no atom: He, the densest packed atom at 0 K, takes 17 Å³.
MIN_VOLUME_PER_ATOM_A3 = 1.0
#: No cell of atoms is longer; a number beyond it is not in Å, or not a number that was meant.
MAX_LENGTH_A = 1e4
#: Of the isotopes that have symbols of their own; their electrons are those of hydrogen.
ISOTOPES = {"D": "H", "T": "H"}
_INT64 = 2**63


@dataclass(frozen=True, slots=True)
class Record:
    """One structure as a source gives it.

    Attributes
    ----------
    name
        What people call it, e.g. ``mp-1234 LiCl``.
    structure
        A periodic structure, without site properties.
    provenance
        ``database``, ``record_id``, ``file``, ``record`` (its number, from 1), ``functional``,
        ``e_above_hull_ev_per_atom`` and what else the source says about its origin.
    references
        DOIs or citations; where there are none, the identifier and the file stand for them.
    """

    name: str
    structure: Structure
    provenance: dict[str, Any] = field(default_factory=dict)
    references: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A record that could not be read.

    Attributes
    ----------
    file
        Name of the file, or of the service.
    record
        Its number in the file, from 1.
    line
        The line where it begins, from 1; None where a format has no lines.
    reason
        One sentence.
    record_id
        Its identifier, where that could be read.
    fatal
        Nothing after it could be read; what came before is kept.
    code
        The kind of reason, a key of :data:`~aqvolt_flows.candidates.refusals.REFUSALS`.
    """

    file: str
    record: int
    line: int | None
    reason: str
    record_id: str | None = None
    fatal: bool = False
    code: str = "unreadable"


def structure_from_arrays(cell: Any, species: Sequence[Any], coords: Any, cartesian: bool) -> Structure:
    """Return a structure after checking what a broken record gets wrong.

    Parameters
    ----------
    cell
        Lattice vectors as rows, shape (3, 3), Å.
    species
        Symbols, atomic numbers or occupancy mappings, length n.
    coords
        Shape (n, 3); Å if ``cartesian``, else fractions.
    cartesian
        What ``coords`` are.

    Raises
    ------
    RecordError
        If shapes disagree, a number is not finite, the cell has no volume, or an element is unknown.
    """
    try:
        matrix, positions = np.asarray(cell, dtype=float), np.asarray(coords, dtype=float)
    except (TypeError, ValueError, OverflowError):
        raise RecordError("cell or coordinates are not arrays of numbers") from None
    if matrix.shape != (3, 3):
        raise RecordError(f"the cell has shape {matrix.shape}; expected (3, 3)", "cell")
    if not len(species):
        raise RecordError("it has no atoms", "no_structure")
    if positions.shape != (len(species), 3):
        raise RecordError(
            f"{len(species)} species but coordinates of shape {positions.shape}; expected one row each", "count"
        )
    check_numbers(matrix, positions)
    try:
        return Structure(Lattice(matrix), list(species), positions, coords_are_cartesian=cartesian)
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        said = f"not a structure ({type(error).__name__}: {' '.join(str(error).split())})"
        raise RecordError(said, "unknown_element" if "symbol" in str(error) else "unreadable") from None


def check_numbers(matrix: Any, positions: Any) -> None:
    """Refuse a cell and coordinates that no crystal has.

    Parameters
    ----------
    matrix
        Lattice vectors as rows, shape (3, 3), Å.
    positions
        Shape (n, 3).

    Raises
    ------
    RecordError
        If a number is not finite, a vector is longer than 10⁴ Å, or there is less than 1 Å³ an atom.
    """
    if not (np.isfinite(matrix).all() and np.isfinite(positions).all()):
        raise RecordError("cell or coordinates hold NaN or infinity", "number")
    longest = float(np.abs(matrix).max())
    if longest > MAX_LENGTH_A or (len(positions) and float(np.abs(positions).max()) > MAX_LENGTH_A):
        raise RecordError(
            f"cell or coordinates reach {max(longest, float(np.abs(positions).max())):.3g}; expected at most "
            f"{MAX_LENGTH_A:.0f} Å",
            "number",
        )
    volume = abs(float(np.linalg.det(matrix)))
    if volume < MIN_VOLUME_PER_ATOM_A3 * len(positions):
        raise RecordError(
            f"the cell holds {len(positions)} atoms in {volume:.3g} Å³; expected at least 1 Å³ an atom", "cell"
        )


def plain_structure(structure: Structure) -> tuple[Structure, list[str]]:
    """Return a structure as candidates hold it, and a remark on each thing that was left out.

    Site properties (selective dynamics, magnetic moments, velocities, …) and labels are dropped, and so are the
    oxidation states of ordered sites; isotopes of hydrogen become hydrogen.

    Raises
    ------
    RecordError
        If a species is no element, or as :func:`check_numbers`.
    """
    check_numbers(np.asarray(structure.lattice.matrix), np.asarray(structure.frac_coords))
    remarks = []
    dropped = sorted(k for k, v in structure.site_properties.items() if any(x is not None for x in v))
    if dropped:
        remarks.append(f"left out: {', '.join(dropped)} of its sites")
    species: list[Any] = []
    isotopes: set[str] = set()
    for site in structure:
        strange = [str(s) for s in site.species if not Element.is_valid_symbol(getattr(s, "symbol", ""))]
        if strange:
            raise RecordError(f"{', '.join(strange)} is not an element", "unknown_element")
        found = {getattr(s, "name", "") for s in site.species} & ISOTOPES.keys()  # pymatgen's symbol of D is H
        isotopes |= found
        if site.is_ordered:
            species.append(site.specie.symbol)
        elif found:
            amounts: dict[str, float] = {}
            for s, amount in site.species.items():
                amounts[s.symbol] = amounts.get(s.symbol, 0.0) + amount
            species.append(amounts)
        else:
            species.append(site.species)
    if isotopes:
        remarks.append(f"{', '.join(sorted(isotopes))} read as H")
    return Structure(structure.lattice, species, structure.frac_coords), remarks


def encodable(value: Any) -> Any:
    """Return what MongoDB can hold of a value: text without lone surrogates, 64-bit integers, finite numbers."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return {str(encodable(str(k))).replace("\0", ""): encodable(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [encodable(v) for v in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if -_INT64 <= value < _INT64 else str(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return encodable(str(value))


def structure_from_dict(value: Any) -> Structure:
    """Return the structure of a pymatgen ``Structure.as_dict()``, without oxidation states and site properties.

    Raises
    ------
    RecordError
        If it is not one.
    """
    if not isinstance(value, Mapping):
        raise RecordError(f"its structure is {_seen(value)}; expected a pymatgen structure", "no_structure")
    try:
        matrix = value["lattice"]["matrix"]
        species = [_species(site) for site in value["sites"]]
        coords = [site["abc"] for site in value["sites"]]
    except RecordError:
        raise
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError) as error:
        raise RecordError(
            f"its structure lacks what a pymatgen structure has ({type(error).__name__}: {error})"
        ) from None
    return structure_from_arrays(matrix, species, coords, cartesian=False)


def _species(site: Mapping[str, Any]) -> Any:
    found = site["species"]
    if len(found) == 1 and found[0]["occu"] == 1:
        return _symbol(found[0]["element"])
    amounts: dict[str, float] = {}
    for part in found:
        symbol = _symbol(part["element"])
        amounts[symbol] = amounts.get(symbol, 0.0) + float(part["occu"])
    return amounts


def _symbol(name: Any) -> str:
    if isinstance(name, str) and Element.is_valid_symbol(name):
        return ISOTOPES.get(name, name)
    try:
        symbol = str(Species.from_str(name).symbol)
    except (ValueError, KeyError, TypeError, AttributeError):
        symbol = ""
    if not Element.is_valid_symbol(symbol):
        raise RecordError(f"{str(name)[:40]!r} is not an element", "unknown_element")
    return ISOTOPES.get(symbol, symbol)


def _seen(value: Any) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"


def finite(value: Any) -> float | None:
    """Return a finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of more than 308 digits
        return None
