"""From what a labeler returned to a validated label, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import ValidationError

from aqvolt_flows.chemistry import cohesive_energy_per_atom, describe, symbols_of
from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import content_key
from aqvolt_flows.schemas.label import LabelDocument, LabelOutcome
from aqvolt_flows.schemas.provenance import Failure, Protocol
from aqvolt_flows.units import pressure_gpa

#: Raise it whenever the rules below change: every label is then built again.
BUILDER_VERSION = "labels/1"

_UNKNOWN_PROTOCOL = Protocol(code="external", version="", functional="unknown")
_NOTHING: dict[str, Any] = {"formula": "", "chemsys": "", "elements": [], "n_atoms": 0}


def label_from_outcome(
    outcome: LabelOutcome | Mapping[str, Any],
    frame: Mapping[str, Any] | None,
    source_uuid: str | None,
    source_completed_at: str | None = None,
    source: str = "sampled",
) -> LabelDocument:
    """Return the label of one labeling job; what is wrong with it becomes its ``failure``, never an exception.

    Parameters
    ----------
    outcome
        What the labeler returned, as a document or as the mapping that MongoDB holds.
    frame
        The document of ``frames`` that was labelled; without one the label has no lineage, as imported data have.
    source_uuid, source_completed_at
        The job in ``outputs`` and when it ended.
    source
        ``sampled``, ``aimd`` or the name of an imported dataset.

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
        magmoms=parsed.magmoms,
        bandgap=parsed.bandgap,
        cohesive_energy_per_atom=_cohesive_energy(parsed, symbols),
        energy_per_atom=parsed.energy / len(symbols),
        max_force=float(np.linalg.norm(np.asarray(parsed.forces, dtype=float), axis=1).max()),
        pressure_gpa=pressure_gpa(np.asarray(parsed.stress, dtype=float)),
    )


def find_fault(outcome: LabelOutcome, frame: Mapping[str, Any] | None) -> Failure | None:
    """Return the first reason why an outcome cannot be a label, or ``None``."""
    if outcome.status != "converged":
        given = outcome.failure
        message = given.message if given else f"The labeler ended as {outcome.status} and gave no reason."
        return Failure(reason=given.reason if given else outcome.status, message=message)
    n_atoms = len(outcome.atomic_numbers)
    if not n_atoms:
        return Failure(
            reason="no_atoms", message="The outcome has no atomic numbers; expected those that were computed."
        )
    if not all(1 <= z <= 118 for z in outcome.atomic_numbers):
        return Failure(reason="bad_element", message="An atomic number is outside 1 … 118.")
    wanted: list[tuple[str, Any, tuple[int, ...]]] = [
        ("positions", outcome.positions, (n_atoms, 3)),
        ("cell", outcome.cell, (3, 3)),
        ("energy", outcome.energy, ()),
        ("forces", outcome.forces, (n_atoms, 3)),
        ("stress", outcome.stress, (6,)),
    ]
    if outcome.magmoms is not None:
        wanted.append(("magmoms", outcome.magmoms, (n_atoms,)))
    for name, value, shape in wanted:
        failure = _shape_fault(name, value, shape)
        if failure is not None:
            return failure
    if abs(np.linalg.det(np.asarray(outcome.cell, dtype=float))) < 1e-6:
        return Failure(reason="flat_cell", message="The cell has no volume; expected three independent vectors in Å.")
    return _frame_fault(outcome, frame)


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
    return winner.model_copy(update={"other_sources": others, "builder_version": new.builder_version})


def reference_functional(protocol: Protocol) -> str | None:
    """Return which isolated-atom table belongs to a protocol, or ``None``.

    The tables (MatPES 2025.1) are VASP energies. A surrogate trained on such energies shares them, and says so in its
    model string (``chgnet/r2scan``, ``7net-mf-0/R2SCAN``). GPAW counts from its setups' own reference atoms
    (spin-paired, spherical), so the tables do not apply to it.
    """
    if protocol.code == "gpaw":
        return None
    text = protocol.functional.lower()
    if protocol.code == "surrogate":
        return "r2SCAN" if "r2scan" in text else "PBE" if "pbe" in text else None
    return {"r2scan": "r2SCAN", "pbe": "PBE"}.get(text)


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


def _shape_fault(name: str, value: Any, shape: tuple[int, ...]) -> Failure | None:
    if value is None:
        return Failure(reason=f"no_{name}", message=f"The outcome converged without {name}.")
    try:
        array = np.asarray(value, dtype=float)
    except ValueError:
        return Failure(
            reason=f"bad_{name}", message=f"The {name} are rows of different lengths; expected shape {shape}."
        )
    if array.shape != shape:
        return Failure(reason=f"bad_{name}", message=f"The {name} have shape {array.shape}; expected {shape}.")
    if not np.isfinite(array).all():
        return Failure(reason="not_finite", message=f"The {name} hold NaN or infinity.")
    return None


def _frame_fault(outcome: LabelOutcome, frame: Mapping[str, Any] | None) -> Failure | None:
    if frame is None:
        return None
    if frame["frame_id"] != outcome.frame_id:
        return Failure(
            reason="wrong_frame", message=f"The outcome is of {outcome.frame_id}, not of {frame['frame_id']}."
        )
    seen = describe(symbols_of(outcome.atomic_numbers))
    for name in ("n_atoms", "formula"):
        if seen[name] != frame[name]:
            return Failure(
                reason="wrong_frame",
                message=f"The outcome has {name} {seen[name]}, its frame {frame[name]}; they must agree.",
            )
    return None


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
        "source": source,
        "protocol": outcome.protocol,
        "protocol_id": protocol_id,
        "protocol_name": outcome.protocol.name,
        "cost_core_hours": outcome.cost_core_hours,
        "builder_version": BUILDER_VERSION,
        "source_uuid": source_uuid,
        "source_completed_at": source_completed_at,
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
