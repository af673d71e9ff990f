"""Units of a file as its owner gives them: ``energy=hartree,forces=hartree/bohr``."""

from __future__ import annotations

from functools import cache

from aqvolt_flows.errors import InputError
from aqvolt_flows.units import unit_factor

#: Names for the units of all quantities at once.
UNIT_SYSTEMS: dict[str, dict[str, str]] = {
    "ase": {"energy": "eV", "forces": "eV/A", "stress": "eV/A^3", "virial": "eV"},
    "atomic": {"energy": "hartree", "forces": "hartree/bohr", "stress": "hartree/bohr^3", "virial": "hartree"},
}


@cache
def parse_units(text: str) -> dict[str, str]:
    """Return quantity → unit of ``energy=hartree,forces=hartree/bohr`` or of the name of a system of units.

    ``atomic`` means hartree and bohr for energy, forces and stress; positions of extended XYZ stay in Å unless
    ``length=bohr`` is said.

    Raises
    ------
    InputError
        If a quantity or a unit is unknown.
    """
    if text.strip().lower() in UNIT_SYSTEMS:
        return UNIT_SYSTEMS[text.strip().lower()]
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, unit = part.partition("=")
        quantity = {"force": "forces", "virials": "virial"}.get(name.strip().lower(), name.strip().lower())
        if not equals or quantity in found:
            raise InputError(
                f"--units has {part.strip()!r}; expected QUANTITY=UNIT, each once and separated by commas (energy="
                f"hartree,forces=hartree/bohr), or one of {', '.join(UNIT_SYSTEMS)}."
            )
        unit_factor(quantity, unit)
        found[quantity] = unit.strip()
    return found
