"""Costs of labels by chemical system, each beside a forecast from the runs of other systems."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from aqvolt_flows.errors import InputError
from aqvolt_flows.labeling.forecast import CostModel, fit_costs
from aqvolt_flows.labeling.plan import FORECAST_RUNS, electrons_of
from aqvolt_flows.schemas.cost import SystemCost

#: Systems are forecast in so many groups, each by a model of the runs outside of it.
FOLDS = 5
_REJECTED = "rejected"


def label_costs(labels: Sequence[Mapping[str, Any]], environments: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Return fields of a document of ``costs`` about labels.

    The forecast of a system comes from the cost model of :mod:`aqvolt_flows.labeling.forecast`, fitted to the runs of
    other systems only (cross-validation by groups): it is what could have been said before its first run.

    Parameters
    ----------
    labels
        With status, chemsys, formula, n_atoms, frame_id and cost_core_hours. Labels that took nothing (imported, or
        steps of ab-initio MD) are counted and not forecast.
    environments
        Frame → number of environments that it alone stands for; None: they are not counted.

    Returns
    -------
    dict
        ``by_chemsys``, ``forecast_core_hours`` and ``forecast_actual`` (over the runs that could be forecast),
        ``new_environments``.
    """
    groups: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for label in labels:
        groups[label.get("chemsys") or "unknown"].append(label)
    models = [_model([d for s, rows in groups.items() if _fold(s) != fold for d in rows]) for fold in range(FOLDS)]
    systems = {}
    forecast = actual = 0.0
    for system, rows in sorted(groups.items()):
        paid = [d for d in rows if _size(d)]
        spent = sum(float(d.get("cost_core_hours") or 0.0) for d in rows)
        model = models[_fold(system)]
        expected = sum(model.predict(*map(float, _size(d))) for d in paid) if model and paid else None
        if expected is not None:
            forecast, actual = forecast + expected, actual + sum(float(d["cost_core_hours"]) for d in paid)
        valid = sum(d.get("status") != _REJECTED for d in rows)
        systems[system] = SystemCost(n_runs=len(rows), n_valid=valid, core_hours=spent, forecast_core_hours=expected)
    said: dict[str, Any] = {"by_chemsys": systems}
    if actual:
        said |= {"forecast_core_hours": forecast, "forecast_actual": actual}
    if environments is not None:
        good = {d.get("frame_id") for d in labels if d.get("status") != _REJECTED}
        said["new_environments"] = sum(number for frame, number in environments.items() if frame in good)
    return said


def _fold(system: str) -> int:
    return int(hashlib.sha256(system.encode()).hexdigest()[:8], 16) % FOLDS


def _size(label: Mapping[str, Any]) -> tuple[int, ...]:
    """Return atoms and electrons of a run that took something; empty for others."""
    atoms = int(label.get("n_atoms") or 0)
    if not atoms or not label.get("formula") or not float(label.get("cost_core_hours") or 0.0) > 0:
        return ()
    return atoms, electrons_of(label["formula"], atoms)


def _model(labels: Sequence[Mapping[str, Any]]) -> CostModel | None:
    sized = [(_size(d), float(d["cost_core_hours"])) for d in labels if _size(d)][:FORECAST_RUNS]
    try:
        return fit_costs([s[0] for s, _ in sized], [s[1] for s, _ in sized], [hours for _, hours in sized])
    except InputError:
        return None
