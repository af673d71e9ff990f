"""What labels will cost: core-hours of finished runs by atoms and electrons, and how far off such a forecast is.

The cost of a static grows as a power of its size, from N² where the plane waves of each band dominate to N³ where
orthogonalisation does (Kresse and Furthmüller, Phys. Rev. B 54, 11169 (1996), section III), so

    ln(core-hours) = a + b ln(atoms) + c ln(valence electrons)

is fitted by least squares to the finished runs. Atoms and electrons say nearly the same in one chemistry; of the
models with none, one or both of them that is taken which best predicts runs left out (leave-one-out residuals
r/(1 - h) with the hat matrix's diagonal h; Allen, Technometrics 16, 125 (1974)). Back from logarithms, a mean is
restored with Duan's smearing factor, the mean of exp(r) (J. Am. Stat. Assoc. 78, 605 (1983)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aqvolt_flows.errors import InputError

#: Runs that a slope needs: one predictor, two.
_RUNS_NEEDED = {0: 1, 1: 4, 2: 8}
_MODELS: tuple[tuple[str, ...], ...] = ((), ("electrons",), ("atoms",), ("atoms", "electrons"))
_BOOTSTRAPS = 200
#: A bootstrap draw must spread over sizes at least this share of what all runs do, or its slope says nothing.
_LEAST_SPREAD = 0.1
#: Logarithms of core-hours are cut here, so that even a senseless extrapolation stays a number.
_LARGEST_LOG = 150.0
_NOBLE = (0, 2, 10, 18, 36, 54, 86)


@dataclass(frozen=True)
class Forecast:
    """What a number of runs will cost.

    Attributes
    ----------
    core_hours
        Their sum.
    error
        Standard deviation of that sum, core-hours: how uncertain the fit is (bootstrap over the runs) and how much
        single runs scatter. None if there are too few runs to tell (fewer than three).
    units
        Runs that were forecast.
    """

    core_hours: float
    error: float | None
    units: int


@dataclass(frozen=True)
class CostModel:
    """Core-hours of one run by its size.

    Attributes
    ----------
    predictors
        ``electrons``, ``atoms``, both or none.
    coefficients
        Intercept, then one exponent for each predictor.
    smearing
        Duan's factor.
    runs
        Finished runs behind it.
    factor
        A left-out run cost typically this times more or less than predicted; None for fewer than three runs.
    """

    predictors: tuple[str, ...]
    coefficients: tuple[float, ...]
    smearing: float
    runs: int
    factor: float | None
    _bootstrap: tuple[tuple[float, ...], ...] = ()
    _scatter: float = 0.0

    def predict(self, atoms: float, electrons: float) -> float:
        """Return the expected core-hours of one run."""
        return float(self._predict(np.asarray(self.coefficients), self.smearing, np.array([[atoms, electrons]]))[0])

    def _predict(self, coefficients: np.ndarray, smearing: float, sizes: np.ndarray) -> np.ndarray:
        logs = _design(self.predictors, sizes) @ coefficients
        return np.exp(np.clip(logs, -_LARGEST_LOG, _LARGEST_LOG)) * smearing

    def total(self, groups: Mapping[tuple[int, int], int]) -> Forecast:
        """Return the forecast of many runs.

        Parameters
        ----------
        groups
            (atoms, electrons) → number of runs of this size.
        """
        units = sum(groups.values())
        if not units:
            return Forecast(0.0, 0.0, 0)
        sizes = np.array(list(groups), dtype=float)
        numbers = np.array(list(groups.values()), dtype=float)
        each = self._predict(np.asarray(self.coefficients), self.smearing, sizes)
        total = float(numbers @ each)
        if not self._bootstrap:
            return Forecast(total, None, units)
        sums = [numbers @ self._predict(np.asarray(row[1:]), row[0], sizes) for row in self._bootstrap]
        error = float(np.sqrt(np.var(sums) + self._scatter**2 * (numbers @ each**2)))
        return Forecast(total, error, units)


def fit_costs(atoms: Sequence[int], electrons: Sequence[int], core_hours: Sequence[float], seed: int = 0) -> CostModel:
    """Return the model that predicts left-out runs best.

    Parameters
    ----------
    atoms, electrons
        Of each finished run; electrons as :func:`valence_electrons` counts them.
    core_hours
        What each took, whatever its outcome: the failed ones of a campaign cost, too.
    seed
        Of the bootstrap.

    Raises
    ------
    InputError
        If there is no run, or one took no time.
    """
    sizes = np.array([atoms, electrons], dtype=float).T
    hours = np.asarray(core_hours, dtype=float)
    if not len(hours):
        raise InputError("No labeling run has finished yet; there is nothing to forecast from: run a first few.")
    if not (np.all(hours > 0) and np.all(sizes > 0)):
        raise InputError("A run with no atoms or no core-hours was given; expected positive numbers, leave it out.")
    logs = np.log(hours)
    best: tuple[float, tuple[str, ...]] | None = None
    for predictors in _MODELS:
        design = _design(predictors, sizes)
        if len(hours) < _RUNS_NEEDED[len(predictors)] or np.linalg.matrix_rank(design) < design.shape[1]:
            continue
        error = _left_out(design, logs)
        if best is None or error < best[0] - 1e-9:  # the simpler one wins a tie
            best = error, predictors
    assert best is not None, "the model without predictors fits any run"
    error, predictors = best
    design = _design(predictors, sizes)
    coefficients, smearing, residuals = _fit(design, logs)
    few = len(hours) < 3
    rows = [] if few else _resampled(design, logs, np.random.default_rng(seed))
    scatter = 0.0 if few else float(np.std(np.exp(residuals)) / smearing)
    factor = None if few else float(np.exp(error))
    return CostModel(predictors, tuple(map(float, coefficients)), smearing, len(hours), factor, tuple(rows), scatter)


def _design(predictors: tuple[str, ...], sizes: np.ndarray) -> np.ndarray:
    columns = {"atoms": 0, "electrons": 1}
    return np.column_stack([np.ones(len(sizes)), *(np.log(sizes[:, columns[p]]) for p in predictors)])


def _fit(design: np.ndarray, logs: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    coefficients = np.linalg.lstsq(design, logs, rcond=None)[0]
    residuals = logs - design @ coefficients
    return coefficients, float(np.mean(np.exp(residuals))), residuals


def _left_out(design: np.ndarray, logs: np.ndarray) -> float:
    """Return the root mean square of the leave-one-out residuals; infinite where one run alone fixes a slope."""
    if len(logs) == 1:
        return float("inf")
    hat = np.einsum("ij,ji->i", design, np.linalg.pinv(design))
    if np.any(hat > 1 - 1e-9):
        return float("inf")
    residuals = _fit(design, logs)[2] / (1 - hat)
    return float(np.sqrt(np.mean(residuals**2)))


def _resampled(design: np.ndarray, logs: np.ndarray, rng: np.random.Generator) -> list[tuple[float, ...]]:
    """Return (smearing, coefficients …) of fits to runs drawn with replacement."""
    rows: list[tuple[float, ...]] = []
    enough = _LEAST_SPREAD * _spread(design)
    while len(rows) < _BOOTSTRAPS:
        drawn = rng.integers(0, len(logs), len(logs))
        if np.linalg.matrix_rank(design[drawn]) < design.shape[1] or _spread(design[drawn]) < enough:
            drawn = np.arange(len(logs))
        coefficients, smearing, _ = _fit(design[drawn], logs[drawn])
        rows.append((smearing, *map(float, coefficients)))
    return rows


def _spread(design: np.ndarray) -> float:
    """Return the standard deviation of the sizes in the direction in which they vary least; 0 without predictors."""
    sizes = design[:, 1:] - design[:, 1:].mean(axis=0)
    return float(min(np.linalg.svd(sizes, compute_uv=False), default=0.0)) / len(design) ** 0.5


def valence_electrons(atomic_number: int) -> int:
    """Return the electrons outside the noble-gas core and outside filled d and f shells.

    Counted as the periodic table does (Li 1, Cl 7, Ti 4, Zn 12, I 7, La 3, Hf 4): the same on every machine, with or
    without POTCARs. Semicore states that a POTCAR adds (Li_sv) are left to the fit.
    """
    if not 1 <= atomic_number <= 118:
        raise InputError(f"There is no element of atomic number {atomic_number}; expected 1 to 118.")
    core = max(n for n in _NOBLE if n < atomic_number)
    outside = atomic_number - core
    if core >= 54 and outside > 16:  # behind the filled f shell
        outside -= 14
    if core >= 18 and outside > 12:  # behind the filled d shell
        outside -= 10
    return outside
