"""What a trajectory's document tells of its production."""

from __future__ import annotations

from dataclasses import dataclass

from aqvolt_flows.dynamics.averages import temperature_error, temperature_variance
from aqvolt_flows.dynamics.segments import Ended
from aqvolt_flows.schemas.parameters import ExplorationParameters
from aqvolt_flows.units import ev_per_a3_to_gpa


@dataclass(frozen=True)
class Means:
    """Means over the frames of the production, and their standard errors; None where there are too few.

    Attributes
    ----------
    temperature, temperature_error
        K.
    volume, volume_error
        Of the cell, Å³.
    pressure, pressure_error
        GPa, kinetic part included.
    """

    temperature: float | None
    temperature_error: float | None
    volume: float | None
    volume_error: float | None
    pressure: float | None
    pressure_error: float | None


def production_means(ended: Ended, parameters: ExplorationParameters) -> Means:
    """Return the means of a trajectory that has ended."""
    seen, outcome = ended.statistics, ended.outcome
    n_atoms, target = len(outcome.system.atoms), outcome.system.temperature_k
    temperature, error = seen.mean("temperature", temperature_variance(n_atoms, target))
    duration = (outcome.steps_done - parameters.equilibration_steps) * parameters.timestep_fs
    error = temperature_error(error, n_atoms, target, parameters.thermostat_tau_fs, duration)
    pressure, pressure_error = (None if v is None else ev_per_a3_to_gpa(v) for v in seen.mean("pressure"))
    return Means(temperature, error, *seen.mean("volume"), pressure, pressure_error)
