"""From what a labeler returned to a validated label, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import ValidationError

from aqvolt_flows.chemistry import cohesive_energy_per_atom, describe, symbols_of
from aqvolt_flows.datasets.columns import RESULTS
from aqvolt_flows.datasets.energies import MAX_JUMP_EV_PER_ATOM, jump_fault
from aqvolt_flows.datasets.faults import find_fault
from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import content_key
from aqvolt_flows.labelers import reference_functional
from aqvolt_flows.schemas.label import LabelDocument, LabelOutcome
from aqvolt_flows.schemas.provenance import Failure, Protocol
from aqvolt_flows.units import pressure_gpa

#: Raise it whenever the rules below change: every label is then built again.
BUILDER_VERSION = "labels/3"

_UNKNOWN_PROTOCOL = Protocol(code="external", version="", functional="unknown")
_NOTHING: dict[str, Any] = {"formula": "", "chemsys": "", "elements": [], "n_atoms": 0}


def label_from_outcome(
    outcome: LabelOutcome | Mapping[str, Any],
    frame: Mapping[str, Any] | None,
    source_uuid: str | None,
    source_completed_at: str | None = None,
    source: str = "sampled",
    shift: float | None = None,
    max_jump_ev_per_atom: float = MAX_JUMP_EV_PER_ATOM,
) -> LabelDocument:
    """Return the label of one labeling job; what is wrong with it becomes its ``failure``, never an exception.

    Parameters
    ----------
    outcome
        What the labeler returned, as a document or as the mapping that MongoDB holds.
    frame
        The document of ``frames`` that was labeled; without one the label has no lineage, as imported data have.
    source_uuid, source_completed_at
        The job in ``outputs`` and when it ended.
    source
        ``sampled``, ``aimd`` or the name of an imported dataset.
    shift
        Expected E_label − E_potential of the frame, eV (:mod:`aqvolt_flows.datasets.energies`); None: not checked.
    max_jump_ev_per_atom
        What the label's energy may be off from that at zero force, eV/atom; 0: not checked.

    Returns
    -------
    LabelDocument
        ``valid``: energy (eV), forces (eV/Å), stress (6 numbers, eV/Å³, ASE sign) and what follows from them.
        ``rejected``: no arrays, and a reason; the labeler's own document keeps what it wrote.
    """
    parsed = outcome if isinstance(outcome, LabelOutcome) else _parse(outcome)
    if isinstance(parsed, Failure):
        raw = outcome if isinstance(outcome, Mapping) else {}
        return _rejected(_salvage(raw, source_uuid), parsed, frame, source_uuid, source_completed_at, source)
    failure = find_fault(parsed, frame)
    if failure is not None:
        return _rejected(parsed, failure, frame, source_uuid, source_completed_at, source)
    assert parsed.energy is not None
    assert parsed.forces is not None
    assert parsed.stress is not None
    symbols = symbols_of(parsed.atomic_numbers)
    max_force = float(np.linalg.norm(np.asarray(parsed.forces, dtype=float), axis=1).max())
    difference = _surrogate_difference(parsed, frame)
    if difference is not None and shift is not None:
        excess = difference - shift / len(symbols)
        failure = jump_fault(excess, max_force, max_jump_ev_per_atom, "what the frame's own potential leads to expect")
        if failure is not None:
            return _rejected(parsed, failure, frame, source_uuid, source_completed_at, source)
    what: dict[str, Any] = describe(symbols)
    return LabelDocument(
        **_identity(parsed, frame, source_uuid, source_completed_at, source),
        **what,
        status="valid",
        atomic_numbers=parsed.atomic_numbers,
        positions=parsed.positions,
        cell=parsed.cell,
        energy=parsed.energy,
        forces=parsed.forces,
        stress=parsed.stress,
        **{name: getattr(parsed, name) for name in RESULTS},
        cohesive_energy_per_atom=_cohesive_energy(parsed, symbols),
        energy_per_atom=parsed.energy / len(symbols),
        surrogate_difference_per_atom=difference,
        max_force=max_force,
        pressure_gpa=pressure_gpa(np.asarray(parsed.stress, dtype=float)),
    )


def merge(stored: LabelDocument, new: LabelDocument) -> LabelDocument:
    """Return the one document of a label that two jobs gave: a valid one beats a rejected one, then the later wins.

    The job that lost is remembered in ``other_sources``, so that a builder does not take it up again.
    """
    rerun = stored.source_uuid == new.source_uuid
    newer = rerun or (new.source_completed_at or "") >= (stored.source_completed_at or "")
    if stored.status == new.status:
        winner, loser = (new, stored) if newer else (stored, new)
    else:
        winner, loser = (new, stored) if new.status == "valid" else (stored, new)
    others = stored.other_sources | new.other_sources
    if loser.source_uuid and not (rerun and winner is new):
        others = others | {loser.source_uuid: loser.source_completed_at or ""}
    if winner.source_uuid and others.get(winner.source_uuid) == (winner.source_completed_at or ""):
        others = {k: v for k, v in others.items() if k != winner.source_uuid}
    newest = max([winner.source_completed_at or "", *others.values()]) or None
    return winner.model_copy(
        update={"other_sources": others, "builder_version": new.builder_version, "newest_source_at": newest}
    )


def _parse(outcome: Mapping[str, Any]) -> LabelOutcome | Failure:
    try:
        return LabelOutcome(**outcome)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return Failure(reason="bad_outcome", message=f"The labeler's {where or 'output'} is wrong: {first['msg']}.")
    except TypeError as error:
        return Failure(reason="bad_outcome", message=f"The labeler's output is not a mapping of fields: {error}.")


def _salvage(raw: Mapping[str, Any], source_uuid: str | None) -> LabelOutcome:
    """Return what identifies an unreadable outcome; its numbers are not trusted."""
    try:
        protocol = Protocol(**raw["protocol"])
    except (KeyError, TypeError, ValidationError):
        protocol = _UNKNOWN_PROTOCOL
    frame_id = raw.get("frame_id")
    return LabelOutcome(
        frame_id=frame_id if isinstance(frame_id, str) else f"unknown-{source_uuid}",
        key=str(raw.get("key", "")),
        status="bad_output",
        protocol=protocol,
    )


def _cohesive_energy(outcome: LabelOutcome, symbols: list[str]) -> float | None:
    """Return eV/atom against the labeler's own isolated atoms where it gave them, else against MatPES' table."""
    assert outcome.energy is not None
    own = outcome.details.get("atomic_energies")
    if isinstance(own, Mapping) and set(symbols) <= set(own):
        return float((outcome.energy - sum(float(own[s]) for s in symbols)) / len(symbols))
    functional = reference_functional(outcome.protocol)
    if functional is None:
        return None
    try:
        return cohesive_energy_per_atom(outcome.energy, symbols, functional)
    except InputError:  # an element beyond the table: the label is good, this number is unknown
        return None


def _surrogate_difference(outcome: LabelOutcome, frame: Mapping[str, Any] | None) -> float | None:
    """Return (E_label − E_potential)/N in eV/atom, where the frame knows what its potential said."""
    said = (frame or {}).get("surrogate_energy")
    if said is None or outcome.energy is None or not np.isfinite(said):
        return None
    return (outcome.energy - float(said)) / len(outcome.atomic_numbers)


def _identity(
    outcome: LabelOutcome,
    frame: Mapping[str, Any] | None,
    source_uuid: str | None,
    source_completed_at: str | None,
    source: str,
) -> dict[str, Any]:
    known = frame or {}
    protocol_id = outcome.protocol.protocol_id
    key = content_key("label/1", frame_id=outcome.frame_id, protocol_id=protocol_id)
    return {
        "key": key,
        "label_id": f"label-{key}",
        "frame_id": outcome.frame_id,
        "trajectory_id": known.get("trajectory_id"),
        "candidate_id": known.get("candidate_id"),
        "temperature_k": known.get("temperature_k"),
        "explored_with": known.get("explored_with"),
        "source": source,
        "protocol": outcome.protocol,
        "protocol_id": protocol_id,
        "protocol_name": outcome.protocol.name,
        "cost_core_hours": outcome.cost_core_hours,
        "builder_version": BUILDER_VERSION,
        "source_uuid": source_uuid,
        "source_completed_at": source_completed_at,
        "newest_source_at": source_completed_at,
    }


def _rejected(
    outcome: LabelOutcome,
    failure: Failure,
    frame: Mapping[str, Any] | None,
    source_uuid: str | None,
    source_completed_at: str | None,
    source: str,
) -> LabelDocument:
    readable = outcome.atomic_numbers and all(1 <= z <= 118 for z in outcome.atomic_numbers)
    if frame is not None:
        what = {name: frame[name] for name in _NOTHING}
    else:
        what = describe(symbols_of(outcome.atomic_numbers)) if readable else dict(_NOTHING)
    return LabelDocument(
        **_identity(outcome, frame, source_uuid, source_completed_at, source),
        **what,
        status="rejected",
        failure=failure,
    )
