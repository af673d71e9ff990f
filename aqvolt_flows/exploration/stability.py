"""The physics guard: when a run has left physics, and why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.schemas.parameters import ExplorationParameters
from aqvolt_flows.schemas.provenance import Failure

#: A run hotter than this many times its target, plus 1000 K, has exploded; fluctuations of small cells are far below.
MAX_TEMPERATURE_RATIO = 10.0


@dataclass(frozen=True, eq=False)
class Limits:
    """Limits of one batch of systems; arrays are (n_systems,).

    Attributes
    ----------
    initial_volume
        Å³.
    temperature_k
        Target temperatures.
    """

    initial_volume: NDArray[np.float64]
    temperature_k: NDArray[np.float64]
    max_volume_change: float
    max_force_ev_per_a: float

    @classmethod
    def of(
        cls, parameters: ExplorationParameters, initial_volume: NDArray[np.float64], temperature_k: NDArray[np.float64]
    ) -> Limits:
        """Return the limits that a campaign sets."""
        return cls(initial_volume, temperature_k, parameters.max_volume_change, parameters.max_force_ev_per_a)


def check_batch(
    limits: Limits,
    energy: NDArray[np.float64],
    volume: NDArray[np.float64],
    temperature: NDArray[np.float64],
    max_force: NDArray[np.float64],
) -> dict[int, Failure]:
    """Return the failed systems of a batch with their reasons; all arrays are (n_systems,).

    Parameters
    ----------
    energy
        Potential energy, eV.
    volume
        Å³.
    temperature
        Instantaneous temperature, K.
    max_force
        Largest |F|, eV/Å.
    """
    failures: dict[int, Failure] = {}
    finite = np.isfinite(energy) & np.isfinite(volume) & np.isfinite(temperature) & np.isfinite(max_force)
    change = np.abs(volume / limits.initial_volume - 1)
    for i in np.flatnonzero(~finite):
        failures[int(i)] = Failure(
            reason="not_finite", message="energy, forces, volume or temperature became NaN or infinite"
        )
    for i in np.flatnonzero(finite & (max_force > limits.max_force_ev_per_a)):
        failures[int(i)] = Failure(
            reason="force_limit",
            message=f"|F| reached {max_force[i]:.3g} eV/Å; limit {limits.max_force_ev_per_a:g} eV/Å",
        )
    for i in np.flatnonzero(finite & (change > limits.max_volume_change)):
        failures.setdefault(
            int(i),
            Failure(
                reason="volume_change", message=f"|ΔV|/V₀ reached {change[i]:.2f}; limit {limits.max_volume_change:g}"
            ),
        )
    for i in np.flatnonzero(finite & (temperature > MAX_TEMPERATURE_RATIO * limits.temperature_k + 1000)):
        failures.setdefault(
            int(i),
            Failure(
                reason="temperature_limit",
                message=f"{temperature[i]:.0f} K at a target of {limits.temperature_k[i]:.0f} K",
            ),
        )
    return failures
