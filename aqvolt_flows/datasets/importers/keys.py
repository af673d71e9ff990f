"""Which key of a record is its energy, forces and stress: the names that training sets use, and no guesses.

A name is a base with or without the prefix of a reference calculation: ``energy``, ``REF_energy``, ``dft_forces``. Two
keys that could be one quantity and differ (a prediction beside its reference) are refused until one is named. ASE's
pair of ``energy`` (extrapolated to zero smearing, which MatPES publishes) and ``free_energy`` is no conflict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from aqvolt_flows.datasets.importers.published import ImportOptions, RecordError, array, finite, maybe, stress
from aqvolt_flows.errors import InputError
from aqvolt_flows.units import UNIT_EXAMPLES, unit_factor

#: Prefixes of reference calculations, in lower case.
PREFIXES = ("", "ref_", "dft_", "qm_", "vasp_", "target_")
#: Quantity → base names in lower case, the preferred first.
BASES: dict[str, tuple[str, ...]] = {
    "energy": ("energy", "free_energy", "total_energy"),
    "forces": ("forces", "force"),
    "stress": ("stress",),
    "virial": ("virial", "virials"),
}
#: Relative difference below which two keys hold the same numbers, printed differently.
_SAME = 1e-6
#: What a stress and a virial of one record may differ by, relative to the largest element.
_SAME_STRESS = 1e-3


@dataclass(frozen=True, slots=True)
class Units:
    """Factors of one record to eV, eV/Å and eV/Å³ (tension positive); of the virial V·stress, with its sign."""

    energy: float = 1.0
    forces: float = 1.0
    stress: str = "eV/A^3"
    virial: float = 1.0
    length: float = 1.0


@cache
def known_key(quantity: str, key: str) -> bool:
    """Return whether a key is a known name of a quantity, whatever its capitals."""
    name = key.lower()
    return any(name == prefix + base for prefix in PREFIXES for base in BASES[quantity])


def candidates(quantity: str, record: Mapping[str, Any]) -> list[str]:
    """Return the keys of a record that may be a quantity, in the order of preference."""
    found = [key for key in record if known_key(quantity, key)]
    bases = BASES[quantity]

    def place(key: str) -> tuple[int, int]:
        name = key.lower()
        base = next(i for i, b in enumerate(bases) if any(name == p + b for p in PREFIXES))
        return PREFIXES.index(name.removesuffix(bases[base])), base

    ordered = sorted(found, key=place)
    if quantity != "energy":
        return ordered
    paired = {key.lower() for key in ordered}
    return [k for k in ordered if not (k.lower().endswith("free_energy") and k.lower().replace("free_", "") in paired)]


def results_of(
    record: Mapping[str, Any], n_atoms: int, cell: Any, options: ImportOptions, units: Units
) -> tuple[dict[str, Any], set[str]]:
    """Return energy (eV), forces (eV/Å) and stress (6, eV/Å³) of a record, and the keys that were read.

    Parameters
    ----------
    record
        Key → value, of the configuration and of its atoms alike.
    n_atoms, cell
        Number of atoms; cell (3, 3) in Å, whose volume turns a virial into a stress.
    options
        May name the keys.
    units
        Of the record.

    Raises
    ------
    RecordError
        If a quantity is missing, two keys differ, or a number is none; the message lists the keys of the record.
    """
    problems: list[str] = []
    keys = {q: _choose(q, record, options, problems) for q in ("energy", "forces")}
    named = "stress" if options.stress_key else "virial" if options.virial_key else None
    for quantity in ("stress", "virial"):
        keys[quantity] = _choose(quantity, record, options, problems) if named in {None, quantity} else None
    if keys["stress"] is keys["virial"] is None and not any("stress" in p or "virial" in p for p in problems):
        problems.append("no_stress: no stress or virial")
    problems += _predicted(keys, record, options)
    if problems:
        raise RecordError(_told(problems, record))
    found = {
        "energy": finite(record[str(keys["energy"])], str(keys["energy"])) * units.energy,
        "forces": array(record[str(keys["forces"])], (n_atoms, 3), str(keys["forces"])) * units.forces,
        "stress": _stress(record, keys, cell, units),
    }
    return found, {k for k in keys.values() if k}


def _choose(quantity: str, record: Mapping[str, Any], options: ImportOptions, problems: list[str]) -> str | None:
    """Return the key of a quantity, or None and perhaps a problem."""
    named = getattr(options, f"{quantity}_key")
    if named:
        if named not in record:
            problems.append(f"no_{quantity}: no key {named!r}, which --{quantity}-key names")
            return None
        return str(named)
    found = candidates(quantity, record)
    if not found:
        if quantity in {"energy", "forces"}:
            problems.append(f"no_{quantity}: no {quantity} under a known name (name it with --{quantity}-key)")
        return None
    if len(found) > 1 and not all(_equal(record[found[0]], record[other]) for other in found[1:]):
        listed = " and ".join(_shown(key, record[key]) for key in found)
        problems.append(f"two_keys: {listed}, which differ (name one with --{quantity}-key)")
        return None
    return found[0]


def _predicted(keys: Mapping[str, str | None], record: Mapping[str, Any], options: ImportOptions) -> list[str]:
    """Return the problem of quantities that a record holds as a prediction only.

    Where one quantity has a key with the prefix of a reference and one without, the keys without are predictions, also
    that of a quantity which has no reference: QUIP writes such files.
    """
    chosen = {q: key for q, key in keys.items() if key and not getattr(options, f"{q}_key")}
    bare = {q: {_is_bare(q, key) for key in candidates(q, record)} for q in chosen}
    if not any(len(kinds) == 2 for kinds in bare.values()):
        return []
    alone = {q: key for q, key in chosen.items() if bare[q] == {True}}
    return [
        f"two_keys: {key}, perhaps a prediction, beside keys of a reference (name it with --{quantity}-key)"
        for quantity, key in alone.items()
    ]


def _is_bare(quantity: str, key: str) -> bool:
    return key.lower() in BASES[quantity]


def _told(problems: list[str], record: Mapping[str, Any]) -> str:
    word = problems[0].partition(":")[0]
    sentences = "; ".join(p.partition(": ")[2] for p in problems)
    return f"{word}: it has {sentences}; its keys are {', '.join(record) or 'none'}"


def _shown(key: str, value: Any) -> str:
    number = maybe(value)
    return key if number is None else f"{key} {number:.6g}"


def _equal(a: Any, b: Any) -> bool:
    try:
        first, second = np.asarray(a, dtype=float).ravel(), np.asarray(b, dtype=float).ravel()
    except (TypeError, ValueError, OverflowError):
        return False
    if first.shape != second.shape:
        return False
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are equal to nothing
        scale = max(float(np.abs(first).max(initial=0.0)), 1e-3)
        return bool(np.abs(first - second).max(initial=0.0) <= _SAME * scale)


def _stress(record: Mapping[str, Any], keys: Mapping[str, str | None], cell: Any, units: Units) -> Any:
    """Return the stress, 6 numbers in eV/Å³; a virial is −V·stress, as QUIP, DeePMD and NequIP define it."""
    given = stress(_matrix(record[keys["stress"]]), units.stress) if keys["stress"] else None
    if not keys["virial"]:
        return given
    volume = abs(float(np.linalg.det(cell)))
    if volume < 1e-6:
        raise RecordError("flat_cell: its cell has no volume, so that its virial gives no stress")
    made = stress(_matrix(record[keys["virial"]]), "eV/A^3") * (-units.virial / volume)
    if given is None:
        return made
    if np.abs(given - made).max() > _SAME_STRESS * max(float(np.abs(given).max()), 1e-4):
        raise RecordError(
            f"two_keys: its {keys['stress']} is not −{keys['virial']}/volume (largest difference "
            f"{np.abs(given - made).max():.3g} eV/Å³); name the right one with --stress-key or --virial-key"
        )
    return given


def _matrix(value: Any) -> Any:
    """Return nine numbers as a matrix, which extended XYZ defines them to be; the check of symmetry follows."""
    try:
        found = np.asarray(value, dtype=float)
    except (TypeError, ValueError, OverflowError):
        return value
    return found.reshape(3, 3) if found.shape == (9,) else found


def units_of(said: Mapping[str, str], options: ImportOptions) -> Units:
    """Return the units of a record: what it declares, else what the options say, else eV and Å.

    Raises
    ------
    RecordError
        If a declared unit is unknown, or another than ``--units`` says.
    """
    named = options.named_units()
    chosen = {"stress": options.stress_unit} | named
    for quantity, unit in said.items():
        try:
            factor = unit_factor(quantity, unit)
        except InputError:
            raise RecordError(f"its {quantity}_unit is {unit!r}; expected {UNIT_EXAMPLES[quantity]}") from None
        if quantity in named and factor != unit_factor(quantity, named[quantity]):
            raise RecordError(
                f"two_units: it says that {quantity} is in {unit}, --units says {named[quantity]}; leave one out"
            )
        chosen[quantity] = unit
    # A virial is an energy: without a unit of its own it has the energy's.
    chosen.setdefault("virial", chosen.get("energy", "eV"))
    factors = {q: unit_factor(q, u) for q, u in chosen.items() if q != "stress"}
    return Units(stress=chosen["stress"], **factors)
