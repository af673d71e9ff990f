"""Documents of molecular dynamics and relaxation outside a campaign: what ``NpTMDMaker`` and ``RelaxMaker`` return."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Structure

from aqvolt_flows.errors import ResourceError
from aqvolt_flows.schemas.provenance import Failure, Protocol
from aqvolt_flows.schemas.trajectory import Seam, TrajectoryPart, time_fs

if TYPE_CHECKING:
    from ase import Atoms

    from aqvolt_flows.frames import Frame

#: Numbers of all frames of one document that are also kept in the document itself; about 16 bytes each in MongoDB, so
#: 3.2 MB of the 16 MB that a document may have. Above, frames are in their Parquet files only.
INLINE_NUMBERS = 200_000
#: Atoms of all final structures of one document that are kept in the document; about 300 bytes each in MongoDB.
INLINE_SITES = 10_000

#: Keys that monty adds in a JobStore (``@module`` …) are passed over: ``NpTMDDocument(**store.get_output(uuid))``.
_CONFIG = ConfigDict(extra="ignore", protected_namespaces=())


class FrameColumns(BaseModel):
    """Frames of one trajectory as columns, k rows; the columns of the Parquet file (:mod:`aqvolt_flows.frames`)."""

    model_config = _CONFIG

    atomic_numbers: list[int] = Field(description="(n_atoms,), the same in every frame.")
    step: list[int] = Field(description="(k,), MD step.")
    temperature: list[float] = Field(description="(k,), instantaneous, K.")
    energy: list[float] = Field(description="(k,), potential energy of the cell, eV.")
    positions: list[list[float]] = Field(description="(k, 3 n_atoms), row-major, Å.")
    cell: list[list[float]] = Field(description="(k, 9), rows are lattice vectors, Å.")
    forces: list[list[float]] = Field(description="(k, 3 n_atoms), row-major, eV/Å.")
    stress: list[list[float]] = Field(description="(k, 6), ASE sign and order, eV/Å³.")
    pressure: list[float | None] = Field(description="(k,), kinetic part included, compression positive, eV/Å³.")
    volume: list[float] = Field(description="(k,), Å³.")
    equilibration: list[bool | None] | None = Field(
        default=None, description="(k,), whether before the production; None: not known."
    )


class TrajectoryFrames(BaseModel):
    """Frames of one trajectory: a Parquet file in the job's folder and, where they are few, columns."""

    model_config = _CONFIG

    path: str = Field(description="Parquet file on the machine that ran the job.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the file's bytes.")
    bytes: int = Field(ge=0, description="Size of the file.")
    columns: FrameColumns | None = Field(default=None, description="None where they would make the document large.")


class NpTTrajectory(BaseModel):
    """One NpT run of one structure at one temperature."""

    model_config = _CONFIG

    trajectory_id: str = Field(description="structure-INDEX-TEMPERATUREK; also in the frames.")
    structure_index: int = Field(ge=0, description="Which of the structures given, from 0.")
    formula: str
    n_atoms: int = Field(description="Atoms in the simulated supercell.")
    temperature_k: float = Field(description="Target temperature, K.")
    seed: int = Field(description="Of the initial momenta and the noise.")
    status: Literal["completed", "ended_early", "failed"] = Field(
        description="ended_early: its physics ended (vaporized, …), the frames before are good; failed: did not "
        "run, or its model failed."
    )
    failure: Failure | None = Field(default=None, description="Why it did not run or ended early.")
    steps_done: int = 0
    n_frames: int = 0
    n_equilibration_frames: int = Field(default=0, description="The first of them, before the production.")
    mean_temperature_k: float | None = Field(default=None, description="Over the frames of the production.")
    mean_temperature_error_k: float | None = Field(default=None, description="Standard error of that mean.")
    mean_pressure_gpa: float | None = Field(
        default=None, description="Over the frames of the production, kinetic part included."
    )
    mean_pressure_error_gpa: float | None = Field(default=None, description="Standard error of that mean.")
    mean_volume_a3: float | None = Field(default=None, description="Å³ of the cell, over the frames of the production.")
    mean_volume_error_a3: float | None = Field(default=None, description="Standard error of that mean.")
    warnings: list[str] = Field(default_factory=list, description="What to know before its numbers are used.")
    max_force: float | None = Field(default=None, description="Largest |F| of any frame, eV/Å.")
    seconds: float | None = Field(default=None, description="Wall time of the batches times its share of their atoms.")
    final_structure: Structure | None = Field(
        default=None, description="The last written frame; None without one, or where the document would be large."
    )
    frames: TrajectoryFrames | None = Field(default=None, description="None where no frame was written.")

    def to_frames(self) -> list[Frame]:
        """Return the frames, from the document where they are in it, else from the Parquet file.

        Raises
        ------
        ResourceError
            If the file is not here, or is not the one that the job wrote.
        """
        from aqvolt_flows.frames import from_columns, read_frames

        if self.frames is None:
            return []
        if self.frames.columns is not None:
            return from_columns(self.trajectory_id, self.frames.columns.model_dump())
        return list(read_frames(self.frames_path()))

    def to_atoms(self) -> list[Atoms]:
        """Return the frames as ASE Atoms with energy, forces and stress; raises as :meth:`to_frames`."""
        return [frame.to_atoms() for frame in self.to_frames()]

    def frames_path(self) -> Path:
        """Return the Parquet file, checked against its hash; raises as :meth:`to_frames`."""
        if self.frames is None:
            raise ResourceError(f"{self.trajectory_id} has no frames ({self.failure and self.failure.message}).")
        return checked_file(self.frames, self.trajectory_id)


class NpTMDDocument(BaseModel):
    """NpT molecular dynamics of some structures at some temperatures."""

    model_config = _CONFIG

    model: str = Field(description="Model string, or the class of the calculator or torch-sim model.")
    model_hash: str | None = Field(default=None, description="SHA-256 of the weights; None for an object.")
    ensemble: str
    timestep_fs: float
    pressure_gpa: float
    n_steps: int = Field(description="Steps asked for.")
    stride: int = Field(description="Every stride-th step is a frame.")
    trajectories: list[NpTTrajectory] = Field(description="Structure by structure, temperatures in the order given.")

    def to_frames(self) -> list[Frame]:
        """Return the frames of all trajectories, in order; raises as :meth:`NpTTrajectory.to_frames`."""
        return [frame for trajectory in self.trajectories for frame in trajectory.to_frames()]

    def to_atoms(self) -> list[Atoms]:
        """Return the frames of all trajectories as ASE Atoms with results; raises as :meth:`to_frames`."""
        return [frame.to_atoms() for frame in self.to_frames()]


class RelaxedStructure(BaseModel):
    """How one relaxation ended."""

    model_config = _CONFIG

    structure: Structure = Field(description="The last geometry; the given one where the relaxation failed.")
    energy: float | None = Field(description="Total, eV; None where it failed.")
    max_force: float | None = Field(description="Largest force on an atom, eV/Å.")
    max_stress: float | None = Field(description="Largest component of the stress, GPa.")
    converged: bool = Field(description="Whether forces on atoms and cell are below the tolerance.")
    failure: Failure | None = Field(
        default=None,
        description="unconverged (numbers are of the last step), exploded, relaxation_error, unsupported_element, "
        "model_error.",
    )


class RelaxDocument(BaseModel):
    """Relaxations of some structures; ``structures`` alone is for the maker that follows."""

    model_config = _CONFIG

    model: str = Field(description="Model string, or the class of the calculator or torch-sim model.")
    model_hash: str | None = Field(default=None, description="SHA-256 of the weights; None for an object.")
    relaxed: list[RelaxedStructure] = Field(description="One per structure given, in order.")
    structures: list[Structure] = Field(description="The structures of ``relaxed``, in order, failed ones included.")


class AIMDDocument(BaseModel):
    """One ab-initio NpT run of one structure at one temperature."""

    model_config = _CONFIG

    status: Literal["completed", "failed"]
    failure: Failure | None = Field(default=None, description="Why it did not run or ended early.")
    formula: str
    chemsys: str
    n_atoms: int
    temperature_k: float = Field(description="Target temperature, K.")
    timestep_fs: float = Field(description="Asked for, fs; what steps really had is in parts.")
    seed: int
    steps_done: int = 0
    parts: list[TrajectoryPart] = Field(default_factory=list, description="Stretches of steps with one time step.")
    seams: list[Seam] = Field(default_factory=list, description="Where VASP was started again.")
    duration_fs: float | None = Field(default=None, description="Sum of the steps made times their time steps.")
    steps_repeated: int = Field(default=0, description="Steps that VASP made more than once; they are no frames.")
    corrections: list[str] = Field(
        default_factory=list, description="What custodian met, and its archives that cannot be read."
    )
    n_frames: int = Field(default=0, description="Ionic steps whose SCF converged.")
    steps_unconverged: list[int] = Field(
        default_factory=list, description="Ionic steps that are no frames: their SCF did not converge."
    )
    steps_unread: list[int] = Field(
        default_factory=list, description="Ionic steps that are no frames: VASP was ended before it had written them."
    )
    mean_temperature_k: float | None = None
    mean_volume_a3: float | None = Field(default=None, description="Å³ of the cell, over the frames.")
    max_force: float | None = Field(default=None, description="Largest |F| of any frame, eV/Å.")
    seconds: float | None = None
    core_hours: float | None = None
    segments: int = Field(default=1, description="Times that VASP was started.")
    protocol: Protocol | None = Field(default=None, description="Theory level of every frame.")
    protocol_name: str = ""
    initial_structure: Structure
    final_structure: Structure | None = None
    frames: TrajectoryFrames | None = Field(default=None, description="None where no ionic step converged.")

    def to_frames(self) -> list[Frame]:
        """Return the frames, from the document where they are in it, else from the Parquet file."""
        from aqvolt_flows.frames import from_columns, read_frames

        if self.frames is None:
            return []
        if self.frames.columns is not None:
            return from_columns("aimd", self.frames.columns.model_dump())
        return list(read_frames(checked_file(self.frames, "this run")))

    def times_fs(self) -> list[float | None]:
        """Return the time of each frame, fs; the run's first step is at 0 fs."""
        return [time_fs(self.parts, frame.step) for frame in self.to_frames()]

    def to_atoms(self) -> list[Atoms]:
        """Return the frames as ASE Atoms with energy, forces and stress."""
        return [frame.to_atoms() for frame in self.to_frames()]


def trajectory_frames(path: Path, sha256: str, frames: list[Frame]) -> TrajectoryFrames:
    """Return the pointer to a trajectory's file, with its columns where they are few (:data:`INLINE_NUMBERS`)."""
    from aqvolt_flows.frames import to_columns

    numbers = sum(6 * f.n_atoms + 20 for f in frames)
    columns = FrameColumns(**to_columns(frames)) if frames and numbers <= INLINE_NUMBERS else None
    return TrajectoryFrames(path=str(path), sha256=sha256, bytes=path.stat().st_size, columns=columns)


def checked_file(frames: TrajectoryFrames, whose: str) -> Path:
    """Return the Parquet file of a trajectory, checked against its hash.

    Raises
    ------
    ResourceError
        If the file is not here, or is not the one that the job wrote.
    """
    from aqvolt_flows.identity import file_sha256

    path = Path(frames.path)
    if not path.is_file():
        raise ResourceError(
            f"The frames of {whose} are not at {path}; they are in the folder of the job that ran the MD: read them "
            "there, or copy the file to that path."
        )
    if file_sha256(path) != frames.sha256:
        raise ResourceError(f"{path} is not the file that the MD wrote (another SHA-256); restore it from a copy.")
    return path
