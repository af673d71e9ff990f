"""The bulk modulus from an equation of state (Figure S6), as MLIP Arena's ``eos_bulk`` computes it.

The structure is relaxed, its volume is changed by −20 % … +20 % in 21 even steps of the *volume* (the E–V scan's are
even in length), the atoms are relaxed at each fixed cell, and a third-order Birch–Murnaghan curve (Birch, Phys. Rev.
71, 809 (1947)) is fitted by pymatgen. Arena relaxes to 0.1 eV/Å; here 0.05, the tolerance of the paper's relaxations.

A fit is bad, and has no modulus, if it does not converge, if its minimum lies outside the volumes, if the modulus is
not positive, or if the RMS residual is above 5 % of the range of the energies. Neither the paper nor Arena says what
becomes of such fits; here they are counted.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.units import ev_per_a3_to_gpa

Array = NDArray[np.float64]
#: Of the volumes, that must have an energy.
MIN_FRACTION = 0.7


@dataclass(frozen=True)
class Fit:
    """An equation of state.

    Attributes
    ----------
    v0
        Equilibrium volume, Å³ of the cell.
    e0
        Energy there, eV.
    b0_gpa
        Bulk modulus, GPa.
    b1
        Its derivative with pressure.
    residual
        RMS residual over the range of the energies.
    """

    v0: float
    e0: float
    b0_gpa: float
    b1: float
    residual: float


def volume_factors(n_points: int = 21, max_volume_strain: float = 0.20) -> Array:
    """Return V/V₀ of the points, (n_points,)."""
    return np.linspace(1.0 - max_volume_strain, 1.0 + max_volume_strain, n_points)


def at_volumes(structure: Structure, factors: Array) -> list[Structure]:
    """Return copies with the volume times each factor, fractional coordinates kept."""
    return [
        Structure(structure.lattice.scale(structure.volume * float(f)), structure.species, structure.frac_coords)
        for f in factors
    ]


def fit_birch_murnaghan(
    volumes: Sequence[float] | Array, energies: Sequence[float] | Array, max_residual: float = 0.05
) -> Fit | Failure:
    """Return the third-order Birch–Murnaghan fit of energies (eV) at volumes (Å³), or why it is bad.

    Energies that are not finite are left out; at least 70 % of the points must be left.
    """
    v, e = np.asarray(volumes, dtype=float), np.asarray(energies, dtype=float)
    good = np.isfinite(e)
    if good.sum() < max(5, MIN_FRACTION * len(v)):
        message = f"Only {int(good.sum())} of {len(v)} volumes have an energy."
        return Failure(reason="missing_energy", message=message)
    v, e = v[good], e[good]
    from pymatgen.analysis.eos import BirchMurnaghan, EOSError

    curve = BirchMurnaghan(v, e)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of SciPy, on the way to a fit that is judged below
            curve.fit()
            residual = float(np.sqrt(np.mean((curve.func(v) - e) ** 2)) / np.ptp(e)) if np.ptp(e) > 0 else np.inf
    except (EOSError, RuntimeError, ValueError, FloatingPointError, np.linalg.LinAlgError) as error:
        return Failure(reason="bad_fit", message=f"No fit was found ({' '.join(str(error).split())[:120]}).")
    found = Fit(float(curve.v0), float(curve.e0), ev_per_a3_to_gpa(float(curve.b0)), float(curve.b1), residual)
    if not np.isfinite([found.v0, found.e0, found.b0_gpa, found.b1, residual]).all():
        return Failure(reason="bad_fit", message="The fit has numbers that are not finite.")
    if not v.min() < found.v0 < v.max():
        said = f"The minimum at {found.v0:.4g} Å³ is outside the volumes {v.min():.4g} … {v.max():.4g} Å³."
        return Failure(reason="bad_fit", message=said)
    if found.b0_gpa <= 0:
        return Failure(reason="bad_fit", message=f"The modulus is {found.b0_gpa:.3g} GPa.")
    if residual > max_residual:
        said = f"The RMS residual is {100 * residual:.1f} % of the energies' range; at most {100 * max_residual:g} %."
        return Failure(reason="bad_fit", message=said)
    return found
