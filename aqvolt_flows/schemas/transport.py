"""Parameters of the benchmarks that run molecular dynamics: the heating ramp and the conductivity of lithium."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from aqvolt_flows.schemas.base import Parameters
from aqvolt_flows.schemas.parameters import ExplorationParameters, Strictly, Temperature

_OURS = "The paper does not say; this value is our choice."


class MDParameters(Parameters):
    """What both share."""

    timestep_fs: float = Field(default=1.0, gt=0, le=10)
    pressure_gpa: float = Field(default=1e-4, ge=-100, le=1000, allow_inf_nan=False, description="1 bar (2.4).")
    ensemble: Literal["npt_nose_hoover_isotropic", "npt_crescale_isotropic", "npt_crescale_full"] = Field(
        default="npt_crescale_isotropic", description=_OURS
    )
    thermostat_tau_fs: Strictly = Field(default=100.0, description=_OURS)
    barostat_tau_fs: Strictly = Field(default=1000.0, description=_OURS)
    min_length_a: float = Field(default=8.0, ge=0, le=100, description="Supercells with every vector at least this.")
    seed: int = Field(default=0, ge=0)
    max_batch_atoms: PositiveInt = Field(
        default=16_384, description="Atoms integrated together; fewer where the device's memory holds fewer."
    )
    checkpoint_steps: PositiveInt = Field(default=1000, description="Steps between checkpoints.")
    max_seconds: float | None = Field(
        default=None, gt=0, description="What has not ended by then is interrupted; none: no limit."
    )

    def dynamics(
        self, temperatures_k: list[float], n_steps: int, stride: int, **limits: object
    ) -> ExplorationParameters:
        """Return the parameters of the shared dynamics."""
        return ExplorationParameters(
            temperatures_k=temperatures_k,
            n_steps=n_steps,
            stride=stride,
            timestep_fs=self.timestep_fs,
            pressure_gpa=self.pressure_gpa,
            ensemble=self.ensemble,
            thermostat_tau_fs=self.thermostat_tau_fs,
            barostat_tau_fs=self.barostat_tau_fs,
            max_batch_atoms=self.max_batch_atoms,
            checkpoint_steps=self.checkpoint_steps,
            **limits,  # type: ignore[arg-type]  # each is checked when the model is built
        )


class HeatingParameters(MDParameters):
    """The heating ramp (section 2.4, Figure 6)."""

    first_temperature_k: Temperature = 300.0
    last_temperature_k: Temperature = 2100.0
    duration_ps: Strictly = 50.0
    seeds: PositiveInt = Field(default=3, le=100, description="Independent runs of a structure.")
    max_volume_change: Strictly = Field(default=0.5, description="|V/V₀ − 1| above it is a failure.")
    lost_atom_cutoff_a: Strictly = Field(
        default=6.0, le=20, description=f"An atom with no other atom or image within this, Å, is lost. {_OURS}"
    )
    resamples: PositiveInt = Field(default=1000, description="Of the bootstrap over structures.")

    @model_validator(mode="after")
    def _goes_up(self) -> HeatingParameters:
        if self.last_temperature_k <= self.first_temperature_k:
            raise ValueError(
                f"the ramp goes from {self.first_temperature_k:g} to {self.last_temperature_k:g} K; it must go up"
            )
        if self.n_steps < 10:
            raise ValueError(f"{self.duration_ps:g} ps are {self.n_steps} steps; expected at least 10")
        return self

    @property
    def n_steps(self) -> int:
        """Steps of a whole ramp."""
        return round(1000 * self.duration_ps / self.timestep_fs)

    def temperature_at(self, step: int) -> float:
        """Return the target temperature after a number of steps, K."""
        span = self.last_temperature_k - self.first_temperature_k
        return self.first_temperature_k + span * min(step / self.n_steps, 1.0)


class ConductivityParameters(MDParameters):
    """Conductivity of lithium by molecular dynamics (section 2.4, Tables S3 and S4)."""

    temperatures_k: list[Temperature] = Field(
        default=[300.0, 400.0, 500.0, 600.0, 700.0],
        min_length=1,
        description="The paper's; 700-1200 K resolve slower ions. Below three, nothing is extrapolated.",
    )
    target_temperature_k: Temperature = Field(default=300.0, description="Where the conductivity is asked for.")
    duration_ps: Strictly = Field(default=110.0, description="The paper's least.")
    dropped_ps: float = Field(default=10.0, ge=0, allow_inf_nan=False, description="Start that is not analyzed (2.4).")
    orderings: PositiveInt = Field(
        default=3, le=100, description=f"Of a structure with partial occupancy, at constant composition. {_OURS}"
    )
    replicas: PositiveInt = Field(default=1, le=100, description=f"Runs with other seeds of every ordering. {_OURS}")
    max_cell_atoms: PositiveInt = Field(
        default=400, description=f"A supercell grows up to this to hold a whole number of every ion. {_OURS}"
    )
    frame_ps: Strictly = Field(default=0.1, description=f"Time between the frames that are analyzed. {_OURS}")
    hop_length_a: Strictly = Field(default=3.0, description=f"Length of an effective hop, Å. {_OURS}")
    least_hops: Strictly = Field(default=10.0, description=f"Fewer effective hops are no measurement. {_OURS}")
    least_temperatures: int = Field(default=3, ge=2, description=f"Resolved temperatures of an Arrhenius fit. {_OURS}")
    molten_rms_a: Strictly = Field(
        default=1.5, description=f"Every framework element moved farther than this, RMS: molten. {_OURS}"
    )
    broken_rms_a: Strictly = Field(
        default=3.5, description=f"A framework element moved farther than this and diffuses: broken. {_OURS}"
    )

    @model_validator(mode="after")
    def _something_is_left(self) -> ConductivityParameters:
        if self.dropped_ps >= self.duration_ps:
            raise ValueError(
                f"dropped_ps = {self.dropped_ps:g} leaves nothing of duration_ps = {self.duration_ps:g}; drop less"
            )
        frames = (self.duration_ps - self.dropped_ps) / self.frame_ps
        if frames < 20:
            raise ValueError(
                f"{self.duration_ps - self.dropped_ps:g} ps at a frame per {self.frame_ps:g} ps are {frames:.0f} "
                "frames; expected at least 20"
            )
        if len(set(self.temperatures_k)) < len(self.temperatures_k):
            raise ValueError(f"temperatures_k = {self.temperatures_k} names one twice; use replicas instead")
        return self

    @property
    def stride(self) -> int:
        """Steps between frames."""
        return max(1, round(1000 * self.frame_ps / self.timestep_fs))

    @property
    def n_steps(self) -> int:
        """Steps of a run, a whole number of frames."""
        return self.stride * max(1, round(1000 * self.duration_ps / self.timestep_fs / self.stride))
