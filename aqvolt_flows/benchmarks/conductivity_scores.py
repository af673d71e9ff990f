"""How predicted conductivities compare with measured ones where either may be no more than an upper bound."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from aqvolt_flows.errors import InputError

#: S/cm in mS/cm.
MS_CM = 1000.0
#: A composition that makes more than this share of a mean absolute error is named beside it.
_DOMINATES = 0.3
#: Of materials, for the interval of the mean absolute error.
_RESAMPLES = 1000


@dataclass(frozen=True)
class Known:
    """A conductivity as far as it is known.

    Attributes
    ----------
    ms_cm
        The value, or what it is below, mS/cm; above zero.
    bound
        Whether it is only known to be below.
    """

    ms_cm: float
    bound: bool = False

    @property
    def range(self) -> tuple[float, float]:
        """The values that are possible."""
        return (0.0 if self.bound else self.ms_cm, self.ms_cm)

    def __str__(self) -> str:
        """Return it as tables print it."""
        return f"{'<' if self.bound else ''}{self.ms_cm:.3g}"


@dataclass(frozen=True)
class Pair:
    """One material: predicted, None where nothing can be said, and measured."""

    name: str
    predicted: Known | None
    measured: Known


def read_measured(text: str | float) -> Known:
    """Return an experimental conductivity given in S/cm; ``<1E-10`` is a bound.

    Raises
    ------
    InputError
        If it is no number above zero, or a bound of one.
    """
    plain = str(text).strip()
    bound = plain.startswith("<")
    try:
        value = float(plain.lstrip("<≤= ").strip())
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value <= 0:
        raise InputError(f"The conductivity {text!r} is no number above zero; expected S/cm, such as 1e-6 or <1E-10.")
    return Known(value * MS_CM, bound)


def compare(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return errors, over-estimates and rank correlation, each with its denominator.

    Bounds stay bounds. An error is the least that is compatible with what is known: that of a prediction below an
    experimental bound is zero, whatever it is. Pairs whose order is not known are in no count of over-estimates and in
    no rank correlation.

    Parameters
    ----------
    pairs
        One per material.
    """
    stated = [p for p in pairs if p.predicted is not None]
    numbers = [p for p in stated if p.predicted is not None and not p.predicted.bound]
    exact = [p for p in numbers if not p.measured.bound]
    orders = [overestimate(p) for p in stated]
    logs = [least_log_error(p) for p in stated]
    tau, n_tau = kendall_tau([p.predicted for p in stated if p.predicted], [p.measured for p in stated])
    return {
        "n_materials": len(pairs),
        "n_resolved": len(numbers),
        "n_below": len(stated) - len(numbers),
        "n_not_resolved": len(pairs) - len(stated),
        "n_measured_bounds": sum(p.measured.bound for p in pairs),
        **_mean_error(numbers),
        "n_log10_exact": len(exact),
        "mean_log10_error_exact": _mean([_log_error(p) for p in exact]),
        "median_log10_error_exact": _median([_log_error(p) for p in exact]),
        "mean_log10_error_at_least": _mean(logs),
        "median_log10_error_at_least": _median(logs),
        "n_compatible_bounds": sum(e == 0 and p not in exact for e, p in zip(logs, stated, strict=True)),
        "n_overestimated": sum(o is True for o in orders),
        "n_ordered": sum(o is not None for o in orders),
        "kendall_tau": tau,
        "n_kendall_pairs": n_tau,
    }


def least_error(pair: Pair) -> float:
    """Return the least absolute difference that is compatible with what is known, mS/cm."""
    assert pair.predicted is not None
    (p_low, p_high), (m_low, m_high) = pair.predicted.range, pair.measured.range
    return max(0.0, p_low - m_high, m_low - p_high)


def least_log_error(pair: Pair) -> float:
    """Return the least |log10(predicted / measured)| that is compatible with what is known."""
    assert pair.predicted is not None
    (p_low, p_high), (m_low, m_high) = pair.predicted.range, pair.measured.range
    if p_low > m_high:
        return math.log10(p_low / m_high)
    return math.log10(m_low / p_high) if m_low > p_high else 0.0


def overestimate(pair: Pair) -> bool | None:
    """Return whether the prediction is above the measurement; None where that is not known."""
    return _above(pair.predicted, pair.measured) if pair.predicted is not None else None


def kendall_tau(predicted: Sequence[Known], measured: Sequence[Known]) -> tuple[float | None, int]:
    """Return Kendall's τ over the pairs of materials whose order is known on both sides, and how many these are.

    (concordant − discordant) / (concordant + discordant), Oakes, Biometrics 38, 451 (1982), DOI 10.2307/2530458;
    without bounds and ties it is Kendall's. None where no pair is ordered.
    """
    score = n = 0
    for i in range(len(predicted)):
        for j in range(i):
            a, b = _above(predicted[i], predicted[j]), _above(measured[i], measured[j])
            if a is None or b is None:
                continue
            score += 1 if a == b else -1
            n += 1
    return (score / n if n else None), n


def _above(a: Known, b: Known) -> bool | None:
    (a_low, a_high), (b_low, b_high) = a.range, b.range
    if a_low > b_high or (a_low == b_high and b.bound and not a.bound):
        return True
    if b_low > a_high or (b_low == a_high and a.bound and not b.bound):
        return False
    return None


def _mean_error(numbers: Sequence[Pair]) -> dict[str, Any]:
    """Return the mean absolute error (the paper's measure), its median, and what makes most of the mean."""
    errors = np.array([least_error(p) for p in numbers])
    if not len(errors):
        return {"mae_ms_cm": None, "mae_interval_ms_cm": None, "median_error_ms_cm": None, "mae_dominated_by": []}
    drawn = np.random.default_rng(0).integers(0, len(errors), (_RESAMPLES, len(errors)))
    return {
        "mae_ms_cm": float(errors.mean()),
        "mae_interval_ms_cm": np.percentile(errors[drawn].mean(axis=1), [2.5, 97.5]).tolist(),
        "median_error_ms_cm": float(np.median(errors)),
        "mae_dominated_by": dominating([p.name for p in numbers], errors.tolist()),
    }


def dominating(names: Sequence[str], errors: Sequence[float]) -> list[dict[str, Any]]:
    """Return the materials that make more than 30 % of the sum of absolute errors, with their percentage."""
    total = sum(abs(e) for e in errors)
    shares = [(abs(e) / total, n) for n, e in zip(names, errors, strict=True)] if total else []
    return [{"name": n, "percent": round(100 * s, 1)} for s, n in sorted(shares, reverse=True) if s > _DOMINATES]


def _log_error(pair: Pair) -> float:
    assert pair.predicted is not None
    return abs(math.log10(pair.predicted.ms_cm / pair.measured.ms_cm))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if len(values) else None


@dataclass(frozen=True)
class PaperRow:
    """One row of Table S3 or S4: predictions and errors of both models as printed, mS/cm, and OBELiX's experiment."""

    table: str
    composition: str
    obelix_id: str
    experiment: Known
    tensornet: float
    tensornet_error: float
    esen: float
    esen_error: float


def paper_rows() -> list[PaperRow]:
    """Return the 72 rows of the paper's Tables S3 and S4 (``data/conductivity_paper.csv``)."""
    text = resources.files("aqvolt_flows").joinpath("data/conductivity_paper.csv").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [
        PaperRow(
            r["table"],
            r["composition"],
            r["obelix_id"],
            read_measured(r["experiment_s_cm"]),
            float(r["tensornet_ms_cm"]),
            float(r["tensornet_error_ms_cm"]),
            float(r["esen_ms_cm"]),
            float(r["esen_error_ms_cm"]),
        )
        for r in csv.DictReader(lines)
    ]


def paper_scores() -> list[dict[str, Any]]:
    """Return the paper's mean absolute errors from the rows of its tables, and the materials that make most of them.

    Its errors are taken as printed; they count experimental bounds as values, which :func:`compare` does not.
    """
    rows = paper_rows()
    models: dict[str, Callable[[PaperRow], float]] = {
        "MatPES-TensorNet": lambda r: r.tensornet_error,
        "AQVolt26-MatPES-MPALOE-MP-eSEN-L4": lambda r: r.esen_error,
    }
    found = []
    for table in ("S3", "S4"):
        chosen = [r for r in rows if r.table == table]
        for model, error_of in models.items():
            errors = [error_of(r) for r in chosen]
            found.append(
                {
                    "source": "paper",
                    "table": table,
                    "model": model,
                    "n_materials": len(errors),
                    "mae_ms_cm": float(np.mean(np.abs(errors))),
                    "median_error_ms_cm": float(np.median(np.abs(errors))),
                    "mae_dominated_by": dominating([r.composition for r in chosen], errors),
                    "n_overestimated": sum(e > 0 for e in errors),
                }
            )
    return found
