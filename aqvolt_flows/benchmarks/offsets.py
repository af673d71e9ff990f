"""Offsets between a model's energies and the references': shown always, subtracted only on request.

Two functionals, pseudopotentials or references of atoms differ by an energy per element. Least squares over the
structures gives those of a set: ΔE/N = Σ_X c_X e_X with the atomic fractions c_X; the smallest solution where the
compositions do not tell elements apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from aqvolt_flows.benchmarks.item_errors import ItemErrors


@dataclass(frozen=True)
class Offsets:
    """Offsets of a set; None and empty where no structure has an error.

    Attributes
    ----------
    mean_mev_per_atom
        Mean signed error.
    elements_mev
        Element → meV per atom of it.
    residual_mae_mev_per_atom
        MAE that is left when the elements' offsets are subtracted.
    """

    mean_mev_per_atom: float | None = None
    elements_mev: dict[str, float] | None = None
    residual_mae_mev_per_atom: float | None = None


def fit(items: Sequence[ItemErrors]) -> Offsets:
    """Return the mean offset and those per element."""
    good = [i for i in items if i.failure is None and i.energy_error is not None and i.formula]
    if not good:
        return Offsets()
    errors = np.array([float(i.energy_error or 0.0) for i in good]) * 1e3
    fractions, names = _fractions([i.formula for i in good])
    found = np.linalg.lstsq(fractions, errors, rcond=None)[0]
    residual = float(np.abs(errors - fractions @ found).mean())
    return Offsets(float(errors.mean()), dict(zip(names, found.tolist(), strict=True)), residual)


def subtracted(
    items: Sequence[ItemErrors], offsets: Offsets, which: Literal["none", "mean", "elements"]
) -> list[ItemErrors]:
    """Return errors with an offset taken from those of the energies."""
    if which == "none" or offsets.mean_mev_per_atom is None:
        return list(items)
    if which == "mean":
        shifts = [offsets.mean_mev_per_atom] * len(items)
    else:
        fractions, names = _fractions([i.formula for i in items])
        shifts = (fractions @ np.array([(offsets.elements_mev or {}).get(n, 0.0) for n in names])).tolist()
    return [
        i if i.energy_error is None else replace(i, energy_error=i.energy_error - shift / 1e3)
        for i, shift in zip(items, shifts, strict=True)
    ]


def _fractions(formulas: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Return atomic fractions (n_structures, n_elements), and the elements in the order of the columns."""
    from pymatgen.core import Composition

    known = {f: Composition(f).fractional_composition.get_el_amt_dict() if f else {} for f in set(formulas)}
    names = sorted({e for amounts in known.values() for e in amounts})
    table = {f: [amounts.get(name, 0.0) for name in names] for f, amounts in known.items()}
    return np.array([table[f] for f in formulas], dtype=float).reshape(len(formulas), len(names)), names
