"""One published label: what readers yield, and the checks that every field passes before it counts as a number."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from pymatgen.core import Element

from aqvolt_flows.datasets.importers.given_units import parse_units
from aqvolt_flows.identity import KEY_LENGTH
from aqvolt_flows.schemas.base import Parameters
from aqvolt_flows.schemas.label import LabelOutcome
from aqvolt_flows.schemas.provenance import Protocol
from aqvolt_flows.units import EV_PER_A3_IN_KBAR, matrix_to_voigt, unit_factor

Array = NDArray[np.float64]
Source = Literal["matpes", "mp-aloe", "mp", "vasp", "aqvolt26", "extxyz", "aselmdb", "colabfit", "lemat"]
Potcars = Literal["none", "lanthanides", "all"]

#: What labels of a source say they come from.
DATASETS: dict[str, str] = {
    "matpes": "MatPES",
    "mp-aloe": "MP-ALOE",
    "mp": "MP",
    "vasp": "VASP",
    "aqvolt26": "AQVolt26",
    "extxyz": "extxyz",
    "aselmdb": "aselmdb",
    "colabfit": "ColabFit",
    "lemat": "LeMat",
}
#: Sources whose keys and units the options may name.
NAMED_KEYS = ("extxyz",)
WITH_UNITS = ("extxyz", "aselmdb", "colabfit", "lemat")
#: Two off-diagonal elements of a stress may differ by this, relative to its largest element (printed digits), or by
#: this much in eV/Å³ (0.05 kbar): real task documents differ by up to 0.0055 kbar, which VASP's grids leave.
SYMMETRY = 1e-4
SYMMETRY_EV_PER_A3 = 0.05 / EV_PER_A3_IN_KBAR
#: Beyond this a number is damage: no energy, length, force or stress has so many of any unit.
LARGEST = 1e9


class RecordError(ValueError):
    """A record that holds no usable label; the message says what was seen and expected.

    Where it begins with one word and a colon, as ``not_periodic: …`` does, the word is the reason that reports count.
    """


class ImportOptions(Parameters):
    """What to take from a file, and how to read it."""

    source: Source
    dataset: str | None = Field(default=None, description="What labels say as source; default: the dataset's name.")
    functional: str | None = Field(default="r2SCAN", description="Only labels of this functional; None: all.")
    keep_mp_rows: bool = Field(
        default=False,
        description="MP-ALOE: keep rows taken from the Materials Project (original_mp_id), which the paper drops.",
    )
    exclude_potcars: Potcars = Field(
        default="lanthanides",
        description="Materials Project: leave out structures whose pseudopotentials are not MatPES': those of "
        "lanthanides, of all elements, or none.",
    )
    exclude_elements: tuple[str, ...] = Field(default=(), description="Structures with any of these stay out.")
    patched_vasp: bool = Field(
        default=False,
        description="Task documents, VASP folders: accept r2SCAN of VASP below 6.2.0, which only a patch taught it.",
    )
    license: str | None = Field(default=None, description="License of the labels; default: the dataset's, if known.")
    stride: int = Field(default=1, ge=1, description="VASP folders: keep every n-th ionic step of a run of MD.")
    stress_unit: str = Field(
        default="eV/A^3", description="extxyz: eV/A^3 or GPa (tension positive), kbar (VASP's sign)."
    )
    energy_key: str | None = Field(default=None, description="extxyz: the key of the energy.")
    forces_key: str | None = Field(default=None, description="extxyz: the column of the forces.")
    stress_key: str | None = Field(default=None, description="extxyz: the key of the stress; virials are not read.")
    virial_key: str | None = Field(default=None, description="extxyz: the key of the virial; stresses are not read.")
    units: str | None = Field(
        default=None, description="Units of the file, e.g. energy=hartree,forces=hartree/bohr,stress=GPa, or atomic."
    )
    replace: bool = Field(
        default=False, description="Stored labels that an earlier import gave otherwise are replaced, not defended."
    )

    @property
    def name(self) -> str:
        """What labels say as source."""
        return self.dataset or DATASETS[self.source]

    @property
    def says_functional(self) -> bool:
        """Whether the functional was chosen and is not the default."""
        return "functional" in self.model_fields_set

    def named_units(self) -> dict[str, str]:
        """Return quantity → unit of :attr:`units`, checked.

        Raises
        ------
        InputError
            If a quantity or a unit is unknown.
        """
        return parse_units(self.units) if self.units else {}

    @model_validator(mode="after")
    def _keys_go_together(self) -> ImportOptions:
        if self.stress_key and self.virial_key:
            raise ValueError("stress_key and virial_key name one quantity twice; give one of them")
        keys = [name for name in _KEY_OPTIONS if getattr(self, name)]
        if keys and self.source not in NAMED_KEYS:
            raise ValueError(f"{keys[0]} is of extxyz files; {self.source} has keys of its own")
        if "stress_unit" in self.model_fields_set and self.source not in NAMED_KEYS:
            raise ValueError(f"stress_unit is of extxyz files; {self.source} has a unit of its own (see --units)")
        if self.units and self.source not in WITH_UNITS:
            raise ValueError(f"units are of {', '.join(WITH_UNITS)}; {self.source} has units of its own")
        return self


_KEY_OPTIONS = ("energy_key", "forces_key", "stress_key", "virial_key")


@dataclass(frozen=True, slots=True)
class Imported:
    """A label as a source gives it, in our units.

    Attributes
    ----------
    outcome
        Converged, or with the reason why it is none.
    provenance
        ``database``, ``record_id``, ``file``, ``record`` and what else the source says about its origin.
    temperature_k
        Target temperature of the run it was taken from.
    cohesive_energy
        As the source gives it, eV/atom; counts where our table of isolated atoms ends.
    candidate_id, trajectory_id
        Where the source is one of our own releases.
    judged
        It comes from a release of this package, whose labels passed the checks of their own builder.
    """

    outcome: LabelOutcome
    provenance: dict[str, Any] = field(default_factory=dict)
    temperature_k: float | None = None
    cohesive_energy: float | None = None
    candidate_id: str | None = None
    trajectory_id: str | None = None
    judged: bool = False


@dataclass(frozen=True, slots=True)
class Broken:
    """A record that could not be read; ``fatal``: nothing after it could be read either, what came before stands."""

    file: str
    record: int
    line: int | None
    reason: str
    record_id: str | None = None
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class Skipped:
    """A sound record that the options leave out, with the rule's name."""

    reason: str


Entry = Imported | Broken | Skipped


def external_protocol(dataset: str, functional: str, version: str = "") -> Protocol:
    """Return the protocol of a published dataset: ``external:r2SCAN@MatPES``; its name stands for its settings."""
    return Protocol(code="external", version=version, functional=functional, settings_hash=dataset)


def finite(value: Any, what: str) -> float:
    """Return a finite number; anything else is a :class:`RecordError`."""
    number = maybe(value)
    if number is not None and abs(number) > LARGEST:
        raise RecordError(f"its {what} is {number:g}, which no unit makes of a calculation")
    if number is None:
        raise RecordError(f"its {what} is {_seen(value)}; expected a finite number")
    return number


def maybe(value: Any) -> float | None:
    """Return a finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating | np.integer):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return number if math.isfinite(number) else None


def text(value: Any) -> str | None:
    """Return a text, or None where there is none."""
    return str(value) if value not in (None, "") else None


def array(value: Any, shape: tuple[int, ...], what: str) -> Array:
    """Return finite numbers of a shape; anything else is a :class:`RecordError` that names both shapes."""
    if value is None:
        raise RecordError(f"it has no {what}; a label needs energy, forces and stress")
    try:
        found = np.asarray(value, dtype=float)
    except (TypeError, ValueError, OverflowError):
        raise RecordError(f"its {what} are not an array of numbers of shape {shape}") from None
    if found.shape != shape:
        raise RecordError(f"its {what} have shape {found.shape}; expected {shape}")
    if not np.isfinite(found).all():
        raise RecordError(f"its {what} hold NaN or infinity")
    if np.abs(found).max(initial=0.0) > LARGEST:
        raise RecordError(f"its {what} hold {np.abs(found).max():g}, which no unit makes of a calculation")
    return found


def stress(value: Any, unit: str) -> Array:
    """Return a stress as 6 numbers in eV/Å³ (tension positive, xx yy zz yz xz xy).

    Six numbers in that order, or a symmetric 3 × 3 matrix, are accepted. Nine numbers in a row are refused: nothing
    says in which order they are, nor that the stress is symmetric.

    Parameters
    ----------
    value
        What the record holds.
    unit
        A unit of :func:`aqvolt_flows.units.unit_factor`, which carries the sign.

    Raises
    ------
    RecordError
        For any other shape, an asymmetric matrix, or numbers that are not finite.
    """
    if value is None:
        raise RecordError("it has no stress; a label needs energy, forces and stress")
    try:
        found = np.asarray(value, dtype=float)
    except (TypeError, ValueError, OverflowError):
        raise RecordError("its stress is not an array of numbers") from None
    if found.shape == (9,):
        raise RecordError(
            "its stress is 9 numbers in a row; expected 6 (xx yy zz yz xz xy) or a symmetric 3 × 3 matrix"
        )
    if found.shape == (3, 3):
        largest = float(np.abs(array(found, (3, 3), "stress")).max())
        alike = max(SYMMETRY * largest, SYMMETRY_EV_PER_A3 / abs(unit_factor("stress", unit)))
        if np.abs(found - found.T).max(initial=0.0) > alike:
            raise RecordError("its 3 × 3 stress is not symmetric; expected xy = yx, xz = zx, yz = zy")
        found = matrix_to_voigt(found)
    return array(found, (6,), "stress") * unit_factor("stress", unit)


def atomic_numbers(value: Any) -> list[int]:
    """Return atomic numbers; anything else is a :class:`RecordError`."""
    numbers = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(numbers, list | tuple) or not numbers:
        raise RecordError("it has no atoms")
    if not all(isinstance(z, int) and not isinstance(z, bool) and 1 <= z <= 118 for z in numbers):
        raise RecordError("its atomic_numbers are not a list of numbers from 1 to 118")
    return list(numbers)


def structure_arrays(value: Any) -> dict[str, Any]:
    """Return atomic_numbers, positions (Å), cell (Å, rows) and magmoms of a pymatgen ``Structure.as_dict()``.

    Raises
    ------
    RecordError
        If it is not one, or has partially occupied sites.
    """
    if not isinstance(value, Mapping):
        raise RecordError(f"its structure is {_seen(value)}; expected a pymatgen structure")
    try:
        cell = array(value["lattice"]["matrix"], (3, 3), "lattice vectors")
        sites = value["sites"]
        species = [site["species"] for site in sites]
        fractional = array([site["abc"] for site in sites], (len(sites), 3), "site coordinates")
        moments = [(site.get("properties") or {}).get("magmom") for site in sites]
        if any(len(s) != 1 or float(s[0]["occu"]) != 1 for s in species):
            raise RecordError("its structure has partially occupied sites; a label is of whole atoms")
        numbers = [Element(str(s[0]["element"])).Z for s in species]
    except RecordError:
        raise
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise RecordError(f"its structure is not a pymatgen structure ({type(error).__name__}: {error})") from None
    return {
        "atomic_numbers": atomic_numbers(numbers),
        "positions": array(fractional @ cell, (len(numbers), 3), "positions"),
        "cell": cell,
        "magmoms": moment_list(moments, len(numbers)),
    }


def moment_list(value: Any, n_atoms: int) -> list[float] | None:
    """Return one finite moment (μB) per atom, or None where any is missing."""
    if not isinstance(value, list | tuple | np.ndarray) or len(value) != n_atoms:
        return None
    moments = [maybe(v) for v in value]
    return None if any(m is None for m in moments) else [float(m) for m in moments if m is not None]


def frame_identity(numbers: Any, cell: Any, positions: Any) -> str:
    """Return an identity made of species, cell and positions (10⁻⁶ Å), whatever the file and place it stood in.

    It is ``identity.content_key("imported-frame/1", numbers=…, cell=…, positions=…)``, written without a visit to each
    number: the arrays are known to be finite floats.
    """
    parts = {
        "cell": (np.round(cell, 6) + 0.0).tolist(),
        "numbers": [int(z) for z in numbers],
        "positions": (np.round(positions, 6) + 0.0).tolist(),
    }
    text = json.dumps({"parts": parts, "stage": "imported-frame/1"}, separators=(",", ":"))
    return f"frame-{hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]}"


def converged(frame_id: str, protocol: Protocol, atoms: Mapping[str, Any], **result: Any) -> LabelOutcome:
    """Return a converged outcome; arrays become lists.

    Parameters
    ----------
    frame_id, protocol
        Identity and theory level.
    atoms
        atomic_numbers, positions and cell, and perhaps magmoms.
    **result
        energy, forces, stress and other fields of :class:`LabelOutcome`.
    """
    values = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in {**atoms, **result}.items()}
    return LabelOutcome(frame_id=frame_id, key="", status="converged", protocol=protocol, **values)


def _seen(value: Any) -> str:
    return "missing" if value is None else f"a {type(value).__name__}" if not isinstance(value, float) else repr(value)
