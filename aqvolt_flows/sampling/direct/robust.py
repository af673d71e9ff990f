"""A space that a few wild rows cannot stretch: columns are limited before they are standardized.

One row at 10⁶ among 200 ordinary ones makes the standard deviation of a column 7·10⁴; the ordinary rows then lie within
10⁻⁵ of each other and count as one. Here the moments come from rows whose values are drawn back to limits (winsorized:
Tukey 1962, DOI 10.1214/aoms/1177704711): the central 90 % of each column, widened by its own width on both sides. The
rows themselves are not changed: a wild row lies far out in the space and is a cluster of its own.

The limits need order statistics, which do not add up as moments do. They are taken, with the moments, from a uniform
sample of at most 65,536 rows; samples of several rounds join to one of all their rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.sampling.direct.kernels import compiled
from aqvolt_flows.sampling.direct.space import Moments, Space

Rows = NDArray[np.floating]

#: Rows of a sample; its moments are those of all rows to about 0.5 %.
SAMPLE_ROWS = 65_536
#: Share of the rows on either side of the central part.
TAIL = 0.05


@compiled
def winsorized(rows):  # type: ignore[no-untyped-def]
    """Return rows (n, d) in double precision, each column drawn back to its limits.

    Limits are ``low − (high − low)`` and ``high + (high − low)`` with ``low`` and ``high`` the innermost values with at
    least ``TAIL`` of the rows beyond or at them. A column whose central part has no width is left as it is.
    """
    n, d = rows.shape
    out = rows.astype(np.float64)
    first = min(int(np.ceil(TAIL * n)), (n - 1) // 2)
    for j in range(d):
        ordered = np.sort(out[:, j].copy())
        low, high = ordered[first], ordered[n - 1 - first]
        width = high - low
        if width > 0:
            for i in range(n):
                out[i, j] = min(max(out[i, j], low - width), high + width)
    return out


@dataclass(frozen=True, eq=False)
class RowSample:
    """A uniform sample of rows that went by.

    Attributes
    ----------
    rows
        (s, d), at most ``SAMPLE_ROWS``.
    keys
        (s,), uniform random numbers; those of the sample are the smallest of all rows.
    count
        Rows that went by.
    """

    rows: Rows
    keys: NDArray[np.float64]
    count: int

    @classmethod
    def of(cls, blocks: Iterable[Rows], before: RowSample | None = None) -> RowSample:
        """Return the sample of rows in blocks, and of those that an earlier sample stands for."""
        held = before
        for block, keys in _with_keys(blocks, 0 if before is None else before.count):
            new = cls(block, keys, len(block))
            held = new._smallest() if held is None else held._joined(new)
        if held is None:
            raise ValueError("a sample of no rows")
        return held

    def space(self, weight_components: bool) -> Space:
        """Return the space of the limited rows."""
        moments = Moments.of(winsorized(np.ascontiguousarray(self.rows)))
        exact = Moments.of(self.rows).resolution
        return Space.fit(Moments(moments.count, moments.mean, moments.scatter, exact), weight_components)

    def _joined(self, new: RowSample) -> RowSample:
        if len(self.keys) == SAMPLE_ROWS:  # most rows of a long run are left out at once
            inside = np.flatnonzero(new.keys < self.keys.max())
            new = RowSample(new.rows[inside], new.keys[inside], new.count)
        rows, keys = np.concatenate([self.rows, new.rows]), np.concatenate([self.keys, new.keys])
        return RowSample(rows, keys, self.count + new.count)._smallest()

    def _smallest(self) -> RowSample:
        if len(self.keys) <= SAMPLE_ROWS:
            return self
        kept = np.sort(np.argpartition(self.keys, SAMPLE_ROWS)[:SAMPLE_ROWS])
        return RowSample(self.rows[kept], self.keys[kept], self.count)


def _with_keys(blocks: Iterable[Rows], count: int) -> Iterator[tuple[Rows, NDArray[np.float64]]]:
    """Yield blocks with random numbers that depend on how many rows went by before only."""
    random = np.random.default_rng(count)
    for block in blocks:
        yield block, random.random(len(block))


@dataclass(frozen=True, eq=False)
class Statistics:
    """What a space is fitted from; that of two sets of rows adds up to that of both.

    Attributes
    ----------
    moments
        Of all rows.
    sample
        Of all rows; in place of their moments where columns are limited before they are scaled.
    """

    moments: Moments | None = None
    sample: RowSample | None = None
