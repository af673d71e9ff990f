"""Means of correlated series and their errors; and how much a small cell fluctuates."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.units import KB_EV_PER_K, gpa_to_ev_per_a3

#: Sokal's window: the sum of the autocorrelation ends at this many correlation times.
_WINDOW = 5.0
#: Fewer values have no error that could be trusted.
_FEWEST = 8
#: A bulk modulus at the soft end of lithium halides, GPa: LiI has 17 (room temperature).
SOFT_BULK_MODULUS_GPA = 17.0
#: Relative fluctuations (standard deviation over mean) above which a cell is called small.
LARGE_FLUCTUATION = 0.2


def mean_and_error(values: NDArray[np.float64], least_variance: float = 0.0) -> tuple[float | None, float | None]:
    """Return the mean of a series and its standard error, from its integrated autocorrelation time.

    The error is σ √(2 τ / n) with τ = 1/2 + Σ ρ(t), the sum ended at the first t ≥ 5 τ (Sokal, *Monte Carlo Methods in
    Statistical Mechanics*, 1996, section 3). For series much shorter than their correlation time it is too small.

    Parameters
    ----------
    values
        (n,), in order and at equal intervals.
    least_variance
        The variance is at least this: a short series has seen too little of it.

    Returns
    -------
    tuple
        Mean, None of no values; error, None of fewer than 8.
    """
    n = len(values)
    if not n:
        return None, None
    mean = float(values.mean())
    if n < _FEWEST:
        return mean, None
    off = values - mean
    size = 1 << (2 * n - 1).bit_length()
    transform = np.fft.rfft(off, size)
    covariance = np.fft.irfft(transform * np.conj(transform), size)[:n] / n
    if covariance[0] <= 0:
        return mean, math.sqrt(least_variance)
    times = 0.5 + np.cumsum(covariance[1:] / covariance[0])
    window = np.flatnonzero(np.arange(1, n) >= _WINDOW * times)
    time = max(0.5, float(times[window[0]] if len(window) else times[-1]))
    variance = max(float(covariance[0]) * n / (n - 1), least_variance)
    return mean, math.sqrt(variance * 2 * time / n)


def temperature_variance(n_atoms: int, temperature_k: float) -> float:
    """Return the variance of the instantaneous temperature in the canonical ensemble, 2 T²/(3N − 3), K²."""
    return 2 * temperature_k**2 / (3 * max(n_atoms, 2) - 3)


def temperature_error(
    error: float | None, n_atoms: int, temperature_k: float, thermostat_tau_fs: float, production_fs: float
) -> float | None:
    """Return the standard error of a mean temperature, not smaller than the thermostat allows.

    A series shorter than a few thermostat times does not show how slowly it varies. In a harmonic crystal half of the
    temperature's variance is that of the total energy (⟨ΔK ΔE⟩²/⟨ΔE²⟩ = ⟨ΔK²⟩/2), and since a thermostat that relaxes
    the kinetic energy in τ relaxes the total energy, twice as large, in 2 τ, the mean over a time t has at least the
    variance σ_T²/2 · 2 (2 τ)/t, up to σ_T².

    Parameters
    ----------
    error
        Of the series, K; None stays None.
    n_atoms, temperature_k
        Of the system; target, K.
    thermostat_tau_fs, production_fs
        τ and t, fs.
    """
    if error is None or production_fs <= 0:
        return error
    least = temperature_variance(n_atoms, temperature_k) * min(1.0, 2 * thermostat_tau_fs / production_fs)
    return max(error, math.sqrt(least))


def expected_fluctuations(n_atoms: int, volume: float, temperature_k: float) -> tuple[float, float]:
    """Return σ_T/T and σ_V/V of a crystal in NpT at equilibrium.

    σ_T/T = √(2/(3N − 3)); σ_V/V = √(kT/(B V)) with the bulk modulus :data:`SOFT_BULK_MODULUS_GPA` (Landau and
    Lifshitz, *Statistical Physics*, § 112).

    Parameters
    ----------
    n_atoms, volume
        Of the cell; Å³.
    temperature_k
        K.
    """
    stiffness = gpa_to_ev_per_a3(SOFT_BULK_MODULUS_GPA) * volume
    return math.sqrt(temperature_variance(n_atoms, 1.0)), math.sqrt(KB_EV_PER_K * temperature_k / stiffness)


def small_cell_warning(n_atoms: int, volume: float, temperature_k: float) -> str | None:
    """Return a sentence where a cell is so small that its fluctuations swamp the physics, else None."""
    of_temperature, of_volume = expected_fluctuations(n_atoms, volume, temperature_k)
    if of_temperature <= LARGE_FLUCTUATION and of_volume <= LARGE_FLUCTUATION:
        return None
    return (
        f"{n_atoms} atoms: temperature and volume fluctuate by {100 * of_temperature:.0f} % and about "
        f"{100 * of_volume:.0f} % in equilibrium, and periodic images move together; set min_length_a (10 Å, say) for "
        "a supercell"
    )
