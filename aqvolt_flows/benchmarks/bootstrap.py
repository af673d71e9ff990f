"""Intervals by bootstrap over candidates: frames of one trajectory are no independent sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from aqvolt_flows.benchmarks.item_errors import ItemErrors

Array = NDArray[np.float64]
#: Two-sided, in percent.
LEVEL = (2.5, 97.5)
#: Numbers of one chunk of draws.
_CHUNK = 2_000_000


def ratio_intervals(above: Array, below: Array, draws: int, seed: int = 0) -> list[tuple[float, float] | None]:
    """Return 95 % percentile intervals of Σabove / Σbelow over resampled groups, one per column.

    Parameters
    ----------
    above, below
        (n_groups, n_statistics): sums per group.
    draws
        Resamples; 0: no intervals.
    seed
        Of the resampling.

    Returns
    -------
    list
        None where there are fewer than two groups with a number, or the ratio is not defined in a draw.
    """
    n, k = above.shape
    if n < 2 or draws < 1:
        return [None] * k
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // n)
    ratios = []
    for first in range(0, draws, step):
        counts = rng.multinomial(n, np.full(n, 1.0 / n), size=min(step, draws - first)).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios.append((counts @ above) / (counts @ below))
    values = np.concatenate(ratios)
    found: list[tuple[float, float] | None] = []
    for column in range(k):
        good = values[np.isfinite(values[:, column]), column]
        several = np.count_nonzero(below[:, column]) > 1
        found.append((float(p[0]), float(p[1])) if several and len(p := np.percentile(good, LEVEL)) else None)
    return found


def mean_interval(rows: Sequence[Mapping[str, Any]], column: str, draws: int = 1000) -> list[float] | None:
    """Return the interval of the mean of a column over resampled candidates; rows without it are left out."""
    sums: dict[str, list[float]] = {}
    for row in rows:
        if row[column] is not None and np.isfinite(row[column]):
            total = sums.setdefault(row.get("group") or row["item_id"], [0.0, 0.0])
            total[0] += row[column]
            total[1] += 1.0
    table = np.array(list(sums.values()), dtype=np.float64).reshape(-1, 2)
    (interval,) = ratio_intervals(table[:, :1], table[:, 1:], draws)
    return None if interval is None else list(interval)


def mae_intervals(items: Sequence[ItemErrors], draws: int) -> dict[str, Any]:
    """Return the intervals of the energies' and forces' MAE over resampled candidates, and how many there are.

    Parameters
    ----------
    items
        Errors; ``group`` names the candidate, a structure without one is its own. Failed ones have no error.
    draws
        Resamples.
    """
    sums: dict[str, list[float]] = {}
    for i in items:
        if i.failure is None and i.energy_error is not None and i.force_mae is not None:
            row = sums.setdefault(i.group or i.item_id, [0.0, 0.0, 0.0, 0.0])
            for at, value in enumerate((abs(i.energy_error), 1.0, i.force_mae * i.n_atoms, float(i.n_atoms))):
                row[at] += value
    table = np.array(list(sums.values()), dtype=np.float64).reshape(-1, 4)
    energy, force = ratio_intervals(table[:, [0, 2]], table[:, [1, 3]], draws)
    return {
        "n_candidates": len(sums),
        "energy_mae_interval_mev_per_atom": None if energy is None else [1e3 * x for x in energy],
        "force_mae_interval_mev_per_a": None if force is None else [1e3 * x for x in force],
    }
