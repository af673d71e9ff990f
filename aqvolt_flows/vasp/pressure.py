"""Take the target pressure of a run (PSTRESS) out of its energies and stresses.

With PSTRESS, VASP adds P·V to the energy of an ionic step and moves the diagonal of the stress by P (VASP wiki,
PSTRESS). OUTCAR keeps all of it apart: the free energy, behind it the line ``enthalpy is TOTEN = … P V= …``, the
stress as ``in kB``, and ``external pressure = …``, which is the pressure beyond PSTRESS. Which of them vasprun.xml
repeats is read off by comparing its numbers with these, so no version's habit is assumed. A label is a point of the
potential-energy surface: its energy has no P·V, and its stress is the derivative of that energy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from aqvolt_flows.units import VASP_EV_PER_A3_IN_KBAR

#: eV/atom and kbar: what a term that cannot be told may weigh at most; 1 atm weighs 1e-5 eV/atom and 1e-3 kbar.
NEGLIGIBLE_EV_PER_ATOM = 1e-4
NEGLIGIBLE_KBAR = 0.1
#: Of the term: how near the numbers must come to one of the possible readings.
NEAR = 0.25

_NUMBER = r"(-?\d+\.?\d*)"
_ENTHALPY = re.compile(rf"enthalpy is\s+TOTEN\s*=\s*{_NUMBER}\s*eV\s+P V=\s*{_NUMBER}")
_EXTERNAL = re.compile(rf"external pressure\s*=\s*{_NUMBER}\s*kB\s+Pullay stress\s*=\s*{_NUMBER}\s*kB")


@dataclass(frozen=True)
class Printed:
    """What vasprun.xml says of one ionic step.

    Attributes
    ----------
    volume
        Å³.
    free
        ``e_fr_energy`` of the ionic step, eV.
    electronic
        ``e_fr_energy`` of its last electronic step, which never holds P·V; None where it is not printed.
    pressure
        Mean of the diagonal of its stress, kbar, compression positive.
    """

    volume: float
    free: float
    electronic: float | None
    pressure: float


@dataclass(frozen=True)
class Terms:
    """What to take out of the steps of a run.

    Attributes
    ----------
    works
        (n_steps,), eV, to be subtracted from the energies: P·V or 0.
    pressure
        kbar, to be added to the diagonal of the stresses in VASP's sign.
    doubt
        Why it cannot be told what the numbers hold, or empty.
    """

    works: Sequence[float]
    pressure: float = 0.0
    doubt: str = ""


def pressure_terms(pstress: float, steps: Sequence[Printed], n_atoms: int, outcar: str) -> Terms:
    """Return what PSTRESS added to the energies and stresses of a run.

    Parameters
    ----------
    pstress
        Target pressure of the run, kbar.
    steps
        What vasprun.xml says of the ionic steps, in order.
    n_atoms
        Atoms of the cell.
    outcar
        Text of OUTCAR; its lines decide where there is one for each step, else vasprun.xml alone does.

    Examples
    --------
    A cell of 16 Å³ at 100 kbar, P V = 0.99864 eV, whose ionic step is that much above its last electronic step:

    >>> step = Printed(volume=16.0, free=-9.0, electronic=-9.99864, pressure=0.4)
    >>> terms = pressure_terms(100.0, [step], 2, "external pressure = 0.40 kB  Pullay stress = 100.00 kB")
    >>> round(terms.works[0], 5), terms.pressure
    (0.99864, 100.0)
    """
    if not pstress or not steps:
        return Terms([0.0] * len(steps))
    works = [pstress / VASP_EV_PER_A3_IN_KBAR * step.volume for step in steps]
    held = _work_is_held(steps, works, outcar)
    moved = _moved_pressure(pstress, steps, outcar)
    said = []
    if held is None and abs(works[0]) / n_atoms > NEGLIGIBLE_EV_PER_ATOM:
        said.append(f"whether its energies hold P·V ({works[0] / n_atoms:.4f} eV/atom)")
    if moved is None and abs(pstress) > NEGLIGIBLE_KBAR:
        said.append(f"whether its stresses hold P ({pstress:g} kbar)")
    doubt = f"the run had PSTRESS {pstress:g} and its files do not tell {' and '.join(said)}" if said else ""
    return Terms(works if held else [0.0] * len(steps), moved or 0.0, doubt)


def _work_is_held(steps: Sequence[Printed], works: Sequence[float], outcar: str) -> bool | None:
    """Return whether the ionic steps' energies hold P·V, by what most of the steps say; None if they do not say."""
    printed = [float(enthalpy) - float(work) for enthalpy, work in _ENTHALPY.findall(outcar)]
    bare = printed if len(printed) >= len(steps) else [s.electronic for s in steps]
    rises = [step.free - without for step, without in zip(steps, bare, strict=False) if without is not None]
    return None if not rises else _most(rises, works, lambda rise, work: {False: rise, True: rise - work})


def _moved_pressure(pstress: float, steps: Sequence[Printed], outcar: str) -> float | None:
    """Return what to add to the printed pressures (kbar), by what most of the steps say; None if they do not say."""
    real = [float(external) + float(pulay) for external, pulay in _EXTERNAL.findall(outcar)]
    lacks = [inside - step.pressure for step, inside in zip(steps, real, strict=False)]
    readings = (0.0, pstress, -pstress)
    return _most(lacks, [pstress] * len(lacks), lambda lack, _: {shift: lack - shift for shift in readings})


def _most[Reading](
    seen: Sequence[float], terms: Sequence[float], misses: Callable[[float, float], dict[Reading, float]]
) -> Reading | None:
    """Return the reading that most steps are nearest to and near to, or None."""
    votes: dict[Reading, int] = {}
    for value, term in zip(seen, terms, strict=False):
        reading, miss = min(misses(value, term).items(), key=lambda item: abs(item[1]))
        if np.isfinite(value) and abs(miss) <= NEAR * abs(term):
            votes[reading] = votes.get(reading, 0) + 1
    best = max(votes.items(), key=lambda item: item[1], default=None)
    return best[0] if best is not None and 2 * best[1] > len(seen) else None
