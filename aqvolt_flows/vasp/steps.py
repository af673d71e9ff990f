"""Ionic steps in our units, with the energy that VASP means: repaired where old versions print another, or refused.

VASP up to 6.0.8 prints another quantity as ``e_0_energy`` of an ionic step, while its electronic steps are right
(pymatgen's ``Vasprun.final_energy`` and ASE's ``read_vasp_xml`` repair it the same way):

    E₀ = F_ionic + (E₀ − F) of the last electronic step

F_ionic may hold more than the electronic steps: dispersion (IVDW), and P·V where PSTRESS is set, which is no energy of
the cell and is taken off (:mod:`aqvolt_flows.vasp.pressure`). Any other difference between the sources of one
file is refused: one of them is wrong, and nothing tells which.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.units import VASP_EV_PER_A3_IN_KBAR, matrix_to_voigt, vasp_stress_to_ase
from aqvolt_flows.vasp.incar import plain_value
from aqvolt_flows.vasp.pressure import Printed, Terms, pressure_terms
from aqvolt_flows.vasp.vasprun import Header, RawStep

Array = NDArray[np.float64]

#: eV; numbers of one file that mean the same agree to the last of eight printed decimals.
SAME_ENERGY_EV = 1e-4
#: Relative; OSZICAR prints eight digits.
SAME_ENERGY_OSZICAR = 1e-6
#: First version whose ionic ``e_0_energy`` is the extrapolated energy.
_RIGHT_SINCE = (6, 1)
#: What adds to the energy of an ionic step and to no electronic step.
_ADDED = ("IVDW", "LVDW", "IDIPOL", "LMONO", "LDIPOL", "LSOL", "I_CONSTRAINED_M", "EFIELD", "IMAGES")


class SourcesDisagreeError(ValueError):
    """Numbers of one run that should be equal are not, or one is missing; the message names both."""


@dataclass(frozen=True, eq=False)
class IonicStep:
    """One ionic step.

    Attributes
    ----------
    fractional, cell
        (n_atoms, 3) and (3, 3; Å, rows are vectors).
    energy
        VASP's energy extrapolated to zero smearing, total, eV, without p·V.
    forces
        (n_atoms, 3), eV/Å.
    stress
        (6,), eV/Å³, ASE sign, xx yy zz yz xz xy.
    scf_steps
        Electronic steps made; as many as NELM means not converged.
    free_energy
        VASP's free energy F, the one that the forces are derivatives of, eV, without p·V.
    """

    fractional: Array
    cell: Array
    energy: float
    forces: Array
    stress: Array
    scf_steps: int
    free_energy: float = float("nan")

    @property
    def positions(self) -> Array:
        """Cartesian positions, (n_atoms, 3), Å."""
        return np.asarray(self.fractional @ self.cell)


def ionic_step(
    raw: RawStep,
    header: Header,
    incar: Mapping[str, Any] | None = None,
    nelm: int | None = None,
    work: float = 0.0,
    pressure: float = 0.0,
    compare: bool = True,
) -> IonicStep:
    """Return a step in our units.

    Parameters
    ----------
    raw, header
        What a reader found.
    incar
        Tags of the INCAR file beside it; vasprun.xml repeats only those that VASP knows to print.
    nelm
        Allowed electronic steps: the energies of a step that took as many are not compared, it is no result anyway.
    work, pressure
        What PSTRESS added to the energy (eV) and took off the stress's diagonal (kbar), see :func:`terms_of`.
    compare
        Compare the energies; not where it cannot be told whether they hold P·V.

    Raises
    ------
    SourcesDisagreeError
        If forces, stress or energy are missing, or the energies of the step contradict each other.
    """
    if raw.forces is None:
        raise SourcesDisagreeError("VASP wrote no forces")
    if raw.stress is None:
        raise SourcesDisagreeError("VASP wrote no stress (ISIF = 0, or a version that leaves it out)")
    if not compare or (nelm is not None and len(raw.electronic) >= nelm):
        free, zero, count = raw.energy.get("e_fr_energy", float("nan")) - work, float("nan"), len(raw.electronic)
    else:
        free, zero, count = _energies(raw, header, incar or {}, work)
    stress = matrix_to_voigt(vasp_stress_to_ase(raw.stress + pressure * np.eye(3)))
    return IonicStep(raw.fractional, raw.cell, zero, raw.forces, stress, count, free)


def terms_of(
    raws: Sequence[RawStep], header: Header, incar: Mapping[str, Any] | None = None, outcar: str = ""
) -> Terms:
    """Return what PSTRESS added to the energies and stresses of steps of one run.

    Parameters
    ----------
    raws
        Steps as printed; those without stress or energy say nothing.
    header, incar
        See :func:`ionic_step`.
    outcar
        Text of OUTCAR, which keeps the terms apart.
    """
    tags = {**header.parameters, **header.incar, **(incar or {})}
    pstress = plain_value("PSTRESS", tags.get("PSTRESS"))
    if not isinstance(pstress, float) or not pstress or not math.isfinite(pstress):
        return Terms([0.0] * len(raws))
    printed = [
        Printed(
            volume=abs(float(np.linalg.det(raw.cell))) if np.isfinite(raw.cell).all() else float("nan"),
            free=raw.energy.get("e_fr_energy", float("nan")),
            electronic=raw.electronic[-1]["e_fr_energy"] if raw.electronic else None,
            pressure=float("nan") if raw.stress is None else float(np.trace(raw.stress)) / 3,
        )
        for raw in raws
    ]
    return pressure_terms(pstress, printed, max(len(header.symbols), 1), outcar)


def _energies(raw: RawStep, header: Header, incar: Mapping[str, Any], work: float) -> tuple[float, float, int]:
    """Return F and E₀ of a step without p·V (eV), and its number of electronic steps."""
    tags = {k.upper(): plain_value(k, v) for k, v in {**header.parameters, **header.incar, **incar}.items()}
    free = raw.energy.get("e_fr_energy")
    if free is None:
        raise SourcesDisagreeError("the ionic step has no e_fr_energy")
    if not raw.electronic:
        return free - work, _printed(raw, header.version) - work, 0
    at = _ground_state(raw, tags)
    last = raw.electronic[at]
    if "e_0_energy" not in last:
        raise SourcesDisagreeError("the last electronic step has no e_0_energy")
    entropy = last["e_0_energy"] - last["e_fr_energy"]
    if _permuted(raw.energy, last):
        return last["e_fr_energy"], last["e_0_energy"], at + 1
    free = _explained(free - work, last["e_fr_energy"], tags)
    printed = raw.energy.get("e_0_energy")
    if _version(header.version) >= _RIGHT_SINCE and printed is not None and math.isfinite(entropy):
        own = printed - raw.energy["e_fr_energy"]
        if abs(own - entropy) > SAME_ENERGY_EV:
            raise SourcesDisagreeError(
                f"e_0_energy − e_fr_energy is {own:.6f} eV in the ionic step and {entropy:.6f} eV in its last "
                "electronic step"
            )
    return free, free + entropy, at + 1


def _permuted(ionic: Mapping[str, float], electronic: Mapping[str, float]) -> bool:
    """Return whether a step holds the three energies of its last electronic step under exchanged names.

    Task documents of VASP 6.1.1 have them so; the electronic step then names them rightly (F − E = −T·S).
    """
    names = ("e_fr_energy", "e_wo_entrp", "e_0_energy")
    if any(name not in ionic or name not in electronic for name in names):
        return False
    left, right = ([float(e[name]) for name in names] for e in (ionic, electronic))
    if left == right or not np.isfinite([*left, *right]).all():
        return False
    return bool(np.allclose(sorted(left), sorted(right), rtol=0.0, atol=1e-7))


def _printed(raw: RawStep, version: str) -> float:
    zero = raw.energy.get("e_0_energy")
    if zero is None:
        raise SourcesDisagreeError("the ionic step has no e_0_energy")
    if _version(version) < _RIGHT_SINCE:
        raise SourcesDisagreeError(
            f"VASP {version or 'of unknown version'} prints another quantity as e_0_energy, and there is no electronic "
            "step to repair it from"
        )
    return zero


def _ground_state(raw: RawStep, tags: Mapping[str, Any]) -> int:
    """Return which electronic step is the last of the SCF; linear response adds steps of another meaning."""
    if tags.get("LEPSILON") is True or tags.get("LCALCEPS") is True or tags.get("IBRION") in (7.0, 8.0):
        off = [abs(e["e_fr_energy"] - raw.energy["e_fr_energy"]) for e in raw.electronic]
        return int(np.argmin(off)) if np.isfinite(off).all() else len(off) - 1
    return len(raw.electronic) - 1


def _explained(free: float, electronic: float, tags: Mapping[str, Any]) -> float:
    """Return the free energy of the ionic step; what it holds beyond its SCF must have a tag that adds it."""
    more = free - electronic
    if not math.isfinite(more) or abs(more) <= SAME_ENERGY_EV:
        return free
    if any(tags.get(tag) not in (None, False, 0.0) for tag in _ADDED):
        return free
    raise SourcesDisagreeError(
        f"e_fr_energy of the ionic step is {more:+.6f} eV from that of its last electronic step, and INCAR names "
        "nothing that adds to it (IVDW, PSTRESS …)"
    )


def pressure_work(pstress: Any, cell: Array) -> float:
    """Return p·V of a cell in eV; 0 without a pressure, or for a cell that VASP could not print.

    Parameters
    ----------
    pstress
        PSTRESS, kbar.
    cell
        (3, 3), Å.
    """
    if isinstance(pstress, bool) or not isinstance(pstress, int | float) or not np.isfinite(pstress):
        return 0.0
    if not pstress or not np.isfinite(cell).all():
        return 0.0
    return float(pstress) * abs(float(np.linalg.det(cell))) / VASP_EV_PER_A3_IN_KBAR


def _version(text: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


def same_energies(
    step: IonicStep, others: Mapping[str, tuple[float, float]], at_work: float = 0.0, read: str = "vasprun.xml"
) -> None:
    """Compare a step's energies with what other files of the run say of it.

    Parameters
    ----------
    step
        As read.
    others
        File → (F, E₀) that it prints, eV.
    at_work
        p·V that those files may or may not contain, eV.
    read
        The file that the step comes from.

    Raises
    ------
    SourcesDisagreeError
        Naming the file and both numbers.
    """
    for name, (free, zero) in others.items():
        for what, own, other in (("F", step.free_energy, free), ("E₀", step.energy, zero)):
            if not (math.isfinite(own) and math.isfinite(other)):
                continue
            limit = max(SAME_ENERGY_EV, SAME_ENERGY_OSZICAR * abs(own))
            if min(abs(other - own), abs(other - own - at_work)) > limit:
                raise SourcesDisagreeError(f"{what} is {own:.6f} eV in {read} and {other:.6f} eV in {name}")
