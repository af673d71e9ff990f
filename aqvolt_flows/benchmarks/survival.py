"""Survival against temperature: the product-limit estimate, its mean, and intervals that resample structures.

Kaplan and Meier, J. Am. Stat. Assoc. 53, 457 (1958), DOI 10.1080/01621459.1958.10501452. The variable is the
temperature of a heating ramp instead of a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError

#: Both tails of an interval of 95 %.
_TAILS = (2.5, 97.5)


@dataclass(frozen=True, eq=False)
class Survival:
    """A step function: the surviving share is 1 before the first temperature, and ``share[i]`` from the i-th on.

    Attributes
    ----------
    temperatures
        (k,), ascending, K: where at least one run failed.
    share
        (k,).
    """

    temperatures: NDArray[np.float64]
    share: NDArray[np.float64]

    def at(self, temperatures: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the surviving share at temperatures (K), failures at that very temperature counted."""
        index = np.searchsorted(self.temperatures, np.asarray(temperatures, dtype=float), side="right")
        return np.concatenate([[1.0], self.share])[index]

    def restricted_mean(self, first: float, last: float) -> float:
        """Return the mean failure temperature with failures above ``last`` counted at ``last``, K.

        It is ``first`` plus the area under the curve between both.
        """
        inside = (self.temperatures > first) & (self.temperatures < last)
        edges = np.concatenate([[first], self.temperatures[inside], [last]])
        return float(first + np.sum(self.at(edges[:-1]) * np.diff(edges)))


def kaplan_meier(ends: NDArray[np.float64], failed: NDArray[np.bool_]) -> Survival:
    """Return the product-limit estimate: the product over failure temperatures of 1 − failures / runs at risk.

    Parameters
    ----------
    ends
        (n,), temperature at which each run ended, K.
    failed
        (n,), whether it failed there; otherwise it is censored, and at risk up to and at that temperature.

    Raises
    ------
    InputError
        If there is no run, or a temperature is not finite.
    """
    ends, failed = np.asarray(ends, dtype=float), np.asarray(failed, dtype=bool)
    if not len(ends):
        raise InputError("There is no run to estimate survival from; expected at least one that was started.")
    if not np.isfinite(ends).all():
        raise InputError("A run ended at a temperature that is not a number; expected kelvin for every run.")
    temperatures, counts = np.unique(ends[failed], return_counts=True)
    at_risk = len(ends) - np.searchsorted(np.sort(ends), temperatures, side="left")
    share: NDArray[np.float64] = np.cumprod(1.0 - counts / at_risk).astype(np.float64)
    return Survival(temperatures.astype(np.float64), share)


@dataclass(frozen=True, eq=False)
class SurvivalTable:
    """Survival at given temperatures with intervals of 95 %.

    Attributes
    ----------
    share, low, high
        (k,), at the temperatures asked for.
    restricted_mean, restricted_mean_low, restricted_mean_high
        See :meth:`Survival.restricted_mean`, K.
    mean_failure, mean_failure_low, mean_failure_high
        Mean temperature of the runs that failed, K; None where none did.
    """

    share: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    restricted_mean: float
    restricted_mean_low: float
    restricted_mean_high: float
    mean_failure: float | None
    mean_failure_low: float | None
    mean_failure_high: float | None


def survival_table(
    ends: NDArray[np.float64],
    failed: NDArray[np.bool_],
    structures: Sequence[str],
    temperatures: Sequence[float],
    limits: tuple[float, float],
    resamples: int = 1000,
    seed: int = 0,
) -> SurvivalTable:
    """Return survival with percentile intervals from resampled structures.

    Runs of one structure with other seeds are no independent sample of structures, so whole structures are drawn with
    replacement, each with all of its runs (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 8).

    Parameters
    ----------
    ends, failed
        See :func:`kaplan_meier`.
    structures
        (n,), which structure each run is of.
    temperatures
        Where the share is asked for, K.
    limits
        First and last temperature of the ramp, K.
    resamples, seed
        Of the bootstrap.

    Raises
    ------
    InputError
        As :func:`kaplan_meier`.
    """
    ends, failed = np.asarray(ends, dtype=float), np.asarray(failed, dtype=bool)
    estimate = kaplan_meier(ends, failed)
    names, index = np.unique(np.asarray(structures), return_inverse=True)
    members = [np.flatnonzero(index == k) for k in range(len(names))]
    rng = np.random.default_rng(seed)
    shares, restricted, means = [], [], []
    for _ in range(resamples):
        rows = np.concatenate([members[k] for k in rng.integers(0, len(names), len(names))])
        drawn = kaplan_meier(ends[rows], failed[rows])
        shares.append(drawn.at(temperatures))
        restricted.append(drawn.restricted_mean(*limits))
        if failed[rows].any():
            means.append(float(ends[rows][failed[rows]].mean()))
    low, high = np.percentile(np.asarray(shares), _TAILS, axis=0)
    restricted_low, restricted_high = np.percentile(restricted, _TAILS)
    mean = float(ends[failed].mean()) if failed.any() else None
    mean_low, mean_high = np.percentile(means, _TAILS) if mean is not None and means else (None, None)
    return SurvivalTable(
        estimate.at(temperatures),
        low,
        high,
        estimate.restricted_mean(*limits),
        float(restricted_low),
        float(restricted_high),
        mean,
        None if mean_low is None else float(mean_low),
        None if mean_high is None else float(mean_high),
    )
