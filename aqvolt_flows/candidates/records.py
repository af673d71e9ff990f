"""One imported record: a structure with its provenance, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pymatgen.core import Element, Lattice, Species, Structure

#: A periodic cell below this holds no atom: He, the densest packed atom at 0 K, takes 17 Å³.
MIN_VOLUME_PER_ATOM_A3 = 1.0


class RecordError(ValueError):
    """A record that holds no usable structure; the message says what was seen and expected."""


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
    """

    file: str
    record: int
    line: int | None
    reason: str
    record_id: str | None = None
    fatal: bool = False


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
    except (TypeError, ValueError):
        raise RecordError("cell or coordinates are not arrays of numbers") from None
    if matrix.shape != (3, 3):
        raise RecordError(f"the cell has shape {matrix.shape}; expected (3, 3)")
    if not len(species):
        raise RecordError("it has no atoms")
    if positions.shape != (len(species), 3):
        raise RecordError(f"{len(species)} species but coordinates of shape {positions.shape}; expected one row each")
    if not (np.isfinite(matrix).all() and np.isfinite(positions).all()):
        raise RecordError("cell or coordinates hold NaN or infinity")
    volume = abs(float(np.linalg.det(matrix)))
    if volume < MIN_VOLUME_PER_ATOM_A3 * len(species):
        raise RecordError(f"the cell holds {len(species)} atoms in {volume:.3g} Å³; expected at least 1 Å³ an atom")
    try:
        return Structure(Lattice(matrix), list(species), positions, coords_are_cartesian=cartesian)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"not a structure ({type(error).__name__}: {' '.join(str(error).split())})") from None


def structure_from_dict(value: Any) -> Structure:
    """Return the structure of a pymatgen ``Structure.as_dict()``, without oxidation states and site properties.

    Raises
    ------
    RecordError
        If it is not one.
    """
    if not isinstance(value, Mapping):
        raise RecordError(f"its structure is {_seen(value)}; expected a pymatgen structure")
    try:
        matrix = value["lattice"]["matrix"]
        species = [_species(site) for site in value["sites"]]
        coords = [site["abc"] for site in value["sites"]]
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
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


def _symbol(name: str) -> str:
    if Element.is_valid_symbol(name):
        return name
    return str(Species.from_str(name).symbol)


def _seen(value: Any) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"


def finite(value: Any) -> float | None:
    """Return a finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
