"""One row of a release, its hash, and the way from a label document to it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from aqvolt_flows.datasets.columns import BY_NAME, COLUMNS, RESULTS
from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import canonical_json

Array = NDArray[np.float64]

#: What a content hash sees of a number: multiples of these (Å, eV, eV/Å, eV/Å³).
ROUNDING = {"positions": 1e-6, "cell": 1e-6, "energy": 1e-6, "forces": 1e-6, "stress": 1e-8}
_IDENTITIES = ("frame_id", "label_id", "candidate_id", "source", "protocol", "head")


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One labeled configuration as releases hold it.

    Attributes
    ----------
    positions, forces
        (n_atoms, 3), Å and eV/Å.
    cell
        (3, 3), Å, rows are lattice vectors.
    stress
        (6,), eV/Å³, ASE sign, order xx yy zz yz xz xy.
    magmoms
        (n_atoms,), µB, where the calculation gave them; they enter no hash, and neither do the next two.
    bandgap, efermi, vbm, cbm
        eV, where the calculation gave them.
    charges
        (n_atoms,), e.
    head
        The protocol's name, where a release was asked for a head of each protocol; it enters the hash.
    record_id
        Identity in the dataset a label was imported from.
    provenance
        JSON of what the label says about its origin.
    """

    frame_id: str
    label_id: str
    trajectory_id: str | None
    candidate_id: str | None
    source: str
    protocol: str
    formula: str
    chemsys: str
    n_atoms: int
    temperature_k: float | None
    atomic_numbers: NDArray[np.int16]
    positions: Array
    cell: Array
    energy: float
    forces: Array
    stress: Array
    cohesive_energy_per_atom: float | None
    max_force: float
    pressure_gpa: float
    magmoms: Array | None = None
    bandgap: float | None = None
    record_id: str | None = None
    provenance: str | None = None
    efermi: float | None = None
    vbm: float | None = None
    cbm: float | None = None
    charges: Array | None = None
    head: str | None = None

    def digest(self) -> str:
        """Return the SHA-256 of identities, atoms and labels, rounded as :data:`ROUNDING` says; and of a head."""
        sha = hashlib.sha256(f"{self.frame_id}\0{self.label_id}\0{self.n_atoms}\0".encode())
        sha.update(self.atomic_numbers.astype("<i8").tobytes())
        for name, step in ROUNDING.items():
            sha.update(np.rint(np.asarray(getattr(self, name), dtype=float) / step).astype("<i8").tobytes())
        if self.head is not None:  # so that a release with heads is another than the same labels without
            sha.update(f"\0{self.head}".encode())
        return sha.hexdigest()

    def to_atoms(self, identities: bool = True) -> Atoms:
        """Return ASE Atoms with energy, forces and stress on a SinglePointCalculator.

        ``info`` carries the identities and never a key named energy, forces or stress, which readers would take for
        the label itself.
        """
        atoms = Atoms(numbers=self.atomic_numbers.astype(int), positions=self.positions, cell=self.cell, pbc=True)
        atoms.calc = SinglePointCalculator(atoms, energy=self.energy, forces=self.forces, stress=self.stress)
        if identities:
            atoms.info.update(self.identities())
        return atoms

    def identities(self) -> dict[str, str]:
        """Return what ``atoms.info`` carries."""
        values = {name: getattr(self, name) for name in _IDENTITIES}
        return {name: value for name, value in values.items() if value is not None}


def row_from_label(label: Mapping[str, Any]) -> Row:
    """Return the row of a valid label document.

    Raises
    ------
    InputError
        If a number is missing or not finite, or an array has another shape than the number of atoms asks for.
    """
    try:
        row = Row(
            frame_id=label["frame_id"],
            label_id=label["label_id"],
            trajectory_id=label.get("trajectory_id"),
            candidate_id=label.get("candidate_id"),
            source=label["source"],
            protocol=label["protocol_name"],
            formula=label["formula"],
            chemsys=label["chemsys"],
            n_atoms=int(label["n_atoms"]),
            temperature_k=label.get("temperature_k"),
            atomic_numbers=np.asarray(label["atomic_numbers"], dtype=np.int16),
            positions=np.asarray(label["positions"], dtype=float),
            cell=np.asarray(label["cell"], dtype=float),
            energy=float(label["energy"]),
            forces=np.asarray(label["forces"], dtype=float),
            stress=np.asarray(label["stress"], dtype=float),
            cohesive_energy_per_atom=label.get("cohesive_energy_per_atom"),
            max_force=float(label["max_force"]),
            pressure_gpa=float(label["pressure_gpa"]),
            **{name: _value(label.get(name), bool(BY_NAME[name].shape)) for name in RESULTS},
            record_id=(label.get("provenance") or {}).get("record_id"),
            provenance=canonical_json(label["provenance"]) if label.get("provenance") else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"Label {label.get('label_id')} is incomplete ({error}); build the labels again.") from None
    n_atoms = row.n_atoms
    for column in COLUMNS:
        array, shape = getattr(row, column.name), column.shape_of(n_atoms)
        if shape and array is not None and (array.shape != shape or not n_atoms):
            raise InputError(f"Label {row.label_id} has {column.name} of shape {array.shape}; expected {shape}.")
    with np.errstate(invalid="ignore", over="ignore"):  # one sum, which NaN or infinity anywhere makes not finite
        total = row.positions.sum() + row.cell.sum() + row.forces.sum() + row.stress.sum()
        total += row.energy + row.max_force + row.pressure_gpa
    if not np.isfinite(total):
        raise InputError(f"Label {row.label_id} holds NaN or infinity; build the labels again.")
    return row


def _value(given: Any, is_array: bool) -> Any:
    return np.asarray(given, dtype=float) if is_array and given is not None else given


def content_lines(rows: Iterable[tuple[str, str, str, str]]) -> Iterator[bytes]:
    """Yield the lines of a release's ``frames.tsv`` from (frame_id, label_id, split, digest) of its rows, in any order.

    The SHA-256 of all lines, that is of the file, is the release's content hash.
    """
    yield b"aqvolt-release/1\n"
    for frame_id, label_id, split, digest in sorted(rows):
        yield f"{frame_id}\t{label_id}\t{split}\t{digest}\n".encode()


def release_hash(rows: Iterable[tuple[str, str, str, str]]) -> str:
    """Return a release's content hash from (frame_id, label_id, split, digest) of every row, in any order."""
    sha = hashlib.sha256()
    for line in content_lines(rows):
        sha.update(line)
    return sha.hexdigest()
