"""From diffusion at several temperatures to the conductivity at one: a number, a bound, or neither."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.benchmarks.transport import Diffusion

_TAILS = (2.5, 97.5)


@dataclass(frozen=True)
class Point:
    """One temperature: what was measured there; None where the cell melted, broke or could not be run."""

    temperature_k: float
    diffusion: Diffusion | None


@dataclass(frozen=True)
class Conductivity:
    """The conductivity at the temperature asked for.

    Attributes
    ----------
    kind
        ``resolved``: a number; ``below``: an upper bound; ``not_resolved``: neither.
    ms_cm
        The number, or the bound, mS/cm.
    interval_ms_cm
        Of 95 %, from the intervals of the temperatures; deviations from the Arrhenius law are not in it.
    activation_ev, activation_error_ev
        Of D, with the fit's standard error.
    temperatures_k
        Those that were used.
    note
        What to know about it, in one sentence; empty if nothing.
    """

    kind: Literal["resolved", "below", "not_resolved"]
    ms_cm: float | None
    interval_ms_cm: tuple[float, float] | None
    activation_ev: float | None
    activation_error_ev: float | None
    temperatures_k: tuple[float, ...]
    note: str

    def __str__(self) -> str:
        """Return it as tables print it."""
        if self.ms_cm is None:
            return "not resolved"
        return f"below {self.ms_cm:.2g}" if self.kind == "below" else f"{self.ms_cm:.3g}"


def conductivity_at(points: Sequence[Point], target_k: float, least_temperatures: int = 3) -> Conductivity:
    """Return the conductivity at a temperature.

    With at least ``least_temperatures`` resolved temperatures it is the Arrhenius extrapolation of their D, converted
    in the mean cell of the temperature nearest to the target (pymatgen-analysis-diffusion's
    ``get_extrapolated_conductivity``). Otherwise D does not fall with temperature, so what a temperature at or above
    the target excludes is excluded at the target, too; the smallest of these is the bound.

    Parameters
    ----------
    points
        One per temperature.
    target_k
        Where the conductivity is asked for.
    least_temperatures
        Resolved temperatures that an extrapolation needs.
    """
    known = [(p.temperature_k, p.diffusion) for p in points if p.diffusion is not None]
    resolved = [(t, d) for t, d in known if d.resolved]
    if len(resolved) >= least_temperatures:
        return _extrapolated(known, resolved, target_k)
    bounds = [(d.conductivity(_upper(d), target_k), t) for t, d in known if t >= target_k - 1e-6]
    said = f"{len(resolved)} of {len(points)} temperatures are resolved; an extrapolation needs {least_temperatures}"
    if not bounds:
        return Conductivity("not_resolved", None, None, None, None, (), said)
    bound, at = min(bounds)
    return Conductivity("below", bound, None, None, None, (at,), f"{said}; the bound is that of {at:g} K")


def _upper(diffusion: Diffusion) -> float:
    if diffusion.resolved and diffusion.interval_cm2_s is not None:
        return max(diffusion.interval_cm2_s[1], diffusion.d_cm2_s)
    return diffusion.upper_cm2_s


def _extrapolated(
    known: Sequence[tuple[float, Diffusion]], resolved: Sequence[tuple[float, Diffusion]], target_k: float
) -> Conductivity:
    from pymatgen.analysis.diffusion.analyzer import fit_arrhenius, get_extrapolated_diffusivity

    temperatures = [t for t, _ in resolved]
    ds = [d.d_cm2_s for _, d in resolved]
    energy, _, error = fit_arrhenius(temperatures, ds) if len(ds) > 2 else (*fit_arrhenius(temperatures, ds)[:2], None)
    _, cell = min(known, key=lambda p: abs(p[0] - target_k))
    value = cell.conductivity(float(get_extrapolated_diffusivity(temperatures, ds, target_k)), target_k)
    interval = None
    if all(d.draws_cm2_s for _, d in resolved):
        drawn = _extrapolated_draws(temperatures, [np.array(d.draws_cm2_s) for _, d in resolved], target_k)
        low, high = np.percentile(drawn, _TAILS)
        interval = (cell.conductivity(float(low), target_k), cell.conductivity(float(high), target_k))
    notes = []
    for t, d in known:
        if not d.resolved and float(get_extrapolated_diffusivity(temperatures, ds, t)) > d.upper_cm2_s:
            notes.append(f"at {t:g} K the fit lies above what was seen there")
    return Conductivity(
        "resolved", value, interval, float(energy), _finite(error), tuple(temperatures), "; ".join(notes)
    )


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None


def _extrapolated_draws(
    temperatures: Sequence[float], draws: Sequence[NDArray[np.float64]], target_k: float
) -> NDArray[np.float64]:
    """Return D at the target for draws of D at every temperature, by least squares of ln D against 1/T.

    Draws of different temperatures come from equal seeds; they are shuffled, so that they are independent.
    """
    n = min(len(d) for d in draws)
    rng = np.random.default_rng(0)
    logs = np.log(np.maximum(np.stack([rng.permutation(d)[:n] for d in draws]), 1e-300))
    inverse = 1 / np.asarray(temperatures)
    slope = ((inverse - inverse.mean())[:, None] * logs).sum(axis=0) / ((inverse - inverse.mean()) ** 2).sum()
    at: NDArray[np.float64] = np.exp(logs.mean(axis=0) + slope * (1 / target_k - inverse.mean()))
    return at
