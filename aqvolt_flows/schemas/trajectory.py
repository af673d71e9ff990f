"""Documents of ``trajectories``: one NpT run of one candidate at one temperature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from aqvolt_flows.schemas.base import Document
from aqvolt_flows.schemas.provenance import ArtifactRef, Failure, Protocol

_CONFIG = ConfigDict(extra="ignore", protected_namespaces=())


class TrajectoryPart(BaseModel):
    """Steps of an ab-initio run that VASP made in one go, with one time step."""

    model_config = _CONFIG

    first_step: int = Field(description="Number of its first ionic step; the run's first is 1.")
    n_steps: int
    timestep_fs: float = Field(description="POTIM of this part, fs.")
    start_fs: float = Field(description="Time of its first step; the run's first step is at 0 fs.")
    segment: int = Field(description="The launch that it belongs to, from 1.")
    corrections: list[str] = Field(default_factory=list, description="What custodian met before it and corrected.")


class Seam(BaseModel):
    """Where VASP was started again within an ab-initio run."""

    model_config = _CONFIG

    step: int = Field(description="The first step after it.")
    segment: int = Field(description="The launch of that step, from 1.")
    basis: Literal["kept", "made again"] = Field(
        description="Plane waves: those of the run before (ISTART = 2), or those that ENCUT gives for the new cell."
    )
    energy_jump: float | None = Field(
        default=None,
        description="eV/atom of the energy difference to the step before that forces and stress do not explain.",
    )
    energy_scatter: float | None = Field(
        default=None, description="eV/atom, root mean square of the same between neighboring steps that are no seam."
    )
    magnetization_before: float | None = Field(default=None, description="Total of the cell, μB.")
    magnetization_after: float | None = Field(default=None, description="Total of the cell, μB.")


def time_fs(parts: Sequence[TrajectoryPart], step: int) -> float | None:
    """Return the time of a step, fs, or None where it is in no part; the run's first step is at 0 fs."""
    for part in parts:
        if part.first_step <= step < part.first_step + part.n_steps:
            return part.start_fs + (step - part.first_step) * part.timestep_fs
    return None


#: Statuses of trajectories that will not go on.
ENDED = ("completed", "ended_early", "failed")


class TrajectoryDocument(Document):
    """Numbers and a pointer; the frames themselves are Parquet in the artifact store."""

    trajectory_id: str
    candidate_id: str
    formula: str
    chemsys: str
    elements: list[str]
    n_atoms: int = Field(description="Atoms in the simulated supercell.")
    engine: Literal["mlmd", "aimd"]
    model: str = Field(description="Model string, or the protocol's name for AIMD.")
    model_hash: str
    ensemble: str = Field(description="Integrator by name, e.g. npt_nose_hoover_isotropic.")
    temperature_k: float
    pressure_gpa: float
    timestep_fs: float = Field(description="Asked for, fs; what AIMD steps really had is in parts.")
    seed: int
    n_steps: int = Field(description="Steps asked for.")
    steps_done: int = Field(description="Steps made.")
    stride: int = Field(description="Every stride-th step is a frame.")
    n_frames: int
    status: Literal["running", "completed", "ended_early", "failed"] = Field(
        description="ended_early: its physics ended (vaporized, …), the frames before are good."
    )
    failure: Failure | None = Field(default=None, description="Why it ended early; its frames up to there stay.")
    frames: ArtifactRef | None = None
    n_equilibration_frames: int = Field(default=0, description="The first of them, before the production.")
    mean_temperature_k: float | None = Field(default=None, description="K over the frames of the production.")
    mean_temperature_error_k: float | None = Field(default=None, description="Standard error of that mean, K.")
    mean_volume_per_atom: float | None = Field(default=None, description="Å³/atom over the frames of the production.")
    mean_volume_per_atom_error: float | None = Field(default=None, description="Standard error of that mean, Å³/atom.")
    mean_pressure_gpa: float | None = Field(
        default=None, description="GPa over the frames of the production, kinetic part included."
    )
    mean_pressure_error_gpa: float | None = Field(default=None, description="Standard error of that mean, GPa.")
    warnings: list[str] = Field(default_factory=list, description="What to know before its numbers are used.")
    max_force: float | None = Field(default=None, description="Largest |F| of any frame, eV/Å.")
    seconds: float | None = Field(
        default=None, description="Wall time of the batches it was in times its share of atoms."
    )
    segments: int = Field(default=1, description="Launches that it took: 1 and one for each walltime or kill.")
    protocol: Protocol | None = Field(default=None, description="Theory level of every frame (AIMD): each is a label.")
    protocol_id: str | None = Field(default=None, description="Identity of that theory level.")
    steps_unconverged: list[int] = Field(
        default_factory=list, description="AIMD steps that are no frames: their SCF did not converge."
    )
    steps_unread: list[int] = Field(
        default_factory=list, description="AIMD steps that are no frames: VASP was ended before it had written them."
    )
    corrections: list[str] = Field(
        default_factory=list, description="AIMD: what custodian met, and its archives that cannot be read."
    )
    core_hours: float | None = Field(default=None, description="Cores × time of the AIMD segments, as VASP counts.")
    parts: list[TrajectoryPart] = Field(
        default_factory=list, description="AIMD: stretches of steps with their time step and time axis, in order."
    )
    seams: list[Seam] = Field(default_factory=list, description="AIMD: where VASP was started again.")
    duration_fs: float | None = Field(default=None, description="AIMD: sum of the steps made times their time steps.")
    steps_repeated: int = Field(
        default=0, description="AIMD steps that VASP made more than once; they are no frames and no part."
    )
    pressure_removed: bool = Field(
        default=False, description="AIMD: energies are without P·V, stresses without the target pressure."
    )
    restart: ArtifactRef | None = Field(
        default=None, description="State from which a running AIMD trajectory continues."
    )
