"""How fast lithium diffuses in a trajectory, and what the trajectory is too short to tell.

The mean squared displacement and its slope are those of pymatgen-analysis-diffusion's ``DiffusionAnalyzer`` (the
paper's, section 2.4), the interval is that of kinisi's Bayesian regression (McCluskey et al., J. Chem. Theory Comput.
21, 79 (2025), DOI 10.1021/acs.jctc.4c01249). What neither says is when there is nothing to measure: ions that only
vibrate have a slope, too. One effective hop of length a by one of N ions in a time t is D = a²/(6 N t), the detection
limit.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element, Lattice, Structure

from aqvolt_flows.errors import InputError

#: DiffusionAnalyzer replaces slopes below 1e-15 Å²/fs by that, which is this D, cm²/s.
FLOOR_CM2_S = 1e-15 / 60
#: 1 cm²/s in Å²/fs.
_A2_FS = 10.0
#: Lags of kinisi's regression, and the first of them as a share of the trajectory.
_LAGS, _FIRST_LAG = 50, 0.05
#: Monte Carlo samples and burn-in of each of its 32 walkers.
_SAMPLES, _BURN = 300, 150
_TAILS = (2.5, 97.5)


@dataclass(frozen=True, eq=False)
class Track:
    """A trajectory in equilibrium.

    Attributes
    ----------
    numbers
        (n,), atomic numbers.
    positions
        (k, n, 3), Å; wrapped or not.
    cells
        (k, 3, 3), rows are vectors, Å.
    frame_fs
        Time between frames.
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cells: NDArray[np.float64]
    frame_fs: float

    @property
    def duration_fs(self) -> float:
        """Time from the first to the last frame."""
        return (len(self.positions) - 1) * self.frame_fs

    @property
    def mobile(self) -> NDArray[np.bool_]:
        """Which atoms are lithium, (n,)."""
        return self.numbers == 3

    @cached_property
    def structure(self) -> Structure:
        """The first frame in the mean cell."""
        fractional = self.positions[0] @ np.linalg.inv(self.cells[0])
        return Structure(Lattice(self.cells.mean(axis=0)), [Element.from_Z(int(z)) for z in self.numbers], fractional)

    @cached_property
    def displacements(self) -> NDArray[np.float64]:
        """Displacements from the first frame, (n, k, 3), Å, unwrapped, without the framework's drift.

        As ``DiffusionAnalyzer.from_structures`` has them: steps of fractional coordinates to the nearest image, summed,
        in the cell of each frame. An atom must move less than half a cell between frames.
        """
        fractional = np.einsum("kni,kij->knj", self.positions, np.linalg.inv(self.cells))
        steps = np.diff(fractional, axis=0, prepend=fractional[:1])
        moved = np.einsum("kni,kij->nkj", np.cumsum(steps - np.round(steps), axis=0), self.cells)
        drift: NDArray[np.float64] = moved[~self.mobile].mean(axis=0)
        return moved - drift


@dataclass(frozen=True)
class Diffusion:
    """Diffusion of lithium at one temperature, over one run or several.

    Attributes
    ----------
    d_cm2_s
        Mean of the runs' diffusion coefficients.
    interval_cm2_s
        Of 95 %, kinisi's, of all runs together; None where nothing is resolved: its model is that of ions that move.
    draws_cm2_s
        Draws from kinisi's posterior.
    each_cm2_s
        One per run.
    floored
        Runs at the analyzer's floor.
    hops
        Effective hops of all runs, 6 N D t / a².
    limit_cm2_s
        D of one effective hop.
    upper_cm2_s
        D that so few hops exclude with 97.5 % (:func:`upper_hops`).
    resolved
        Whether D is a measurement.
    volume_a3, n_li
        Mean volume of the cell, and lithium in it.
    time_ps
        Summed over the runs.
    """

    d_cm2_s: float
    interval_cm2_s: tuple[float, float] | None
    draws_cm2_s: tuple[float, ...]
    each_cm2_s: tuple[float, ...]
    floored: int
    hops: float
    limit_cm2_s: float
    upper_cm2_s: float
    resolved: bool
    volume_a3: float
    n_li: int
    time_ps: float

    def conductivity(self, d_cm2_s: float, temperature_k: float) -> float:
        """Return the Nernst–Einstein conductivity of a diffusion coefficient in this cell, mS/cm."""
        return nernst_einstein(d_cm2_s, self.n_li, self.volume_a3, temperature_k)


def nernst_einstein(d_cm2_s: float, n_ions: int, volume_a3: float, temperature_k: float) -> float:
    """Return σ = n e² D / kT of ions of charge one without correlation (Haven ratio 1), mS/cm.

    ``pymatgen.analysis.diffusion``'s ``get_conversion_factor`` for lithium.
    """
    from scipy.constants import e, k

    per_m3 = n_ions / (volume_a3 * 1e-30)
    return float(per_m3 * e**2 * d_cm2_s * 1e-4 / (k * temperature_k) * 10)  # S/m → mS/cm


def detection_limit(n_ions: int, time_ps: float, hop_length_a: float) -> float:
    """Return the D of one hop by one of the ions in the time, a²/(6 N t), cm²/s."""
    return hop_length_a**2 / (6 * n_ions * 1000 * time_ps) / _A2_FS


def upper_hops(hops: float) -> float:
    """Return the number of expected hops that seeing at most ``hops`` excludes with 97.5 %.

    The limit of a Poisson variable, χ²(0.975; 2 n + 2)/2 (Garwood, Biometrika 28, 437 (1936)): 3.7 where none was seen.
    """
    from scipy.stats import chi2

    return float(chi2.ppf(0.975, 2 * max(hops, 0.0) + 2) / 2)


def check_track(track: Track) -> None:
    """Raise unless lithium and a framework are there.

    Raises
    ------
    InputError
        No lithium, or nothing else.
    """
    if not track.mobile.any():
        raise InputError("There is no Li in it; its conductivity of lithium is not defined.")
    if track.mobile.all():
        raise InputError(
            "It is lithium alone: without a framework there is nothing that Li moves against, and it is a metal."
        )


def analyzer_of(track: Track, temperature_k: float) -> Any:
    """Return pymatgen's ``DiffusionAnalyzer`` of a track, MSD averaged over all time origins.

    Raises
    ------
    InputError
        As :func:`check_track`, or if it is too short: lags go from 1 ps to N/30 of the trajectory.
    """
    from pymatgen.analysis.diffusion.analyzer import DiffusionAnalyzer

    check_track(track)
    try:
        return DiffusionAnalyzer(
            track.structure,
            track.displacements,
            "Li",
            temperature_k,
            track.frame_fs,  # type: ignore[arg-type]  # any number does
            1,
            smoothed="max",
            lattices=track.cells,
        )
    except ValueError as error:
        raise InputError(
            f"{len(track.positions)} frames of {int(track.mobile.sum())} Li are too few for a diffusion coefficient "
            f"({error}); run longer or in a larger cell."
        ) from None


def diffusion_of(
    tracks: Sequence[Track],
    temperature_k: float,
    hop_length_a: float,
    least_hops: float,
    seed: int = 0,
    analyzers: Sequence[Any] | None = None,
) -> Diffusion:
    """Return the diffusion of lithium in runs of one composition at one temperature.

    Parameters
    ----------
    tracks
        The runs: other seeds, other orderings.
    temperature_k
        Of the runs.
    hop_length_a, least_hops
        What an effective hop is, and how many make a measurement.
    seed
        Of kinisi's Monte Carlo sampling.
    analyzers
        Of :func:`analyzer_of`, where they are there already.

    Raises
    ------
    InputError
        If there is no run, or as :func:`analyzer_of`.
    """
    if not tracks:
        raise InputError("There is no run to take a diffusion coefficient from.")
    made = [analyzer_of(t, temperature_k) for t in tracks] if analyzers is None else analyzers
    each = [float(a.diffusivity) for a in made]
    floored = sum(d <= FLOOR_CM2_S * (1 + 1e-9) for d in each)
    n_li = [int(t.mobile.sum()) for t in tracks]
    ion_ps = sum(n * t.duration_fs / 1000 for n, t in zip(n_li, tracks, strict=True))
    weights = np.array([n * t.duration_fs for n, t in zip(n_li, tracks, strict=True)])
    d = float(np.average(each, weights=weights))
    limit = detection_limit(1, ion_ps, hop_length_a)
    hops = d / limit
    resolved = hops >= least_hops and floored < len(each)
    draws = posterior(tracks, seed) if resolved else np.empty(0)
    interval = tuple(float(v) for v in np.percentile(draws, _TAILS)) if len(draws) else None
    return Diffusion(
        d_cm2_s=d,
        interval_cm2_s=interval,  # type: ignore[arg-type]  # two percentiles
        draws_cm2_s=tuple(draws.tolist()),
        each_cm2_s=tuple(each),
        floored=floored,
        hops=hops,
        limit_cm2_s=limit,
        upper_cm2_s=limit * upper_hops(hops),
        resolved=resolved,
        volume_a3=float(np.mean([np.abs(np.linalg.det(t.cells)).mean() for t in tracks])),
        n_li=round(float(np.mean(n_li))),
        time_ps=sum(t.duration_fs for t in tracks) / 1000,
    )


def posterior(tracks: Sequence[Track], seed: int = 0) -> NDArray[np.float64]:
    """Return draws of D (cm²/s) from kinisi's posterior of all runs together; none where the MSD has no spread.

    The ions of all runs are one ensemble. Lags go from a twentieth to the whole of the shortest run.
    """
    shortest = min(len(t.positions) for t in tracks)
    first = max(1, round(_FIRST_LAG * shortest))
    lags = np.unique(np.linspace(first, shortest - 1, _LAGS).astype(int))
    mean, variance, samples = _squared(tracks, lags, shortest)
    if not (variance > 0).all():
        return np.empty(0)
    import scipp as sc
    from kinisi.diffusion import Diffusion as Regression

    data = sc.DataArray(
        data=sc.Variable(dims=["time interval"], values=mean, variances=variance, unit="angstrom^2"),
        coords={
            "time interval": sc.array(dims=["time interval"], values=lags * tracks[0].frame_fs, unit="fs"),
            "n_samples": sc.array(dims=["time interval"], values=samples),
        },
    )
    regression = Regression(sc.DataGroup({"da": data, "dimensionality": sc.scalar(3)}))
    before = np.random.get_state()  # noqa: NPY002 - kinisi and emcee draw from the global generator
    try:
        np.random.seed(seed % 2**32)  # noqa: NPY002
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its covariance, about convergence of a matrix that is only conditioned
            regression.bayesian_regression(
                start_dt=sc.scalar(float(lags[0] * tracks[0].frame_fs), unit="fs"),
                progress=False,
                n_samples=_SAMPLES,
                n_burn=_BURN,
            )
    finally:
        np.random.set_state(before)  # noqa: NPY002
    return np.asarray(regression.gradient.values, dtype=float) / 6 / _A2_FS


def _squared(
    tracks: Sequence[Track], lags: NDArray[np.int64], shortest: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return mean squared displacements, their variances and numbers of independent samples, as kinisi counts them."""
    moved = [t.displacements[t.mobile] for t in tracks]
    ions = sum(len(m) for m in moved)
    mean, variance, samples = [], [], []
    for lag in lags:
        squared = np.concatenate([((m[:, lag:] - m[:, :-lag]) ** 2).sum(-1).ravel() for m in moved])
        n = ions * (shortest - 1) / lag
        mean.append(squared.mean())
        variance.append(squared.var(ddof=1) / n if len(squared) > 1 else 0.0)
        samples.append(n)
    return np.array(mean), np.array(variance), np.array(samples)


@dataclass(frozen=True)
class Framework:
    """What the atoms that are not lithium did.

    Attributes
    ----------
    rms_a
        Element → root mean square displacement over the last tenth of the run, Å.
    hops
        Element → effective hops from the slope of its mean squared displacement.
    largest_a
        Largest displacement of any of its atoms, ``DiffusionAnalyzer.max_framework_displacement``, Å.
    state
        ``solid``; ``molten``: every element has left its sites; ``broken``: at least one diffuses.
    """

    rms_a: dict[str, float]
    hops: dict[str, float]
    largest_a: float
    state: str


def framework_of(
    track: Track, analyzer: Any, molten_rms_a: float, broken_rms_a: float, hop_length_a: float, least_hops: float
) -> Framework:
    """Return whether the framework of a run is still the crystal's.

    Groups that turn, PS4 or AlH4, carry their outer atoms by twice the length of a bond and no further, while the atom
    in their center stays. So a cell is called molten only where the element that moved least has moved by more than
    ``molten_rms_a``, and broken where an element has moved by more than ``broken_rms_a`` and is still moving: its mean
    squared displacement grows by at least ``least_hops`` effective hops.

    Parameters
    ----------
    track, analyzer
        The run.
    molten_rms_a, broken_rms_a, hop_length_a, least_hops
        Limits.
    """
    from pymatgen.analysis.diffusion.analyzer import get_diffusivity_from_msd

    tail = max(1, len(track.positions) // 10)
    squared = (track.displacements[:, -tail:] ** 2).sum(-1).mean(axis=1)
    rms, hops = {}, {}
    for z in sorted(set(track.numbers[~track.mobile].tolist())):
        chosen = track.numbers == z
        name = Element.from_Z(int(z)).symbol
        rms[name] = math.sqrt(float(squared[chosen].mean()))
        slope, _ = get_diffusivity_from_msd(analyzer.sq_disp_ions[chosen].mean(axis=0), analyzer.dt, "max")
        hops[name] = float(slope) / detection_limit(int(chosen.sum()), track.duration_fs / 1000, hop_length_a)
    state = "solid"
    if any(rms[x] > broken_rms_a and hops[x] >= least_hops for x in rms):
        state = "broken"
    if min(rms.values()) > molten_rms_a:
        state = "molten"
    return Framework(rms, hops, float(analyzer.max_framework_displacement), state)
