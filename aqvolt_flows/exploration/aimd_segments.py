"""One launch of an ab-initio run: what its folder says becomes frames, facts and the state to go on from.

A run is made in segments, each a VASP calculation in a folder of its own. A folder that a killed worker left behind is
read like any other: steps that VASP made are not made again.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Element

from aqvolt_flows.artifacts import ArtifactStore
from aqvolt_flows.frames import Frame, read_frames, write_frames
from aqvolt_flows.schemas.provenance import ArtifactRef, Failure, Protocol
from aqvolt_flows.schemas.trajectory import TrajectoryDocument
from aqvolt_flows.vasp.continuation import MDState, md_state
from aqvolt_flows.vasp.inputs import potcar_hashes
from aqvolt_flows.vasp.outputs import Array, Calculation, read_calculation, read_text
from aqvolt_flows.vasp.settings import changes, theory

#: Endings from outside, after which another launch continues.
RESUMABLE = frozenset({"wall_time", "signal", "interrupted"})


@dataclass(frozen=True, eq=False)
class Steps:
    """The ionic steps of one segment.

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
    """Return the ionic steps of a segment; they are numbered on from ``steps_before``.

    VASP folds atoms back into the cell; here they are unfolded along the whole run, so that displacements can be
    read from positions. Where OSZICAR does not give a step's temperature it is NaN.

    Parameters
    ----------
    found
        What the segment's folder says.
    trajectory_id
        Of the run.
    order
        Site ``i`` of VASP's structure is site ``order[i]`` of the candidate.
    steps_before
        Steps of the segments before.
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


def ending_of(found: Calculation, folder: Path, expected: dict[str, Any]) -> Failure | None:
    """Return why a segment's steps cannot be trusted or did not come to an end, or None.

    Parameters
    ----------
    found, folder
        What the segment's folder says, and the folder.
    expected
        The INCAR that was asked for; where custodian changed the theory level, the steps are of another protocol.
    """
    if found.steps and "MDALGO" in found.incar and not _langevin_npt(read_text(folder, "OUTCAR")):
        return Failure(
            reason="no_tbdyn", message="VASP ignored MDALGO = 3; use a VASP that was built with -Dtbdyn for NpT."
        )
    drift = changes(theory(expected), theory({k: v for k, v in found.incar.items() if k in expected}))
    if found.steps and drift:
        listed = ", ".join(f"{tag} {old} became {new}" for tag, (old, new) in drift.items())
        return Failure(reason="protocol_changed", message=f"custodian left the theory level: {listed}.")
    return found.failure


def _langevin_npt(outcar: str) -> bool:
    """Whether OUTCAR's list of parameters says MDALGO = 3; a VASP without tbdyn does not print it as 3."""
    after = outcar.partition("INCAR:")[2].partition("POTCAR:")[2]
    return re.search(r"^\s*MDALGO\s*=\s*3\b", after, re.MULTILINE) is not None


def harvest(
    artifacts: ArtifactStore,
    document: TrajectoryDocument,
    folder: Path,
    order: list[int],
    expected: dict[str, Any],
    max_segments: int,
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
    order, expected
        See :func:`steps_of` and :func:`ending_of`.
    max_segments
        Launches that a run may take.
    seconds
        Wall time of the segment.
    said
        What custodian raised, for a message where VASP made no step.
    """
    found = read_calculation(folder, eigenvalues=False, partial=True)
    failure = ending_of(found, folder, expected)
    before = restart_of(artifacts, document)
    trusted = failure is None or failure.reason not in ("no_tbdyn", "protocol_changed")
    steps = steps_of(found, document.trajectory_id, order, document.steps_done, before.unfolded if before else None)
    facts = _facts(artifacts, document, steps.frames if trusted else [], steps.unconverged)
    done = document.steps_done + len(found.steps)
    facts |= {
        "steps_done": done,
        "seconds": (document.seconds or 0.0) + seconds,
        "corrections": [*document.corrections, *found.corrections],
        "core_hours": _sum(document.core_hours, found.core_hours),
        "protocol": _with_version(document, found.version),
    }
    if failure is not None and not found.steps and said:
        failure = Failure(reason=failure.reason, message=f"{failure.message} ({said})"[:1000])
    state = before
    if found.steps and steps.unfolded is not None:
        state = md_state(folder, steps.unfolded, otherwise_seed=document.seed + document.segments)
    missing = done < document.n_steps
    if missing and (failure is None or failure.reason in RESUMABLE):
        started = not document.steps_done and not found.steps  # then the next launch starts as the first did
        if document.segments < max_segments and (state is not None or started):
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


def _facts(
    artifacts: ArtifactStore, document: TrajectoryDocument, new: list[Frame], unconverged: list[int]
) -> dict[str, Any]:
    """Return the fields that follow from the frames of all segments, joined into one file."""
    earlier = list(read_frames(artifacts.local_path(document.frames))) if document.frames else []
    frames = [*earlier, *new]
    facts: dict[str, Any] = {
        "n_frames": len(frames),
        "steps_unconverged": [*document.steps_unconverged, *unconverged],
    }
    if not frames:
        return facts
    temperatures = [f.temperature for f in frames if np.isfinite(f.temperature)]
    return facts | {
        "frames": _stored(artifacts, frames) if new else document.frames,
        "mean_temperature_k": float(np.mean(temperatures)) if temperatures else None,
        "mean_volume_per_atom": float(np.mean([f.volume / f.n_atoms for f in frames])),
        "max_force": max(f.max_force for f in frames),
    }


def _stored(artifacts: ArtifactStore, frames: list[Frame]) -> ArtifactRef:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.parquet"
        write_frames(path, frames)
        return artifacts.put_file(path, "parquet")


def remove(folder: Path) -> None:
    """Remove a segment's folder; what counts of it is in the database and the artifact store."""
    shutil.rmtree(folder, ignore_errors=True)
