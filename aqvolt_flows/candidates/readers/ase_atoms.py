"""ASE Atoms to structures, from trajectories and from extxyz frames; partial occupancy is kept, not dropped."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Structure

from aqvolt_flows.candidates.readers.text import open_bytes, refuse_html, text_lines
from aqvolt_flows.candidates.records import plain_structure, structure_from_arrays
from aqvolt_flows.candidates.refusals import RecordError

#: (number from 1, line or None, structure or why there is none, remarks)
Frame = tuple[int, int | None, Structure | RecordError, list[str]]
#: Rows of one frame; a larger count is a broken one.
MAX_ROWS = 1_000_000
_PROPERTIES = re.compile(r"Properties\s*=\s*[\"']?([^\s\"']+)")


def structure_of(atoms: Any) -> tuple[Structure, list[str]]:
    """Return the structure of ASE Atoms, and remarks on what was left out.

    Raises
    ------
    RecordError
        If it is not periodic in three directions, or as :func:`~aqvolt_flows.candidates.records.structure_from_arrays`.
    """
    if not np.all(atoms.pbc) or not np.any(atoms.cell[:]):
        periodic = " ".join("T" if p else "F" for p in atoms.pbc)
        raise RecordError(
            f"it has no periodic cell (pbc {periodic}{', no cell' if not np.any(atoms.cell[:]) else ''}); expected a "
            "crystal: give Lattice=… and pbc='T T T' in its comment line",
            "not_periodic",
        )
    symbols: list[Any] = list(atoms.symbols)
    if "X" in symbols:
        raise RecordError(f"atom {symbols.index('X')} is X, which is no element", "unknown_element")
    remarks = []
    occupancy = atoms.info.get("occupancy")
    mixed = isinstance(occupancy, dict) and bool(occupancy)
    if mixed:
        symbols = _occupied(atoms, occupancy)
    structure = structure_from_arrays(atoms.cell[:], symbols, atoms.get_positions(), cartesian=True)
    dropped = sorted(set(atoms.arrays) & {"initial_magmoms", "momenta", "initial_charges"})
    if dropped:
        remarks.append(f"left out: {', '.join(dropped)} of its atoms")
    if not mixed:
        return structure, remarks  # of elements alone, without properties
    plain, left_out = plain_structure(structure)
    return plain, remarks + left_out


def _occupied(atoms: Any, occupancy: dict[Any, Any]) -> list[Any]:
    """Return species by site from ASE's ``info['occupancy']``, whose keys are the numbers in ``spacegroup_kinds``."""
    kinds = atoms.arrays.get("spacegroup_kinds")
    if kinds is None:
        raise RecordError("it has partial occupancies (info['occupancy']) without spacegroup_kinds", "occupancy")
    try:
        by_kind = {int(k): {str(s): float(x) for s, x in v.items()} for k, v in occupancy.items()}
        return [by_kind.get(int(kind), symbol) for kind, symbol in zip(kinds, atoms.symbols, strict=True)]
    except (ValueError, TypeError, AttributeError):
        raise RecordError("its partial occupancies (info['occupancy']) cannot be read", "occupancy") from None


def read_trajectory(path: Path) -> Iterator[Frame]:
    """Yield the frames of an ASE trajectory (.traj), one in memory at a time.

    Raises
    ------
    RecordError
        If it is none.
    """
    from ase.io.trajectory import TrajectoryReader

    try:
        frames = TrajectoryReader(str(path))
        count = len(frames)
    except Exception as error:  # noqa: BLE001 - a broken binary file fails in many ways; it becomes the reason
        raise RecordError(f"it is no whole ASE trajectory ({_said(error)})", "syntax") from None
    with frames:
        for index in range(count):
            try:
                structure, remarks = structure_of(frames[index])
            except RecordError as error:
                yield index + 1, None, error, []
            except Exception as error:  # noqa: BLE001 - as above, for one frame
                yield index + 1, None, RecordError(f"the frame cannot be read ({_said(error)})", "syntax"), []
            else:
                yield index + 1, None, structure, remarks


def read_extxyz(path: Path) -> Iterator[Frame]:
    """Yield the frames of an (extended) xyz file, plain or compressed; a broken frame loses no other.

    A line of one integer begins a frame: no row of atoms looks like it. A frame with fewer or more rows than it says is
    a reason, and the next one is looked for behind it.

    Raises
    ------
    RecordError
        If it holds no frame, or the compressed file is damaged (after the frames before the damage).
    """
    record = 0
    with open_bytes(path) as handle:
        for line, rows in _frames(text_lines(handle)):
            record += 1
            try:
                structure, remarks = _frame(rows)
            except RecordError as error:
                if record == 1:
                    refuse_html("\n".join(rows[:5]))
                yield record, line, error, []
            except Exception as error:  # noqa: BLE001 - one frame; the others are read
                yield record, line, RecordError(f"the frame cannot be read ({_said(error)})"), []
            else:
                yield record, line, structure, remarks
    if not record:
        raise RecordError("it holds no frame", "no_structure")


def _frames(lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, rows) of the frames; lines that belong to none are a frame without a count."""
    rows: list[str] = []
    start = 0
    for number, line in enumerate(lines, 1):
        if _is_count(line) or (line.strip() and _is_whole(rows) and not _is_alike(line, rows[-1])):
            if rows:
                yield start, rows
            rows, start = [line], number
        elif not line.strip() and _is_whole(rows):
            continue
        elif rows or line.strip():
            start = start or number
            if len(rows) < MAX_ROWS + 2:
                rows.append(line)
    if rows:
        yield start, rows


def _is_whole(rows: list[str]) -> bool:
    return len(rows) > 2 and _is_count(rows[0]) and len(rows) - 2 == int(rows[0].strip()[:9])


def _is_alike(line: str, row: str) -> bool:
    """Return whether a line behind the last row of a frame is one more row, and not what is left of another frame."""
    return [_kind(t) for t in line.split()] == [_kind(t) for t in row.split()]


def _kind(token: str) -> str:
    try:
        float(token)
    except ValueError:
        return "word" if token.isalpha() else "other"
    return "number"


def _is_count(row: str) -> bool:
    return row.strip().isascii() and row.strip().isdigit()


def _frame(rows: list[str]) -> tuple[Structure, list[str]]:
    from ase.io import read

    while len(rows) > 2 and not rows[-1].strip():
        rows.pop()
    if not _is_count(rows[0]):
        raise RecordError(f"a frame begins with {rows[0].strip()[:40]!r}; expected its number of atoms", "count")
    n = int(rows[0]) if len(rows[0].strip()) < 10 else MAX_ROWS + 1
    if n > MAX_ROWS or len(rows) - 2 != n:
        raise RecordError(f"the frame says {rows[0].strip()[:20]} atoms and has {max(len(rows) - 2, 0)} rows", "count")
    if not n:
        raise RecordError("it has no atoms", "no_structure")
    _check_columns(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            atoms: Any = read(io.StringIO("\n".join(rows) + "\n"), index=0, format="extxyz")
        except Exception as error:  # noqa: BLE001 - ASE's parser fails in many ways; it becomes the reason
            code = "unknown_element" if isinstance(error, KeyError) else "syntax"
            raise RecordError(f"ASE: {_said(error)}", code) from None
        return structure_of(atoms)


def _check_columns(rows: list[str]) -> None:
    """Raise where Properties describe more columns than the first atom has: ASE would make room for each of them."""
    described = _PROPERTIES.search(rows[1])
    counts = re.findall(r":[A-Za-z]:(\d+)", described[1]) if described else []
    width, there = sum(int(c[:9]) for c in counts), len(rows[2].split())
    if width > there:
        raise RecordError(f"its Properties describe {width} columns, and its first atom has {there}", "syntax")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
