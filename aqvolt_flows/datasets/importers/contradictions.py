"""Records of one configuration that say different things: neither is believed, and both are told.

Within one import, configurations are told apart by species, cell and positions (10⁻⁶ Å) and the protocol. Two records
of one configuration, or two with one identity, agree within :data:`AGREE`, or both are refused. What an earlier import
stored is defended: a record from another place that differs from it is refused, until the import is told to replace.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping
from typing import Any

import numpy as np

from aqvolt_flows.schemas.label import LabelDocument
from aqvolt_flows.schemas.provenance import Failure

#: Differences below which two labels are one: eV/atom, eV/Å, eV/Å³ (0.1 GPa). Runs of one calculation on other machines
#: differ by a hundredth of it; another functional, smearing or spin state by more.
AGREE = {"energy": 1e-3, "forces": 2e-2, "stress": 6.24e-4}
#: What of a stored label is compared.
COMPARED = ("label_id", "status", "atomic_numbers", "cell", "positions", "energy", "forces", "stress", "provenance")
REASON = "contradicting_labels"


def geometry_of(label: LabelDocument) -> bytes:
    """Return 16 bytes that two labels share if species, cell, positions (rounded to 10⁻⁶ Å) and protocol are equal."""
    sha = hashlib.blake2b(label.protocol_id.encode(), digest_size=16)
    sha.update(np.asarray(label.atomic_numbers, dtype="<i8").tobytes())
    for values in (label.cell, label.positions):
        sha.update(np.rint(np.asarray(values, dtype=float) * 1e6).astype("<i8").tobytes())
    return sha.digest()


def difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    """Return in words how two labels of one configuration differ by more than :data:`AGREE`, or None."""
    n_atoms = len(a["forces"])
    if len(b["forces"]) != n_atoms:
        return f"{n_atoms} and {len(b['forces'])} atoms"
    energy = abs(a["energy"] - b["energy"]) / n_atoms
    if energy > AGREE["energy"]:
        return f"energies {a['energy']:.6g} and {b['energy']:.6g} eV"
    for name, unit in (("forces", "eV/Å"), ("stress", "eV/Å³")):
        off = float(np.abs(np.asarray(a[name], dtype=float) - np.asarray(b[name], dtype=float)).max())
        if off > AGREE[name]:
            return f"{name} that differ by up to {off:.3g} {unit}"
    return None


def same_geometry(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Return whether two labels are of one configuration within 10⁻⁵ Å, atoms in the same order."""
    if list(a["atomic_numbers"]) != list(b["atomic_numbers"]):
        return False
    return all(
        float(np.abs(np.asarray(a[n], dtype=float) - np.asarray(b[n], dtype=float)).max()) < 1e-5
        for n in ("cell", "positions")
    )


def place_of(label: Mapping[str, Any]) -> str:
    """Return where a label comes from, for people."""
    origin = label.get("provenance") or {}
    return f"record {origin.get('record', '?')} of {origin.get('file', 'an earlier import')}"


def contradiction(how: str, other: Mapping[str, Any]) -> Failure:
    """Return why a label is refused that differs from another."""
    return Failure(
        reason=REASON,
        message=f"{place_of(other)[0].upper()}{place_of(other)[1:]} is of the same configuration or identity and has "
        f"other numbers: {how}; remove the wrong one.",
    )


class Seen:
    """The configurations and identities that an import has met, in a temporary file: memory stays flat."""

    def __init__(self) -> None:
        self._file = sqlite3.connect("")  # an empty name is a temporary file that the system removes
        self._file.execute("PRAGMA cache_size = -8192")
        self._file.execute("CREATE TABLE met (key BLOB PRIMARY KEY, label_id TEXT, existed INT) WITHOUT ROWID")
        self._file.execute("CREATE TABLE refused (label_id TEXT PRIMARY KEY) WITHOUT ROWID")

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def earlier(self, label: LabelDocument) -> str | None:
        """Return the identity of the first record of a label's configuration or identity."""
        query = "SELECT label_id FROM met WHERE key IN (?, ?) LIMIT 1"
        row = self._file.execute(query, (geometry_of(label), label.label_id.encode())).fetchone()
        return None if row is None else str(row[0])

    def add(self, label: LabelDocument, existed: bool) -> None:
        """Remember a record, and whether its label was stored before this import."""
        rows = [(key, label.label_id, existed) for key in (geometry_of(label), label.label_id.encode())]
        self._file.executemany("INSERT OR IGNORE INTO met VALUES (?, ?, ?)", rows)

    def refuse(self, label_id: str) -> None:
        """Remember that a label was taken back, so that a third record of it is refused, too."""
        self._file.execute("INSERT OR IGNORE INTO refused VALUES (?)", (label_id,))

    def is_refused(self, label_id: str) -> bool:
        """Return whether a label was taken back."""
        return self._file.execute("SELECT 1 FROM refused WHERE label_id = ?", (label_id,)).fetchone() is not None

    def existed(self, label_id: str) -> bool:
        """Return whether a label was stored before this import."""
        row = self._file.execute("SELECT existed FROM met WHERE key = ?", (label_id.encode(),)).fetchone()
        return row is not None and bool(row[0])
