"""Documents of ``trajectories``: one NpT run of one candidate at one temperature."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from aqvolt_flows.schemas.base import Document
from aqvolt_flows.schemas.provenance import ArtifactRef, Failure, Protocol


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
    timestep_fs: float
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
    corrections: list[str] = Field(default_factory=list, description="What custodian corrected in AIMD runs.")
    core_hours: float | None = Field(default=None, description="Cores × time of the AIMD segments, as VASP counts.")
    restart: ArtifactRef | None = Field(
        default=None, description="State from which a running AIMD trajectory continues."
    )
