"""One launch of an ab-initio run: what its folder says becomes frames, facts and the state to go on from.

A run is made in segments, each a VASP calculation in a folder of its own. A folder that a killed worker left behind is
read like any other: steps that VASP made are not made again, nor those before custodian started VASP anew.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Element

from aqvolt_flows.artifacts import ArtifactStore
from aqvolt_flows.exploration.aimd_parts import Launch, Part, fault_of, read_launch
from aqvolt_flows.exploration.aimd_seams import jump_at
from aqvolt_flows.frames import Frame, read_frames, write_frames
from aqvolt_flows.schemas.provenance import ArtifactRef, Failure, Protocol
from aqvolt_flows.schemas.trajectory import Seam, TrajectoryDocument, TrajectoryPart
from aqvolt_flows.vasp.continuation import MDState, md_state
from aqvolt_flows.vasp.inputs import potcar_hashes
from aqvolt_flows.vasp.outputs import Array, Calculation, locate

#: Endings from outside, after which another launch continues.
RESUMABLE = frozenset({"wall_time", "signal", "interrupted"})


@dataclass(frozen=True, eq=False)
class Steps:
    """The ionic steps of one part.

    Attributes
    ----------
    frames
        Its converged steps, in the candidate's order of atoms.
    unconverged
        Numbers of the others.
    unfolded
        (n_atoms, 3), fractional coordinates after the last step in VASP's order, unfolded; None without a step.
    """

    frames: list[Frame]
    unconverged: list[int]
    unfolded: Array | None


def steps_of(
    found: Calculation, trajectory_id: str, order: list[int], steps_before: int = 0, unfolded: Array | None = None
) -> Steps:
    """Return the ionic steps of a part; they are numbered on from ``steps_before``.

    VASP folds atoms back into the cell; here they are unfolded along the whole run, so that displacements can be
    read from positions. Where OSZICAR does not give a step's temperature it is NaN.

    Parameters
    ----------
    found
        What the part's folder says.
    trajectory_id
        Of the run.
    order
        Site ``i`` of VASP's structure is site ``order[i]`` of the candidate.
    steps_before
        Steps of the parts before.
    unfolded
        Coordinates after their last step, see :class:`Steps`.
    """
    rank = np.argsort(order)
    numbers = np.array([Element(s).Z for s in found.symbols], dtype=np.int16)[rank]
    frames, unconverged = [], []
    for index, step in enumerate(found.steps):
        at = step.fractional
        unfolded = at if unfolded is None else at - np.round(at - unfolded)
        number = steps_before + index + 1
        if step.scf_steps >= found.nelm:
            unconverged.append(number)
            continue
        frames.append(
            Frame(
                trajectory_id=trajectory_id,
                step=number,
                temperature=found.temperatures[index] if index < len(found.temperatures) else float("nan"),
                energy=step.energy,
                atomic_numbers=numbers,
                positions=(unfolded[rank] @ step.cell).astype(np.float32),
                cell=step.cell.astype(np.float32),
                forces=step.forces[rank].astype(np.float32),
                stress=step.stress.astype(np.float32),
            )
        )
    return Steps(frames, unconverged, unfolded)


@dataclass(frozen=True)
class Asked:
    """How a launch was started, and how its run may go on.

    Attributes
    ----------
    order
        Site ``i`` of VASP's structure is site ``order[i]`` of the candidate.
    incar
        Tags that the launch was started with.
    expected
        Those of the statics, which stay.
    max_segments
        Launches that a run may take.
    orbitals
        Where the next launch looks for this one's WAVECAR; None: none is kept.
    """

    order: list[int]
    incar: dict[str, Any]
    expected: dict[str, Any]
    max_segments: int
    orbitals: Path | None = None


@dataclass(eq=False)
class _Taken:
    """What a launch adds to its run."""

    frames: list[Frame]
    unconverged: list[int]
    unread: list[int]
    parts: list[TrajectoryPart]
    seams: list[Seam]
    done: int
    duration_fs: float
    unfolded: Array | None
    last: Part | None = None
    failure: Failure | None = None


def harvest(
    artifacts: ArtifactStore,
    document: TrajectoryDocument,
    folder: Path,
    asked: Asked,
    seconds: float,
    said: str = "",
) -> TrajectoryDocument:
    """Return the run's document with one more segment: completed, failed, or running with the state to go on from.

    Parameters
    ----------
    artifacts
        Takes frames and state.
    document
        The run as it stood before the segment.
    folder
        The segment's, whatever state it is in.
    asked
        How it was started.
    seconds
        Wall time of the segment.
    said
        What custodian raised, for a message where VASP made no step.
    """
    before = restart_of(artifacts, document)
    with tempfile.TemporaryDirectory() as unpacked:
        launch = read_launch(folder, Path(unpacked))
        taken = _take(document, launch, asked, before)
        state = before
        if taken.last is not None and taken.unfolded is not None:
            seed = document.seed + document.segments
            state = md_state(taken.last.folder, taken.unfolded, seed, taken.last.found, before)
    facts = _facts(artifacts, document, taken)
    facts |= {
        "seconds": (document.seconds or 0.0) + seconds,
        "corrections": [*document.corrections, *launch.corrections, *launch.unread],
        "core_hours": _sum(document.core_hours, launch.core_hours),
        "protocol": _with_version(document, launch.last.version),
        "steps_repeated": document.steps_repeated + launch.repeated,
        "pressure_removed": document.pressure_removed or not document.steps_done,
    }
    failure, done, made = taken.failure, taken.done, bool(taken.parts)
    if failure is not None and not made and said:
        failure = Failure(reason=failure.reason, message=f"{failure.message} ({said})"[:1000])
    missing = done < document.n_steps
    if missing and (failure is None or failure.reason in RESUMABLE):
        started = not document.steps_done and not made  # then the next launch starts as the first did
        if document.segments < asked.max_segments and (state is not None or started):
            _keep_orbitals(folder, asked.orbitals)
            kept = artifacts.put_bytes(state.to_json(), "json") if state else None
            more = {"status": "running", "restart": kept, "segments": document.segments + 1, "failure": None}
            return document.model_copy(update=facts | more)
        message = f"VASP made {done} of {document.n_steps} steps in {document.segments} launches."
        failure = failure or Failure(reason="interrupted", message=message)
    elif not missing and failure is not None and failure.reason in RESUMABLE:
        failure = None  # ended from outside, after its last step
    if failure is None and not facts["n_frames"]:
        failure = Failure(reason="electronic", message="No ionic step reached self-consistency.")
    ended = {"status": "failed" if failure else "completed", "failure": failure, "restart": None}
    return document.model_copy(update=facts | ended)


def _take(document: TrajectoryDocument, launch: Launch, asked: Asked, before: MDState | None) -> _Taken:
    """Return what a launch adds: its parts one after the other, up to the first that cannot be trusted."""
    parts = list(document.parts)
    if document.steps_done and not parts:  # begun before parts were told
        n, potim = document.steps_done, document.timestep_fs
        parts.append(TrajectoryPart(first_step=1, n_steps=n, timestep_fs=potim, start_fs=0.0, segment=1))
    duration = document.duration_fs
    if duration is None:
        duration = document.steps_done * document.timestep_fs
    taken = _Taken([], [], [], [], [], document.steps_done, duration, before.unfolded if before else None)
    moment = before.magnetization if before else None
    for part in launch.parts:
        found = part.found
        if not found.steps:
            continue
        taken.failure = fault_of(part, asked.incar, asked.expected)
        if taken.failure is not None:
            break
        steps = steps_of(found, document.trajectory_id, asked.order, taken.done, taken.unfolded)
        potim = part.timestep_fs or document.timestep_fs
        first = taken.done + 1
        # a killed VASP may have told OSZICAR and CONTCAR of steps that did not get into vasprun.xml
        made = max(len(found.steps), len(found.temperatures))
        if taken.done:
            kept = int(found.incar.get("ISTART", 0)) == 2
            after = found.magnetizations[0] if found.magnetizations else None
            taken.seams.append(
                Seam(
                    step=first,
                    segment=document.segments,
                    basis="kept" if kept else "made again",
                    magnetization_before=moment,
                    magnetization_after=after,
                )
            )
        taken.parts.append(
            TrajectoryPart(
                first_step=first,
                n_steps=made,
                timestep_fs=potim,
                start_fs=taken.duration_fs,
                segment=document.segments,
                corrections=part.corrections,
            )
        )
        taken.frames += steps.frames
        taken.unconverged += steps.unconverged
        taken.unfolded, taken.last = steps.unfolded, part
        taken.unread += range(first + len(found.steps), first + made)
        taken.done += made
        taken.duration_fs += made * potim
        moment = found.magnetizations[-1] if found.magnetizations else moment
    taken.failure = taken.failure or launch.last.failure
    taken.parts = [*parts, *taken.parts] if taken.parts else taken.parts
    return taken


def _keep_orbitals(folder: Path, target: Path | None) -> None:
    """Move WAVECAR out of a segment's folder, which is removed; one that was not written to its end is left."""
    found = None if target is None else locate(folder, "WAVECAR")
    if target is not None and found is not None and found.stat().st_size:
        found.replace(target if found.suffix != ".gz" else target.with_name(f"{target.name}.gz"))


def place(orbitals: Path, target: Path) -> None:
    """Write the orbitals that a launch before left where VASP looks for them; they stay, for another try."""
    if orbitals.suffix == ".gz":
        with gzip.open(orbitals) as packed, target.open("wb") as plain:
            shutil.copyfileobj(packed, plain)
    else:
        shutil.copyfile(orbitals, target)


def restart_of(artifacts: ArtifactStore, document: TrajectoryDocument) -> MDState | None:
    """Return the state that continues a running document, or None at its beginning."""
    if document.restart is None:
        return None
    return MDState.from_json(artifacts.local_path(document.restart).read_bytes())


def _with_version(document: TrajectoryDocument, version: str) -> Protocol | None:
    if document.protocol is None:
        return None
    update = {"potcar_hashes": potcar_hashes(document.elements)} | ({"version": version} if version else {})
    return document.protocol.model_copy(update=update)


def _sum(a: float | None, b: float | None) -> float | None:
    return a if b is None else (a or 0.0) + b


def _facts(artifacts: ArtifactStore, document: TrajectoryDocument, taken: _Taken) -> dict[str, Any]:
    """Return the fields that follow from the frames of all segments, joined into one file."""
    earlier = list(read_frames(artifacts.local_path(document.frames))) if document.frames else []
    frames = [*earlier, *taken.frames]
    seams = [*document.seams, *taken.seams]
    facts: dict[str, Any] = {
        "n_frames": len(frames),
        "steps_done": taken.done,
        "duration_fs": taken.duration_fs,
        "parts": taken.parts or document.parts,
        "seams": [*document.seams, *_measured(frames, taken.seams, [s.step for s in seams])],
        "steps_unconverged": [*document.steps_unconverged, *taken.unconverged],
        "steps_unread": [*document.steps_unread, *taken.unread],
    }
    if not frames:
        return facts
    temperatures = [f.temperature for f in frames if np.isfinite(f.temperature)]
    return facts | {
        "frames": _stored(artifacts, frames) if taken.frames else document.frames,
        "mean_temperature_k": float(np.mean(temperatures)) if temperatures else None,
        "mean_volume_per_atom": float(np.mean([f.volume / f.n_atoms for f in frames])),
        "max_force": max(f.max_force for f in frames),
    }


def _measured(frames: list[Frame], new: list[Seam], all_seams: list[int]) -> list[Seam]:
    """Return seams with the jump of the energy at each."""
    measured = []
    for seam in new:
        jump, scatter = jump_at(frames, seam.step, all_seams)
        measured.append(seam.model_copy(update={"energy_jump": jump, "energy_scatter": scatter}))
    return measured


def _stored(artifacts: ArtifactStore, frames: list[Frame]) -> ArtifactRef:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.parquet"
        write_frames(path, frames)
        return artifacts.put_file(path, "parquet")


def remove(folder: Path) -> None:
    """Remove a segment's folder; what counts of it is in the database and the artifact store."""
    shutil.rmtree(folder, ignore_errors=True)
