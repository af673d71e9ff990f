"""Is a doubt worth anything: true errors beside it, as rank correlation, curve and scale."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError

Array = NDArray[np.float64]
#: Atoms below which nothing is said.
LEAST = 8
_BINS = 10


@dataclass(frozen=True)
class Calibration:
    """True force errors beside doubts.

    Attributes
    ----------
    n_atoms, n_frames
        Behind it.
    rank_correlation
        Spearman's, of atoms; None where either does not vary.
    rank_correlation_of_frames
        The same of each frame's largest error and largest doubt.
    scale
        √(Σ error² / Σ doubt²): doubt times this has the errors' root mean square. For Gaussian errors of variance
        (s σ)² it is the maximum-likelihood s. None: not calibrated.
    interval
        95 % of ``scale``, bootstrap over frames.
    curve
        (root mean square of the doubt, of the error, atoms) of tenths of the atoms by doubt, as in Levi et al.,
        arXiv:1905.11659.
    """

    n_atoms: int = 0
    n_frames: int = 0
    rank_correlation: float | None = None
    rank_correlation_of_frames: float | None = None
    scale: float | None = None
    interval: tuple[float, float] | None = None
    curve: list[tuple[float, float, int]] = field(default_factory=list)

    @property
    def calibrated(self) -> bool:
        """Whether there is a scale."""
        return self.scale is not None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, and ``calibrated``, as JSON types."""
        values = asdict(self) | {"calibrated": self.calibrated, "curve": [list(row) for row in self.curve]}
        return values | {"interval": list(self.interval) if self.interval else None}


def calibrate(doubts: list[Array], errors: list[Array], draws: int = 1000, seed: int = 0) -> Calibration:
    """Return how doubts and true errors belong together.

    Parameters
    ----------
    doubts
        Per frame (n_atoms,), as :class:`~aqvolt_flows.loop.doubt.Doubt` has them.
    errors
        Per frame (n_atoms,): |F − F_label|, eV/Å.
    draws, seed
        Of the bootstrap over frames: atoms of a frame are no independent sample.

    Raises
    ------
    InputError
        If frames or atoms do not pair up.
    """
    if [len(d) for d in doubts] != [len(e) for e in errors]:
        raise InputError("Doubts and errors are of different frames or atoms; give both for the same ones, in order.")
    if not doubts:
        return Calibration()
    d, e = np.concatenate(doubts), np.concatenate(errors)
    if len(d) < LEAST or not (np.isfinite(d).all() and np.isfinite(e).all()) or not (d > 0).any():
        return Calibration(len(d), len(doubts))
    tops = [np.array([float(x.max(initial=0.0)) for x in each]) for each in (doubts, errors)]
    sums = np.array([[float((a**2).sum()), float((b**2).sum())] for a, b in zip(doubts, errors, strict=True)])
    scale = float(np.sqrt(sums[:, 1].sum() / sums[:, 0].sum()))
    return Calibration(
        len(d), len(doubts), _rank(d, e), _rank(*tops), scale, _interval(sums, draws, seed), _curve(d, e)
    )


def _rank(a: Array, b: Array) -> float | None:
    from scipy.stats import spearmanr

    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(spearmanr(a, b).statistic)


def _interval(sums: Array, draws: int, seed: int) -> tuple[float, float] | None:
    if len(sums) < 2 or draws < 1:
        return None
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=draws)
    totals = counts @ sums
    found = np.sqrt(totals[:, 1][totals[:, 0] > 0] / totals[:, 0][totals[:, 0] > 0])
    low, high = np.percentile(found, (2.5, 97.5))
    return float(low), float(high)


def _curve(d: Array, e: Array) -> list[tuple[float, float, int]]:
    parts = np.array_split(np.argsort(d, kind="stable"), min(_BINS, len(d) // 4))
    return [(float(np.sqrt((d[p] ** 2).mean())), float(np.sqrt((e[p] ** 2).mean())), len(p)) for p in parts]
