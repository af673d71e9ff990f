"""Training curves on the report page: the loss per stage, and the validation errors per stage and source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aqvolt_flows.figures import plots
from aqvolt_flows.units import EV_PER_A3_IN_GPA

#: Metric → factor and axis label.
ERRORS = {
    "energy_per_atom_mae": (1e3, "energy MAE (meV/atom)"),
    "forces_mae": (1e3, "force MAE (meV/Å)"),
    "stress_mae": (EV_PER_A3_IN_GPA, "stress MAE (GPa)"),
}
Curves = dict[str, tuple[Any, Any]]


def stage_name(stage: Mapping[str, Any], number: int) -> str:
    """Return what a stage of a model's document is called."""
    return str(stage.get("stage") or stage.get("name") or number)


def loss_curves(stages: Sequence[Mapping[str, Any]]) -> Curves:
    """Return stage → (steps, losses) of the stages that recorded losses."""
    curves: Curves = {}
    for number, stage in enumerate(stages, start=1):
        if stage.get("losses"):
            steps, losses = zip(*stage["losses"], strict=True)
            curves[stage_name(stage, number)] = (steps, losses)
    return curves


def error_curves(stages: Sequence[Mapping[str, Any]], metric: str) -> Curves:
    """Return (steps, errors) on the validation split by stage, and by source where there are several.

    Parameters
    ----------
    stages
        Of a model's document.
    metric
        Of :data:`ERRORS`; errors come in the unit of its axis.
    """
    factor = ERRORS[metric][0]
    curves: Curves = {}
    for number, stage in enumerate(stages, start=1):
        for source, metrics in (stage.get("validation") or {}).items():
            points = metrics.get(metric)
            if points:
                name = stage_name(stage, number)
                steps, values = zip(*points, strict=True)
                curves[f"{name}, {source}" if source else name] = (steps, [factor * v for v in values])
    return curves


def figures_of(stages: Sequence[Mapping[str, Any]]) -> list[tuple[str, bytes]]:
    """Return the figures of one model as (what it shows, SVG): losses, then each error that was recorded."""
    figures = []
    losses = loss_curves(stages)
    if losses:
        figures.append(("Training loss", plots.training_curves(losses)))
    for metric, (_, label) in ERRORS.items():
        curves = error_curves(stages, metric)
        if curves:
            figures.append((f"Validation {label}", plots.training_curves(curves, ylabel=f"validation {label}")))
    return figures
