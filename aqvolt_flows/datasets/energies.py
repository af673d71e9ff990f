"""Energy jumps: labels whose energy cannot be that of the frame, judged by the potential that made the frame.

The difference d = E_label − E_potential of one frame is a sum over its atoms of what an element weighs in one method
and not in the other (pseudopotentials, functional, isolated-atom references), plus the potential's error. The first
part is fitted, robustly, as one number per element for each pair of potential and protocol, over many frames at once:

    min over μ of  Σ_frames  ρ( d/N − Σ_el x_el μ_el ),   ρ(r) = 2 (√(1 + (r/f)²) − 1) f²,   f = 0.1 eV/atom

x_el is the fraction of the element (``scipy.optimize.least_squares`` with ``soft_l1``, which is convex, so that up to
nearly half of the frames may be wrong without moving the fit far). What remains of d/N is compared with a limit that
grows with the forces, since far from equilibrium even good potentials err:

    limit = 1.0 eV/atom + 0.01 Å · max|F|

Both numbers are choices of this project, the paper has none. Errors of r2SCAN-trained universal potentials are a few
10 meV/atom near equilibrium; an SCF that ended in another state, or the label of another structure, is off by eV.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from aqvolt_flows.schemas.provenance import Failure

#: eV/atom, what an energy may be off at zero force.
MAX_JUMP_EV_PER_ATOM = 1.0
#: Å, how the limit grows with the largest force of the frame, in eV/atom per eV/Å.
JUMP_LENGTH_A = 0.01
#: Frames that must hold an element before its shift means anything.
MIN_SUPPORT = 5
_SOFT_EV_PER_ATOM = 0.1


@dataclass(frozen=True)
class EnergyShift:
    """What elements weigh in one method and not in another.

    Attributes
    ----------
    elements
        Element → shift, eV/atom.
    support
        Element → frames that held it in the fit.
    """

    elements: Mapping[str, float] = field(default_factory=dict)
    support: Mapping[str, int] = field(default_factory=dict)

    def of(self, symbols: Sequence[str]) -> float | None:
        """Return the expected E_label − E_potential (eV) of a cell; None where an element is too little known."""
        if any(self.support.get(s, 0) < MIN_SUPPORT for s in set(symbols)):
            return None
        return float(sum(n * self.elements[s] for s, n in Counter(symbols).items()))


def fit_shift(differences: Sequence[float], compositions: Sequence[Mapping[str, float]]) -> EnergyShift:
    """Return the shift of every element, fitted as the module describes.

    Parameters
    ----------
    differences
        E_label − E_potential of each frame, eV **per atom**.
    compositions
        Element → amount of each frame, in any multiple.
    """
    finite = [(d, c) for d, c in zip(differences, compositions, strict=True) if np.isfinite(d)]
    if not finite:
        return EnergyShift()
    elements = sorted({e for _, c in finite for e in c})
    place = {e: i for i, e in enumerate(elements)}
    fractions = np.zeros((len(finite), len(elements)))
    for row, (_, composition) in enumerate(finite):
        for element, amount in composition.items():
            fractions[row, place[element]] = amount
    fractions /= fractions.sum(axis=1, keepdims=True)
    target = np.array([d for d, _ in finite])

    def residual(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(fractions @ x - target)

    # one number for all elements is an exact start where the two methods differ by a constant per atom
    start = np.full(len(elements), float(np.median(target)))
    fitted = least_squares(
        residual, start, jac=lambda _: fractions, loss="soft_l1", f_scale=_SOFT_EV_PER_ATOM, method="trf"
    )
    support = Counter(e for _, c in finite for e in c)
    return EnergyShift(dict(zip(elements, map(float, fitted.x), strict=True)), dict(support))


def jump_fault(excess_per_atom: float, max_force: float, limit_ev_per_atom: float, reference: str) -> Failure | None:
    """Return why an energy is not believed, or None.

    Parameters
    ----------
    excess_per_atom
        What the energy is above its reference, eV/atom.
    max_force
        Largest |F| of the label, eV/Å.
    limit_ev_per_atom
        The limit at zero force; 0 turns the check off.
    reference
        What it was compared with, for the message.
    """
    if limit_ev_per_atom <= 0:
        return None
    limit = limit_ev_per_atom + JUMP_LENGTH_A * max_force
    if abs(excess_per_atom) <= limit:
        return None
    return Failure(
        reason="energy_jump",
        message=f"The energy is {excess_per_atom:+.3f} eV/atom from {reference}; expected at most {limit:.3f} at "
        f"forces up to {max_force:.3g} eV/Å.",
    )
