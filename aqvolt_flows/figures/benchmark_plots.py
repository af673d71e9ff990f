"""Figures of benchmarks whose rows hold one number a structure: cumulative distributions, one line a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from aqvolt_flows.figures import style
from aqvolt_flows.figures.style import Format

#: Percentiles of all values at which the axis ends, so that a few outliers do not flatten the rest.
ENDS = (2.0, 98.0)


def cumulative(series: Mapping[str, Sequence[float | None]], xlabel: str, format: Format = "svg") -> bytes:
    """Return the cumulative distributions of a quantity (Figures 5 and S6), with the number of structures.

    A steep line is a narrow distribution, and one that ends below 100 % lost structures: the share is of all rows of
    the model, those without a number included.

    Parameters
    ----------
    series
        Model → one value a row, None where there is none.
    xlabel
        Quantity and unit.
    """
    with style.canvas(style.WIDTH, 2.9 + 0.2 * len(series)) as (figure, axes):
        values = {label: _numbers(row) for label, row in series.items()}
        together = np.concatenate([np.empty(0), *values.values()])
        if not len(together):
            style.empty(axes, "no numbers yet")
            return style.render(figure, format)
        for index, (label, x) in enumerate(values.items()):
            share = 100.0 * np.arange(1, len(x) + 1) / max(len(series[label]), 1)
            said = f"{label} ({len(x):,} of {len(series[label]):,})"
            look = {"color": style.color(index), "linestyle": style.DASHES[index % len(style.DASHES)]}
            axes.step(x, share, where="post", label=said, **look)
        low, high = np.percentile(together, ENDS)
        if high > low:
            margin = 0.03 * (high - low)
            axes.set_xlim(low - margin, high + margin)
        axes.set_ylim(0, 103)
        axes.set_xlabel(xlabel)
        axes.set_ylabel("structures below (%)")
        axes.grid()
        figure.legend(loc="outside upper center", ncols=1)
        return style.render(figure, format)


def _numbers(row: Sequence[float | None]) -> np.ndarray:
    """Return the finite numbers, sorted."""
    found = np.array([v for v in row if v is not None], dtype=float)
    return np.sort(found[np.isfinite(found)])
