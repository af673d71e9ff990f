"""Errors of energies, forces and stresses, binned by the structure's largest reference force (Figure 4).

For each structure: |ΔE|/N_atoms, |ΔF| per Cartesian component, |Δσ| per Voigt component, against the
reference label. Energies are compared as they are. Two sources with different references (another
functional or labeler) differ by an offset that depends on composition; it is part of the error here, as
in the paper, and the signed mean beside the MAE shows it.

A structure that a model cannot compute has no error to average. Dividing by it anyway would make a model
look better by failing, so it enters in two ways: ``failed_percent`` is over all structures of the bin, and
the medians rank every failure above every error (a median is None once half of the bin has failed).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials import Evaluation
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.units import ev_per_a3_to_gpa

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Reference:
    """What a structure is compared with: energy (eV, total), forces (n_atoms, 3; eV/Å), stress (6; eV/Å³) or None."""

    item_id: str
    energy: float
    forces: Array
    stress: Array | None = None

    @property
    def max_force(self) -> float:
        """Largest |F| of any atom, eV/Å."""
        return float(np.linalg.norm(self.forces, axis=1).max())


@dataclass(frozen=True)
class ItemErrors:
    """Errors of one structure.

    Attributes
    ----------
    max_force
        Largest |F| of the reference, eV/Å; it decides the bin.
    energy_error
        Signed, prediction minus reference, eV/atom.
    force_mae
        Mean over 3·n_atoms components, eV/Å.
    stress_mae
        Mean over 6 components, eV/Å³; None if the reference has no stress.
    failure
        Why there are no errors, or None.
    """

    item_id: str
    n_atoms: int
    max_force: float
    energy_error: float | None = None
    force_mae: float | None = None
    stress_mae: float | None = None
    failure: Failure | None = None


def item_errors(reference: Reference, found: Evaluation | Failure) -> ItemErrors:
    """Return the errors of one structure, or its failure."""
    n_atoms, max_force = len(reference.forces), reference.max_force
    if isinstance(found, Failure):
        return ItemErrors(reference.item_id, n_atoms, max_force, failure=found)
    stress = None if reference.stress is None else float(np.abs(found.stress - reference.stress).mean())
    return ItemErrors(
        item_id=reference.item_id,
        n_atoms=n_atoms,
        max_force=max_force,
        energy_error=(found.energy - reference.energy) / n_atoms,
        force_mae=float(np.abs(found.forces - reference.forces).mean()),
        stress_mae=stress,
    )


def check_edges(edges: Sequence[float]) -> None:
    """Raise :class:`InputError` unless the edges rise and there are at least two."""
    if len(edges) < 2 or any(high <= low for low, high in itertools.pairwise(edges)):
        raise InputError(f"Force bin edges must rise strictly and be at least two, in eV/Å; got {list(edges)}.")


def _median(values: list[float], n_failed: int) -> float | None:
    """Return the median with ``n_failed`` infinite values appended; None if it is infinite or of nothing."""
    if not values:
        return None
    median = float(np.median([*values, *[np.inf] * n_failed]))
    return median if np.isfinite(median) else None


def summarize(items: Sequence[ItemErrors]) -> dict[str, Any]:
    """Return counts and errors of one set of structures; names carry units, None where nothing is to average."""
    good = [i for i in items if i.failure is None]
    n_failed = len(items) - len(good)
    energy = [float(i.energy_error or 0.0) * 1e3 for i in good]
    force = [float(i.force_mae or 0.0) * 1e3 for i in good]
    weights = [i.n_atoms for i in good]
    stress = [ev_per_a3_to_gpa(i.stress_mae) for i in good if i.stress_mae is not None]
    return {
        "n_items": len(items),
        "n_failed": n_failed,
        "n_atoms": sum(i.n_atoms for i in items),
        "failed_percent": 100.0 * n_failed / len(items) if items else None,
        "energy_mae_mev_per_atom": float(np.mean(np.abs(energy))) if good else None,
        "energy_mean_error_mev_per_atom": float(np.mean(energy)) if good else None,
        "energy_median_ae_mev_per_atom": _median([abs(e) for e in energy], n_failed),
        "force_mae_mev_per_a": float(np.average(force, weights=weights)) if good else None,
        "force_median_ae_mev_per_a": _median(force, n_failed),
        "stress_mae_gpa": float(np.mean(stress)) if stress else None,
        "stress_median_ae_gpa": _median(stress, n_failed),
        "n_stress": len(stress),
    }


def aggregate(items: Sequence[ItemErrors], edges: Sequence[float]) -> dict[str, Any]:
    """Return :func:`summarize` per bin and over all structures.

    Parameters
    ----------
    items
        Errors of all structures.
    edges
        Rising edges in eV/Å; a bin holds low ≤ max |F| < high, the last one its upper edge too.

    Returns
    -------
    dict
        ``overall`` (every structure), ``bins`` (each with ``low_ev_per_a`` and ``high_ev_per_a``) and
        ``n_outside``, the structures below the first or above the last edge.
    """
    check_edges(edges)
    last = len(edges) - 2
    groups: list[list[ItemErrors]] = [[] for _ in range(last + 1)]
    n_outside = 0
    for item in items:
        place = int(np.searchsorted(edges, item.max_force, side="right")) - 1
        place = last if item.max_force == edges[-1] else place
        if 0 <= place <= last:
            groups[place].append(item)
        else:
            n_outside += 1
    bins = [
        {"low_ev_per_a": float(low), "high_ev_per_a": float(high), **summarize(group)}
        for (low, high), group in zip(itertools.pairwise(edges), groups, strict=True)
    ]
    return {"overall": summarize(items), "bins": bins, "n_outside": n_outside}
