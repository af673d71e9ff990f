"""Units and their conversions; nowhere else is a conversion factor written.

Inside: Å, eV, eV/Å, eV/Å³ (stress; ASE sign, tension positive; Voigt order xx yy zz yz xz xy), K, fs.
For people: GPa (pressure), mS/cm (conductivity). Factors follow CODATA 2018 as in ``scipy.constants``.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import constants

from aqvolt_flows.errors import InputError

Array = NDArray[np.float64]

#: 1 eV/Å³ in GPa: e / (1e-10 m)³ / 1e9 = 160.21766…
EV_PER_A3_IN_GPA: float = constants.e * 1e30 / 1e9
#: 1 eV/Å³ in kbar.
EV_PER_A3_IN_KBAR: float = EV_PER_A3_IN_GPA * 10.0
#: 1 standard atmosphere in GPa: 101325 Pa.
ATM_IN_GPA: float = constants.atm / 1e9
#: The same as VASP has it, whose e is 1.60217733e-19 C: 1000 Å³ at 1 kbar are 0.62415064 eV in its OUTCAR.
VASP_EV_PER_A3_IN_KBAR: float = 1602.17733
#: Boltzmann's constant in eV/K.
KB_EV_PER_K: float = constants.k / constants.e
#: fs in the unit of time that u, Å and eV make, Å·√(u/eV): 10.18…
FS_PER_MD_TIME: float = 1e5 * (constants.physical_constants["atomic mass constant"][0] / constants.e) ** 0.5
#: ps per fs.
PS_PER_FS: float = 1e-3
#: Rows and columns of the Voigt order xx yy zz yz xz xy.
VOIGT: tuple[tuple[int, int], ...] = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def gpa_to_ev_per_a3(pressure_gpa: float) -> float:
    """Return a pressure in eV/Å³."""
    return pressure_gpa / EV_PER_A3_IN_GPA


def ev_per_a3_to_gpa(pressure: float) -> float:
    """Return a pressure in GPa."""
    return pressure * EV_PER_A3_IN_GPA


def vasp_stress_to_ase(stress_kbar: Array) -> Array:
    """Return VASP's stress (kbar, compression positive) as ASE's (eV/Å³, tension positive); any shape."""
    return -np.asarray(stress_kbar, dtype=float) / EV_PER_A3_IN_KBAR


def ase_stress_to_vasp(stress: Array) -> Array:
    """Return ASE's stress (eV/Å³, tension positive) as VASP's (kbar, compression positive); any shape."""
    return -np.asarray(stress, dtype=float) * EV_PER_A3_IN_KBAR


#: Units in which people write stresses, each with the sign that goes with it → factor to eV/Å³, tension positive.
#: ``eV/A^3`` and ``GPa`` follow ASE (tension positive), ``kbar`` follows VASP (compression positive).
STRESS_FACTORS: dict[str, float] = {
    "eV/A^3": 1.0,
    "GPa": 1.0 / EV_PER_A3_IN_GPA,
    "kbar": -1.0 / EV_PER_A3_IN_KBAR,
}


def pressure_gpa(stress_voigt: Array) -> float:
    """Return the pressure in GPa (compression positive) of an ASE stress, 6 numbers in eV/Å³."""
    return float(-np.mean(np.asarray(stress_voigt, dtype=float)[..., :3]) * EV_PER_A3_IN_GPA)


def voigt_to_matrix(stress_voigt: Array) -> Array:
    """Return the symmetric matrices (…, 3, 3) of Voigt vectors (…, 6), order xx yy zz yz xz xy."""
    voigt = np.asarray(stress_voigt, dtype=float)
    matrix = np.empty((*voigt.shape[:-1], 3, 3))
    for k, (i, j) in enumerate(VOIGT):
        matrix[..., i, j] = matrix[..., j, i] = voigt[..., k]
    return matrix


def matrix_to_voigt(stress: Array) -> Array:
    """Return Voigt vectors (…, 6) of matrices (…, 3, 3); off-diagonal pairs are averaged."""
    matrix = np.asarray(stress, dtype=float)
    return np.stack([(matrix[..., i, j] + matrix[..., j, i]) / 2 for i, j in VOIGT], axis=-1)


#: Names of an energy, in lower case → eV.
ENERGY_FACTORS: dict[str, float] = {
    "ev": 1.0,
    "mev": 1e-3,
    **dict.fromkeys(("hartree", "ha", "eh", "au", "a.u."), constants.physical_constants["Hartree energy in eV"][0]),
    **dict.fromkeys(("rydberg", "ry"), constants.physical_constants["Hartree energy in eV"][0] / 2),
    "kcal/mol": 1e3 * constants.calorie / constants.N_A / constants.e,
    "kj/mol": 1e3 / constants.N_A / constants.e,
}
#: Names of a length, in lower case → Å.
LENGTH_FACTORS: dict[str, float] = {
    **dict.fromkeys(("a", "ang", "angstrom", "angstroms", "å"), 1.0),
    **dict.fromkeys(("bohr", "au", "a.u."), 1e10 * constants.physical_constants["Bohr radius"][0]),
    "nm": 10.0,
}
#: Quantity → units as an error lists them.
UNIT_EXAMPLES: dict[str, str] = {
    "energy": "eV, meV, hartree, rydberg, kcal/mol, kJ/mol",
    "forces": "eV/A, hartree/bohr, rydberg/bohr, kcal/mol/A, kJ/mol/nm",
    "stress": "eV/A^3, GPa (tension positive), kbar (compression positive, as VASP writes it), hartree/bohr^3; a "
    "leading - or + chooses compression or tension positive",
    "virial": "eV, hartree; a leading - for V·stress instead of -V·stress",
    "length": "A, bohr, nm",
}


@cache
def unit_factor(quantity: str, unit: str) -> float:
    """Return the factor from a unit as people write it to eV, eV/Å, eV/Å³ (tension positive) or Å.

    Parameters
    ----------
    quantity
        One of :data:`UNIT_EXAMPLES`.
    unit
        In any case, with ``Å``, ``A``, ``ang`` or ``angstrom``, and ``^3``, ``**3`` or ``3``. Of a stress, ``kbar``
        is compression positive and all others are tension positive; a leading sign says otherwise: ``-GPa``.

    Raises
    ------
    InputError
        If the quantity or the unit is unknown.
    """
    if quantity not in UNIT_EXAMPLES:
        raise InputError(f"There is no unit of {quantity!r}; known quantities are {', '.join(UNIT_EXAMPLES)}.")
    text = "".join(unit.split()).lower().replace("**", "^")
    sign = -1.0 if text.startswith("-") else 1.0
    found = _factor(quantity, text.lstrip("+-"))
    if found is None or (text[:1] in {"+", "-"} and quantity not in {"stress", "virial"}):
        raise InputError(f"The unit of {quantity} {unit!r} is not known; expected {UNIT_EXAMPLES[quantity]}.")
    if quantity == "stress" and text[:1] in {"+", "-"}:
        return sign * abs(found)
    return sign * found


def _factor(quantity: str, text: str) -> float | None:
    if quantity in {"energy", "virial"}:
        return ENERGY_FACTORS.get(text)
    if quantity == "length":
        return LENGTH_FACTORS.get(text)
    known = {name.lower(): factor for name, factor in STRESS_FACTORS.items()}
    if quantity == "stress" and text in known:
        return known[text]
    if text in {"au", "a.u."}:
        text = "hartree/bohr" + ("^3" if quantity == "stress" else "")
    energy, _, length = text.rpartition("/")
    power = 3 if quantity == "stress" else 1
    if power == 3:
        if not length.endswith("3"):
            return None
        length = length[:-1].rstrip("^")
    per = LENGTH_FACTORS.get(length)
    return ENERGY_FACTORS[energy] / per**power if per is not None and energy in ENERGY_FACTORS else None
