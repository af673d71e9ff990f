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
from typing import Any

import numpy as np

from aqvolt_flows.benchmarks import bootstrap, offsets
from aqvolt_flows.benchmarks.item_errors import ItemErrors
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.parameters import ForceBinParameters
from aqvolt_flows.units import ev_per_a3_to_gpa


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
    """Return counts and errors of one set of structures; names carry units, None where nothing is to average.

    ``force_slope`` is Σ F·F_ref / ΣF_ref², the slope of predicted on reference force components through the origin (the
    softening scale of Deng et al., npj Comput. Mater. 11, 9 (2025)). Forces of a frame sum to zero, so that a fit with
    an intercept has the same slope.
    """
    good = [i for i in items if i.failure is None]
    n_failed = len(items) - len(good)
    energy = [float(i.energy_error or 0.0) * 1e3 for i in good]
    force = [float(i.force_mae or 0.0) * 1e3 for i in good]
    weights = [i.n_atoms for i in good]
    stress = [ev_per_a3_to_gpa(i.stress_mae) for i in good if i.stress_mae is not None]
    n_components = 3 * sum(weights)
    return {
        "n_items": len(items),
        "n_failed": n_failed,
        "n_atoms": sum(i.n_atoms for i in items),
        "failed_percent": 100.0 * n_failed / len(items) if items else None,
        "energy_mae_mev_per_atom": float(np.mean(np.abs(energy))) if good else None,
        "energy_rmse_mev_per_atom": float(np.sqrt(np.mean(np.square(energy)))) if good else None,
        "energy_mean_error_mev_per_atom": float(np.mean(energy)) if good else None,
        "energy_median_ae_mev_per_atom": _median([abs(e) for e in energy], n_failed),
        "force_mae_mev_per_a": float(np.average(force, weights=weights)) if good else None,
        "force_rmse_mev_per_a": _root(_sum(good, "force_sse"), n_components, 1e3),
        "force_slope": _ratio(_sum(good, "force_dot"), _sum(good, "force_ref_sq")),
        "force_median_ae_mev_per_a": _median(force, n_failed),
        "stress_mae_gpa": float(np.mean(stress)) if stress else None,
        "stress_rmse_gpa": _root(_sum(good, "stress_sse"), 6 * len(stress), ev_per_a3_to_gpa(1.0)),
        "stress_median_ae_gpa": _median(stress, n_failed),
        "n_stress": len(stress),
    }


def _sum(items: Sequence[ItemErrors], name: str) -> float:
    return float(sum(v for i in items if (v := getattr(i, name)) is not None))


def _ratio(above: float, below: float) -> float | None:
    return above / below if below > 0 else None


def _root(total: float, count: int, scale: float) -> float | None:
    return float(np.sqrt(total / count)) * scale if count else None


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


def aggregate_all(items: Sequence[ItemErrors], parameters: ForceBinParameters) -> dict[str, Any]:
    """Return :func:`aggregate` over all, by source and by subset, with intervals, and the offsets of the energies.

    Parameters
    ----------
    items
        Errors of all structures.
    parameters
        Edges; what is subtracted from the energies' errors; draws of the bootstrap.

    Returns
    -------
    dict
        As :func:`aggregate`; ``overall`` and the bins have ``…_interval_…`` (:func:`~.bootstrap.mae_intervals`).
        ``by_source`` and ``by_subset``, lists of the same with ``name``, where there are several.
        ``energy_offset_mev_per_atom`` and ``element_offsets_mev`` are those of the errors as they are, whatever is
        subtracted.
    """
    found = offsets.fit(items)
    shifted = offsets.subtracted(items, found, parameters.subtract)
    edges = parameters.edges_ev_per_a
    metrics = _with_intervals(shifted, aggregate(shifted, edges), parameters)
    for name, field in (("by_source", "source"), ("by_subset", "subset")):
        groups: dict[str, list[ItemErrors]] = {}
        for item in shifted:
            groups.setdefault(getattr(item, field), []).append(item)
        if len(groups) > 1:  # a list: names of sources may have dots, which are no names of fields
            metrics[name] = [
                {"name": key or "unnamed"} | _with_intervals(some, aggregate(some, edges), parameters)
                for key, some in sorted(groups.items())
            ]
    return metrics | {
        "subtracted": parameters.subtract,
        "energy_offset_mev_per_atom": found.mean_mev_per_atom,
        "element_offsets_mev": found.elements_mev,
        "element_offsets_residual_mae_mev_per_atom": found.residual_mae_mev_per_atom,
    }


def _with_intervals(
    items: Sequence[ItemErrors], metrics: dict[str, Any], parameters: ForceBinParameters
) -> dict[str, Any]:
    """Add the intervals of :func:`~.bootstrap.mae_intervals` to the overall errors and to those of each bin."""
    draws = parameters.bootstrap_draws
    metrics["overall"] |= bootstrap.mae_intervals(items, draws)
    last = metrics["bins"][-1]
    for one in metrics["bins"]:
        low, high = one["low_ev_per_a"], one["high_ev_per_a"]
        inside = [i for i in items if low <= i.max_force < high or (one is last and i.max_force == high)]
        one.update(bootstrap.mae_intervals(inside, draws))
    return metrics
