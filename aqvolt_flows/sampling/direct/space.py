"""The space distances are measured in: standardized, rotated to principal components, weighted.

DIRECT (Qi et al., DOI 10.1038/s41524-024-01227-4) standardizes features, keeps the principal components
whose variance exceeds one (Kaiser's rule) and multiplies each by its share of the explained variance,
as its public implementation (maml) does. A threshold is therefore a length in this weighted space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.identity import content_hash

Array = NDArray[np.float64]

#: Rows whose moments are summed at a time.
_PIECE = 2048
#: Columns whose standard deviation is below so many spacings of their numbers are constant.
ROUNDING = 8.0


def resolution_of(rows: NDArray) -> float:
    """Return the relative spacing of the numbers that rows are stored in, as double precision for integers."""
    return float(np.finfo(rows.dtype).eps) if rows.dtype.kind == "f" else float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and scatter matrix of rows; two are added exactly (Chan, Golub and LeVeque 1983).

    Attributes
    ----------
    mean
        (d,).
    scatter
        (d, d), sum of outer products of deviations from the mean.
    resolution
        Relative spacing of the numbers that the rows are stored in.
    """

    count: int
    mean: Array
    scatter: Array
    resolution: float = float(np.finfo(np.float64).eps)

    @classmethod
    def of(cls, rows: NDArray[np.floating]) -> Self:
        """Return the moments of rows (n, d), in double precision.

        Deviations are summed from the mean of the first rows, a shift near enough that little cancels, and in pieces
        that stay in the cache.
        """
        n, d = rows.shape
        shift = np.asarray(rows[:_PIECE], dtype=np.float64).mean(axis=0)
        total, products = np.zeros(d), np.zeros((d, d))
        for first in range(0, n, _PIECE):
            piece = rows[first : first + _PIECE] - shift
            total += piece.sum(axis=0)
            products += piece.T @ piece
        offset = total / n
        return cls(n, shift + offset, products - n * np.outer(offset, offset), resolution_of(rows))

    @property
    def variance(self) -> Array:
        """Population variance of each column, (d,)."""
        return np.asarray(np.diag(self.scatter) / self.count)

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Which columns are constant to rounding, (d,); as scikit-learn's StandardScaler, they are left unscaled.

        Single-precision features of the same frame differ in the last bits from one batch of an encoder to another;
        scaled to unit variance that would be noise as loud as the signal.
        """
        spread = max(10 * np.finfo(float).eps, (ROUNDING * self.resolution) ** 2)
        return np.asarray(self.variance <= spread * np.maximum(self.mean**2, np.finfo(float).tiny), np.bool_)

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows together."""
        count = self.count + other.count
        delta = other.mean - self.mean
        return Moments(
            count,
            self.mean + delta * (other.count / count),
            self.scatter + other.scatter + np.outer(delta, delta) * (self.count * other.count / count),
            max(self.resolution, other.resolution),
        )


@dataclass(frozen=True, eq=False)
class Space:
    """A fitted space.

    Attributes
    ----------
    mean, scale
        (d,), of the standardization.
    components
        (d, n_components), columns are unit vectors, each with its largest entry positive.
    variances, ratios
        (n_components,), explained variance and its share of the total.
    weights
        (n_components,), what each component is multiplied by.
    """

    mean: Array
    scale: Array
    components: Array
    variances: Array
    ratios: Array
    weights: Array

    @classmethod
    def fit(cls, moments: Moments, weight_components: bool = True) -> Self:
        """Return the space of rows with these moments.

        Parameters
        ----------
        moments
            Of all rows; at least one.
        weight_components
            Multiply each component by its share of the explained variance (maml's way).

        Where every feature is constant, all rows are one point of the space: one choice.
        """
        n = moments.count
        variance, constant = moments.variance, moments.constant
        if constant.all():
            return cls._point(moments)
        scale = np.where(constant, 1.0, np.sqrt(np.maximum(variance, 0)))
        scatter = np.where(constant[:, None] | constant[None, :], 0.0, moments.scatter)
        covariance = scatter / np.outer(scale, scale) / max(n - 1, 1)
        values, vectors = np.linalg.eigh(covariance)
        order = np.argsort(values)[::-1]
        values, vectors = np.maximum(values[order], 0), vectors[:, order]
        kept = max(1, int((values > 1).sum()))
        signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
        components = (vectors * np.where(signs == 0, 1, signs))[:, :kept]
        total = values.sum()
        ratios = values[:kept] / total if total > 0 else np.ones(kept)
        return cls(
            mean=moments.mean,
            scale=scale,
            components=components,
            variances=values[:kept],
            ratios=ratios,
            weights=ratios if weight_components else np.ones(kept),
        )

    @classmethod
    def _point(cls, moments: Moments) -> Self:
        """Return a space of one component in which all rows lie at the origin, up to rounding."""
        d = len(moments.mean)
        return cls(moments.mean, np.ones(d), np.eye(d, 1), np.zeros(1), np.ones(1), np.zeros(1))

    def transform(self, rows: NDArray[np.floating]) -> Array:
        """Return rows (n, d) in this space, (n, n_components)."""
        return np.asarray((np.asarray(rows, dtype=np.float64) - self.mean) @ self.projection, dtype=np.float64)

    @property
    def projection(self) -> Array:
        """Matrix (d, n_components) that takes deviations from the mean into this space."""
        return self.components * self.weights / self.scale[:, None]

    def project(self, rows: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return rows (n, d) in this space in single precision, (n, n_components); single stays single on the way."""
        kind = np.float32 if rows.dtype == np.float32 else np.float64
        return ((rows - self.mean.astype(kind)) @ self.projection.astype(kind)).astype(np.float32, copy=False)

    @property
    def hash(self) -> str:
        """Identity of the space, rounded so that it does not depend on the last bits of an eigensolver."""
        return content_hash([np.round(a, 8) for a in (self.mean, self.scale, self.variances, self.weights)])[:24]
