"""POSCAR and CONTCAR (VASP 5 and 6); one without element symbols is refused, not read as hydrogen and helium."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass

import numpy as np
from pymatgen.core import Element, Structure

from aqvolt_flows.candidates.records import check_numbers, plain_structure
from aqvolt_flows.candidates.refusals import RecordError


@dataclass(frozen=True)
class Header:
    """What stands before the coordinates: symbols, counts and the index of the first line of coordinates."""

    symbols: list[str]
    counts: list[int]
    first: int
    selective: bool


def looks_like_poscar(text: str) -> bool:
    """Return whether the second line is a scale and the next three are vectors."""
    lines = text.split("\n")
    try:
        scale = [float(x) for x in lines[1].split()]
        return len(scale) in (1, 3) and all(len([float(x) for x in line.split()[:3]]) == 3 for line in lines[2:5])
    except (ValueError, IndexError):
        return False


def read_poscar(text: str) -> tuple[Structure, list[str]]:
    """Return the structure of a POSCAR, and remarks.

    Raises
    ------
    RecordError
        If it has no symbols (VASP 4), fewer coordinates than atoms, or a number that cannot be read.
    """
    from pymatgen.io.vasp import Poscar

    lines = text.split("\n")
    header = read_header(lines)
    n = sum(header.counts)
    per_atom = _symbols_of_atoms(lines, header) if not header.symbols else []
    _check_coordinates(lines, header, n)
    # an empty comment would end the part that pymatgen reads
    given = _with_one_scale([lines[0].strip() or "POSCAR", *lines[1:]], header)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            structure = Poscar.from_str("\n".join(given), read_velocities=False).structure
        except (ValueError, IndexError, KeyError, TypeError, ArithmeticError, np.linalg.LinAlgError) as error:
            raise RecordError(f"pymatgen: {' '.join(str(error).split())[:200]}", "syntax") from None
    if len(structure) != n:
        raise RecordError(f"it lists {len(structure)} atoms and its counts add up to {n}", "count")
    remarks = sorted({" ".join(str(s.message).split()) for s in said})
    if per_atom:
        remarks.append("symbols read from the lines of the atoms")
    plain, left_out = plain_structure(structure)
    return plain, remarks + left_out


def read_header(lines: list[str]) -> Header:
    """Return symbols (empty in VASP 4), counts and where the coordinates begin.

    Raises
    ------
    RecordError
        If a line is not what VASP expects there.
    """
    if not looks_like_poscar("\n".join(lines[:5])):
        raise RecordError("lines 2 to 5 are not a scale and three vectors", "syntax")
    matrix = np.array([[float(x) for x in line.split()[:3]] for line in lines[2:5]])
    check_numbers(matrix * min(1.0, 1e4 / max(np.abs(matrix).max(), 1e-300)), np.zeros((0, 3)))
    at, symbols = 5, []
    while at < len(lines) and lines[at].split() and not _integers(lines[at]):
        symbols += [token.split("/")[0].split("_")[0] for token in lines[at].split()]
        at += 1
        if at > 40:
            raise RecordError("there is no line with the numbers of atoms", "count")
    unknown = [s for s in symbols if not Element.is_valid_symbol(s)]
    if unknown:
        raise RecordError(f"line 6 names {', '.join(unknown[:5])}; expected element symbols", "unknown_element")
    counts: list[int] = []
    while at < len(lines) and (found := _integers(lines[at])) and (not symbols or len(counts) < len(symbols)):
        counts += found
        at += 1
    if not counts or min(counts) < 0 or not sum(counts):
        raise RecordError("there is no line with the numbers of atoms", "count")
    if symbols and len(symbols) != len(counts):
        raise RecordError(f"{len(symbols)} symbols and {len(counts)} numbers of atoms; expected as many", "count")
    mode = lines[at].strip()[:1].lower() if at < len(lines) else ""
    selective = mode == "s"
    at += 2 if selective else 1
    if at > len(lines) or not lines[at - 1].strip():
        raise RecordError("there is no line Direct or Cartesian", "syntax")
    return Header(symbols, counts, at, selective)


def _integers(line: str) -> list[int]:
    tokens = re.sub(r"[!#].*", "", line).split()
    return [int(t) for t in tokens] if tokens and all(re.fullmatch(r"\d{1,9}", t) for t in tokens) else []


def _symbols_of_atoms(lines: list[str], header: Header) -> list[str]:
    """Return the symbols at the ends of the coordinates, of a file without a line of symbols."""
    column, n = (6 if header.selective else 3), sum(header.counts)
    rows = [line.split() for line in lines[header.first : header.first + n]]
    symbols = [row[column] for row in rows if len(row) > column and Element.is_valid_symbol(row[column])]
    if len(symbols) == n == len(rows):
        return symbols
    words = lines[0].split()
    named = words if len(words) == len(header.counts) and all(Element.is_valid_symbol(w) for w in words) else []
    hint = f" (its comment says {' '.join(named)})" if named else ""
    raise RecordError(
        f"it has no element symbols, as in VASP 4; add a line of symbols{hint} before the numbers of atoms",
        "no_symbols",
    )


def _check_coordinates(lines: list[str], header: Header, n: int) -> None:
    rows = lines[header.first : header.first + n]
    for index, row in enumerate(rows):
        tokens = row.split()
        if not tokens:
            rows = rows[:index]
            break
        try:
            numbers = [float(t) for t in tokens[:3]]
        except ValueError:
            numbers = []
        if len(numbers) < 3 or not np.isfinite(numbers).all():
            raise RecordError(
                f"line {header.first + index + 1} is {row.strip()[:60]!r}; expected coordinates", "position"
            )
    if len(rows) < n:
        raise RecordError(f"it lists {len(rows)} atoms and its counts add up to {n}", "count")


def _with_one_scale(lines: list[str], header: Header) -> list[str]:
    """Return the lines with one positive scale factor.

    pymatgen reads no three factors (of x, y and z), and multiplies Cartesian coordinates by a negative factor, which is
    the volume.
    """
    factors = np.array([float(x) for x in lines[1].split()])
    if len(factors) == 1 and factors[0] < 0:
        volume = abs(float(np.linalg.det([[float(x) for x in line.split()[:3]] for line in lines[2:5]])))
        if volume < 1e-9:
            raise RecordError("the vectors have no volume to scale", "cell")
        return [lines[0], repr(float((-factors[0] / volume) ** (1 / 3))), *lines[2:]]
    if (factors <= 0).any():
        raise RecordError(f"the scale is {lines[1].strip()}; expected one number, or three positive ones", "cell")
    if len(factors) == 1:
        return lines

    def scaled(line: str) -> str:
        tokens = line.split()
        return " ".join([*(repr(float(v)) for v in np.array(tokens[:3], dtype=float) * factors), *tokens[3:]])

    new = [*lines[:1], "1.0", *map(scaled, lines[2:5]), *lines[5:]]
    if lines[header.first - 1].strip()[:1].lower() in ("c", "k"):
        last = header.first + sum(header.counts)
        new[header.first : last] = map(scaled, lines[header.first : last])
    return new
