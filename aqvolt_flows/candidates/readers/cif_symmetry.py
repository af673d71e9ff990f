"""Symmetry of a CIF block: the operations it lists, or those of the setting that it names."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core.operations import SymmOp

from aqvolt_flows.candidates.readers.cif_text import Block
from aqvolt_flows.candidates.refusals import RecordError

_LISTED = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")
_MAGNETIC = ("_space_group_symop_magn_operation_xyz", "_space_group_symop_operation_xyz_magn")
_CENTERING = "_space_group_symop_magn_centering_xyz"
_NAMES = ("_symmetry_space_group_name_h-m", "_symmetry_space_group_name_h_m", "_space_group_name_h-m_alt")
_HALL = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
_NUMBERS = ("_space_group_it_number", "_symmetry_int_tables_number")
_MODULATED = ("_space_group_symop_ssg_operation_algebraic", "_cell_modulation_dimension", "_cell_wave_vector_seq_id")
_PART = re.compile(r"^[-+]?(?:[0-9.]+(?:/[0-9.]+)?\*?)?[xyz]?(?:[-+](?:[0-9.]+(?:/[0-9.]+)?\*?)?[xyz]?)*$")
#: Relative change of the metric tensor that an operation may make; cells relaxed with DFT stay below it.
METRIC_TOLERANCE = 0.02


@dataclass(frozen=True)
class Symmetry:
    """What a block says of its symmetry.

    Attributes
    ----------
    operations
        ``x,y,z`` texts as listed, time reversal removed; empty if there are none.
    name, hall
        Hermann-Mauguin and Hall symbol of the space group.
    number
        Of the space group.
    """

    operations: tuple[str, ...] = ()
    name: str | None = None
    hall: str | None = None
    number: int | None = None
    rotations: tuple[NDArray[np.float64], ...] = field(default=(), compare=False)

    @property
    def stated(self) -> bool:
        """Whether the block says anything."""
        return bool(self.operations or self.name or self.hall or self.number)

    @property
    def is_p1(self) -> bool:
        """Whether a space group is named, and it is P1."""
        named = re.sub(r"[\s_]", "", self.name or self.hall or "").upper()
        return named == "P1" or (not named and self.number == 1)


def read_symmetry(block: Block) -> Symmetry:
    """Return what a block says of its symmetry.

    Raises
    ------
    RecordError
        If it is modulated, or an operation cannot be read.
    """
    if any(t in block.columns or block.first(t) not in (None, "0") for t in _MODULATED):
        raise RecordError("the structure is modulated (superspace group); expected a periodic one", "modulated")
    texts = next((c for c in (block.column(t) for t in _LISTED) if c), None)
    magnetic = next((c for c in (block.column(t) for t in _MAGNETIC) if c), None)
    if magnetic:
        texts = _with_centering(magnetic, block.column(_CENTERING))
    texts = [t for t in texts or [] if t.strip() not in (".", "?", "")]
    operations = [read_operation(t) for t in texts]
    number = re.match(r"\d+", block.first(*_NUMBERS) or "")
    known = int(number[0]) if number and 1 <= int(number[0]) <= 230 else None
    return Symmetry(
        tuple(texts),
        None if magnetic else block.first(*_NAMES),
        None if magnetic else block.first(*_HALL),
        None if magnetic else known,
        tuple(op.rotation_matrix for op in operations),
    )


def read_operation(text: str) -> SymmOp:
    """Return the operation that ``x,y,z`` text describes; raise :class:`RecordError` if it is none."""
    parts = re.sub(r"\s", "", text.lower()).split(",")
    try:
        if len(parts) != 3 or not all(p and _PART.match(p) for p in parts):
            raise ValueError
        operation = SymmOp.from_xyz_str(",".join(parts))
        if abs(abs(np.linalg.det(operation.rotation_matrix)) - 1.0) > 1e-6:
            raise ValueError
    except (ValueError, ZeroDivisionError):
        raise RecordError(f"{text!r} is no symmetry operation; expected e.g. '-x,y+1/2,z'", "symmetry") from None
    return operation


def _with_centering(magnetic: list[str], centering: list[str] | None) -> list[str]:
    plain = [_without_time(t) for t in magnetic]
    if not centering or len(centering) == 1:
        return plain
    shifts = [read_operation(_without_time(t)) for t in centering]
    return [(shift * read_operation(t)).as_xyz_str() for t in plain for shift in shifts]


def _without_time(text: str) -> str:
    parts = text.split(",")
    return ",".join(parts[:3]) if len(parts) == 4 else text


def keeps_metric(rotations: Any, cell: NDArray[np.float64]) -> bool:
    """Return whether rotations (fractional basis) map a cell (rows, Å) onto itself within 2 %."""
    metric = cell @ cell.T
    scale = np.sqrt(np.outer(np.diag(metric), np.diag(metric)))
    return all(float(np.abs((w.T @ metric @ w - metric) / scale).max()) <= METRIC_TOLERANCE for w in rotations)


def n_rotations(rotations: Any) -> int:
    """Return how many different rotations there are."""
    return len({tuple(np.round(w).astype(int).ravel()) for w in rotations})


@cache
def point_group_order(number: int) -> int:
    """Return the order of a space group's point group, from spglib's table."""
    hall = next(h for h in range(1, 531) if _type_of(h).number == number)
    return n_rotations(_database(hall)["rotations"])


def settings_of(symmetry: Symmetry) -> list[tuple[str, tuple[str, ...], tuple[NDArray[np.float64], ...]]]:
    """Return (description, operations, rotations) of the settings that a name, Hall symbol or number may mean.

    They are spglib's 530 settings: those with the Hall symbol; else those whose full or short Hermann-Mauguin symbol is
    the name; else, if there is no name, all of the number.
    """
    hall, name = (_plain(t) for t in (symmetry.hall, symmetry.name))
    wanted, _, choice = name.partition(":")
    groups = [(h, _type_of(h)) for h in range(1, 531)]
    found = [g for g in groups if hall and _plain(g[1].hall_symbol) == hall]
    if not found and wanted:
        found = [g for g in groups if wanted in _spellings(g[1]) and (not choice or g[1].choice.lower() == choice)]
    if not found and not wanted and symmetry.number:
        found = [g for g in groups if g[1].number == symmetry.number]
    settings = []
    for index, group in found:
        database = _database(index)
        operations = [
            SymmOp.from_rotation_and_translation(r, t)
            for r, t in zip(database["rotations"], database["translations"], strict=True)
        ]
        label = f"{group.international_full}{f' ({group.choice})' if group.choice else ''}"
        rotations = tuple(np.asarray(r, dtype=float) for r in database["rotations"])
        settings.append((label, tuple(op.as_xyz_str() for op in operations), rotations))
    return settings


@cache
def _type_of(hall: int) -> Any:
    import spglib

    return spglib.get_spacegroup_type(hall)


def _database(hall: int) -> Any:
    import spglib

    return spglib.get_symmetry_from_database(hall)


def _plain(text: str | None) -> str:
    return re.sub(r"[\s_'\"]", "", text or "").lower()


def _spellings(group: Any) -> set[str]:
    full = [group.international_full, *group.international.split("=")]
    short = ["".join(p for i, p in enumerate(t.split()) if p != "1" or i == 0) for t in full if len(t.split()) == 4]
    return {_plain(t) for t in (*full, *short)}
