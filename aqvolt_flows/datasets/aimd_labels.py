"""Labels from ab-initio MD: every converged ionic step is a configuration with its energy, forces and stress."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import numpy as np

from aqvolt_flows.datasets.energies import MAX_JUMP_EV_PER_ATOM, MIN_SUPPORT, jump_fault
from aqvolt_flows.datasets.labels import label_from_outcome
from aqvolt_flows.errors import InputError
from aqvolt_flows.frames import Frame
from aqvolt_flows.identity import content_key
from aqvolt_flows.labelers import LABELERS
from aqvolt_flows.schemas.label import LabelDocument, LabelOutcome
from aqvolt_flows.schemas.provenance import Failure, Protocol
from aqvolt_flows.units import gpa_to_ev_per_a3

#: What P·V may weigh in a label's energy: a hundredth of the errors of Figure 4, and ten times what 1 atm weighs.
NEGLIGIBLE_WORK_EV_PER_ATOM = 1e-4


def thinned(frames: Iterable[Frame], stride: int) -> list[Frame]:
    """Return every ``stride``-th step of a run, counted by step number from the first, so that gaps move nothing."""
    return [frame for frame in frames if (frame.step - 1) % stride == 0]


def aimd_protocol(trajectory: Mapping[str, Any]) -> Protocol:
    """Return the protocol that an AIMD trajectory carries, or that its ``model`` and ``model_hash`` name.

    Raises
    ------
    InputError
        If they do not name one, e.g. because a machine-learning potential made the run.
    """
    if isinstance(trajectory.get("protocol"), Mapping):
        return Protocol(**trajectory["protocol"])
    code, _, rest = str(trajectory["model"]).partition(":")
    functional, _, digest = rest.partition("@")
    full = str(trajectory["model_hash"])
    ab_initio = code in LABELERS and not LABELERS[code].named_by_model
    if not ab_initio or not functional or not digest or not full.startswith(digest):
        raise InputError(
            f"Trajectory {trajectory['trajectory_id']} was made with {trajectory['model']!r}; expected a protocol such "
            "as vasp:r2SCAN@<hash> that agrees with its model_hash."
        )
    return Protocol.model_validate({"code": code, "version": "", "functional": functional, "settings_hash": full})


def aimd_frame_id(trajectory_id: str, step: int) -> str:
    """Return the identity of one ionic step as a frame."""
    return f"frame-{content_key('aimd-frame/1', trajectory_id=trajectory_id, step=step)}"


def pressure_fault(trajectory: Mapping[str, Any]) -> Failure | None:
    """Return why a run's energies are no labels where they hold P·V, or None.

    VASP adds P·V to the energies of a run with PSTRESS; runs that were read since say that it was taken out again.
    """
    volume = trajectory.get("mean_volume_per_atom")
    pressure = float(trajectory.get("pressure_gpa") or 0.0)
    if trajectory.get("pressure_removed") or volume is None:
        return None
    work = gpa_to_ev_per_a3(pressure) * float(volume)
    if abs(work) <= NEGLIGIBLE_WORK_EV_PER_ATOM:
        return None
    message = (
        f"The energies of this run at {pressure:g} GPa hold P·V, {work:.4f} eV/atom, and its stresses lack P: it was "
        "read before these were taken out. Run it again for labels."
    )
    return Failure(reason="pressure_in_energy", message=message)


def labels_from_trajectory(
    trajectory: Mapping[str, Any],
    frames: Iterable[Frame],
    stride: int = 1,
    max_jump_ev_per_atom: float = MAX_JUMP_EV_PER_ATOM,
) -> list[LabelDocument]:
    """Return the labels of an AIMD run, one per kept step; a step that cannot be one is a rejected label.

    A step whose energy leaves the run's own median by more than the limit of
    :mod:`aqvolt_flows.datasets.energies` is refused as ``energy_jump``: one cell at one temperature has no reason to.
    A run that ended because custodian left the theory level keeps the steps before that; they are of its protocol.
    What the run cost stays with the trajectory, so that no hour is summed twice: ``cost_core_hours`` is 0 here, a
    step's share is in ``provenance.core_hours`` where the run knows its core-hours. Every step of a run whose energies
    hold a P·V that matters (:func:`pressure_fault`) is refused.

    Parameters
    ----------
    trajectory
        A document of ``trajectories`` with ``engine`` aimd that has ended.
    frames
        Its converged ionic steps.
    stride
        Thinning: keep every n-th ionic step.
    max_jump_ev_per_atom
        The limit at zero force, eV/atom; 0: not checked.
    """
    failure = trajectory.get("failure") or {}
    kept = thinned(frames, stride)
    if not kept:
        reason = failure.get("reason", "no_frames")
        message = failure.get("message") or "The run has no converged ionic step."
        return [rejected_trajectory(trajectory, Failure(reason=reason, message=message), stride)]
    protocol = aimd_protocol(trajectory)
    energies = np.array([frame.energy / frame.n_atoms for frame in kept])
    finite = energies[np.isfinite(energies)]
    median = float(np.median(finite)) if len(finite) >= MIN_SUPPORT else None
    provenance: dict[str, Any] = {"stride": stride, "n_labels": len(kept)}
    if trajectory.get("core_hours") is not None and trajectory.get("n_frames"):
        provenance["core_hours"] = float(trajectory["core_hours"]) / int(trajectory["n_frames"])
    pressed = pressure_fault(trajectory)
    return [_label(frame, trajectory, protocol, median, max_jump_ev_per_atom, provenance, pressed) for frame in kept]


def _label(
    frame: Frame,
    trajectory: Mapping[str, Any],
    protocol: Protocol,
    median: float | None,
    limit: float,
    provenance: dict[str, Any],
    pressed: Failure | None,
) -> LabelDocument:
    frame_id = aimd_frame_id(str(trajectory["trajectory_id"]), frame.step)
    outcome = LabelOutcome(
        frame_id=frame_id,
        key=str(trajectory["key"]),
        status="converged",
        protocol=protocol,
        atomic_numbers=frame.atomic_numbers.astype(int).tolist(),
        positions=frame.positions.astype(float).tolist(),
        cell=frame.cell.astype(float).tolist(),
        energy=frame.energy,
        forces=frame.forces.astype(float).tolist(),
        stress=frame.stress.astype(float).tolist(),
    )
    if pressed is not None:
        outcome = outcome.model_copy(update={"status": "bad_output", "failure": pressed})
    label = label_from_outcome(outcome, _as_frame(trajectory, frame_id), None, ended_at(trajectory), source="aimd")
    if label.status == "valid" and median is not None and label.energy_per_atom is not None:
        jump = jump_fault(label.energy_per_atom - median, label.max_force or 0.0, limit, "the run's median")
        if jump is not None:
            bad = outcome.model_copy(update={"status": "bad_output", "failure": jump})
            label = label_from_outcome(bad, _as_frame(trajectory, frame_id), None, ended_at(trajectory), source="aimd")
    return label.model_copy(update={"step": frame.step, "provenance": provenance})


def _as_frame(trajectory: Mapping[str, Any], frame_id: str) -> dict[str, Any]:
    fields = ("trajectory_id", "candidate_id", "temperature_k", "formula", "chemsys", "elements", "n_atoms")
    return {name: trajectory[name] for name in fields} | {
        "frame_id": frame_id,
        "explored_with": str(trajectory["model"]),
    }


def rejected_trajectory(trajectory: Mapping[str, Any], failure: Failure, stride: int) -> LabelDocument:
    """Return the one rejected label of a run without any usable step."""
    frame_id = aimd_frame_id(str(trajectory["trajectory_id"]), 0)
    try:
        protocol = aimd_protocol(trajectory)
    except InputError:
        protocol = Protocol(code="external", version="", functional="unknown")
    outcome = LabelOutcome(
        frame_id=frame_id, key=str(trajectory["key"]), status="failed", protocol=protocol, failure=failure
    )
    label = label_from_outcome(outcome, _as_frame(trajectory, frame_id), None, ended_at(trajectory), source="aimd")
    return label.model_copy(update={"provenance": {"stride": stride, "n_labels": 1}})


def ended_at(trajectory: Mapping[str, Any]) -> str:
    """Return when a trajectory's document was last written, as its labels remember it."""
    updated = trajectory["last_updated"]
    return updated.isoformat() if isinstance(updated, datetime) else str(updated)
