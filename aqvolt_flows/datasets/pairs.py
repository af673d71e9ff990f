"""Frames that two protocols labeled: by the identity of the frame, else by species, cell and positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import batched
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from aqvolt_flows.datasets.duplicates import Configuration, DuplicateFinder
from aqvolt_flows.stores import Database

Array = NDArray[np.float64]

#: Å, what copies of a configuration may differ by.
TOLERANCE_A = 1e-3
_AT_ONCE = 500
_FIELDS = (
    "label_id",
    "frame_id",
    "trajectory_id",
    "candidate_id",
    "formula",
    "atomic_numbers",
    "positions",
    "cell",
    "energy",
    "forces",
    "stress",
)


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """One configuration with two labels; atoms in the order of A.

    Attributes
    ----------
    group
        Frames of one group are not independent of each other: trajectory, candidate or formula.
    energy_a, energy_b
        Total, eV.
    forces_a, forces_b
        (n_atoms, 3), eV/Å.
    stress_a, stress_b
        (6,), eV/Å³, ASE's sign and order.
    """

    group: str
    atomic_numbers: list[int]
    energy_a: float
    energy_b: float
    forces_a: Array
    forces_b: Array
    stress_a: Array
    stress_b: Array


def find_pairs(database: Database, a: str, b: str, query: Mapping[str, Any] | None = None) -> Iterator[Pair | None]:
    """Yield the frames that have labels of both protocols, each once, in the order of A's label identities.

    None stands for a frame whose two labels are of different cells or positions.

    Parameters
    ----------
    database
        Holds ``labels``.
    a, b
        Names of protocols.
    query
        Only valid labels that match it.
    """
    held = {name: _identities(database, name, query) for name in (a, b)}
    joint = {frame: (held[a][frame], held[b][frame]) for frame in held[a].keys() & held[b].keys()}
    copies = _copies(
        database,
        [label for frame, label in held[a].items() if frame not in joint],
        [label for frame, label in held[b].items() if frame not in joint],
    )
    for block in batched(sorted([*joint.values(), *copies]), _AT_ONCE):
        labels = _labels(database, [label for pair in block for label in pair])
        for first, second in block:
            if first in labels and second in labels:
                yield _pair(labels[first], labels[second])


def _identities(database: Database, protocol: str, query: Mapping[str, Any] | None) -> dict[str, str]:
    """Return frame_id → label_id of a protocol's valid labels."""
    wanted: dict[str, Any] = {"status": "valid", "protocol_name": protocol}
    if query:
        wanted = {"$and": [wanted, dict(query)]}
    rows = database.own("labels").find(wanted, {"frame_id": 1, "label_id": 1, "_id": 0})
    return {row["frame_id"]: row["label_id"] for row in rows}


def _labels(database: Database, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    rows = database["labels"].find({"label_id": {"$in": list(ids)}}, dict.fromkeys(_FIELDS, 1) | {"_id": 0})
    return {row["label_id"]: row for row in rows}


def _copies(database: Database, of_a: Sequence[str], of_b: Sequence[str]) -> list[tuple[str, str]]:
    """Return (label of A, label of B) of configurations that are equal but for the identity of the frame."""
    if not of_a or not of_b:
        return []
    finder = DuplicateFinder(TOLERANCE_A)
    for side, ids in (("a", of_a), ("b", of_b)):
        for block in batched(sorted(ids), _AT_ONCE):
            for label_id, label in _labels(database, block).items():
                finder.add(f"{side}{label_id}", *_configuration(label))

    def load(sided: Sequence[str]) -> dict[str, Configuration]:
        labels = _labels(database, [name[1:] for name in sided])
        return {name: _configuration(labels[name[1:]]) for name in sided}

    # Identities of A sort before those of B, so that a copy in B is found as the repeat of one in A.
    found: dict[str, str] = {}
    for repeat, first in sorted(finder.repeats(load).items()):
        if repeat[0] == "b" and first[0] == "a":
            found.setdefault(first[1:], repeat[1:])
    return list(found.items())


def _configuration(label: Mapping[str, Any]) -> Configuration:
    return (
        np.asarray(label["atomic_numbers"], dtype=np.int16),
        np.asarray(label["positions"], dtype=float),
        np.asarray(label["cell"], dtype=float),
    )


def _pair(a: Mapping[str, Any], b: Mapping[str, Any]) -> Pair | None:
    order = _order(_configuration(a), _configuration(b))
    if order is None:
        return None
    return Pair(
        group=str(a.get("trajectory_id") or a.get("candidate_id") or a["formula"]),
        atomic_numbers=list(a["atomic_numbers"]),
        energy_a=float(a["energy"]),
        energy_b=float(b["energy"]),
        forces_a=np.asarray(a["forces"], dtype=float),
        forces_b=np.asarray(b["forces"], dtype=float)[order],
        stress_a=np.asarray(a["stress"], dtype=float),
        stress_b=np.asarray(b["stress"], dtype=float),
    )


def _order(a: Configuration, b: Configuration) -> NDArray[np.int64] | None:
    """Return the places in B of A's atoms, or None where the two are not one configuration."""
    (numbers_a, positions_a, cell_a), (numbers_b, positions_b, cell_b) = a, b
    if len(numbers_a) != len(numbers_b) or np.abs(cell_a - cell_b).max() > TOLERANCE_A:
        return None
    order = np.full(len(numbers_a), -1, dtype=np.int64)
    for z in np.unique(numbers_a):
        of_a, of_b = np.flatnonzero(numbers_a == z), np.flatnonzero(numbers_b == z)
        if len(of_a) != len(of_b):
            return None
        fractional = (positions_a[of_a][:, None] - positions_b[of_b][None]) @ np.linalg.inv(cell_a)
        distance = np.linalg.norm((fractional - np.rint(fractional)) @ cell_a, axis=-1)
        rows, columns = linear_sum_assignment(distance)
        if distance[rows, columns].max() > 2 * TOLERANCE_A:
            return None
        order[of_a[rows]] = of_b[columns]
    return order
