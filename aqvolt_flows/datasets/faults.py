"""What makes an outcome no label: not converged, wrong shapes, another frame, another theory level than declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aqvolt_flows.chemistry import describe, symbols_of
from aqvolt_flows.datasets.columns import BY_NAME, RESULTS
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.label import LabelOutcome
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.vasp.functional import FunctionalError, functional_of, version_fault
from aqvolt_flows.vasp.settings import changes, potcar_symbol, settings_hash, spelled_hash, static_incar, theory


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
    results = {name: getattr(outcome, name) for name in RESULTS}
    wanted += [(name, value, BY_NAME[name].shape_of(n_atoms)) for name, value in results.items() if value is not None]
    for name, value, shape in wanted:
        failure = _shape_fault(name, value, shape)
        if failure is not None:
            return failure
    if abs(np.linalg.det(np.asarray(outcome.cell, dtype=float))) < 1e-6:
        return Failure(reason="flat_cell", message="The cell has no volume; expected three independent vectors in Å.")
    return _frame_fault(outcome, frame) or protocol_fault(outcome)


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


def protocol_fault(outcome: LabelOutcome) -> Failure | None:
    """Return why VASP did not compute what the protocol declares, or ``None``.

    It compares ``details.incar`` (the tags of the last INCAR that define the energy surface), what VASP used
    (``details.used``) and ``details.potcar_titles`` with the protocol's functional and settings hash and with MatPES'
    pseudopotentials. An outcome without these
    details, as imported labels are, declares only its own protocol and passes.
    """
    incar = outcome.details.get("incar")
    if outcome.protocol.code != "vasp" or not isinstance(incar, Mapping):
        return None
    ran, titles = theory(incar), [str(t) for t in outcome.details.get("potcar_titles") or ()]
    used = outcome.details.get("used")
    try:
        functional = functional_of(ran, used if isinstance(used, Mapping) else None, titles)
    except FunctionalError as error:
        return Failure(reason="wrong_functional", message=f"VASP's own files contradict each other: {error}.")
    declared = outcome.protocol.functional
    if functional != declared:
        return Failure(reason="wrong_functional", message=f"VASP computed {functional}; the protocol says {declared}.")
    # labels of earlier versions hashed the tags as they were spelled, which details still hold
    if outcome.protocol.settings_hash not in (settings_hash(ran), spelled_hash(incar)):
        return _settings_fault(ran, declared)
    for title in titles:
        fault = _potcar_fault(title)
        if fault is not None:
            return fault
    old = version_fault(functional, outcome.protocol.version)
    return Failure(reason="old_vasp", message=f"{old}.") if old else None


def _settings_fault(ran: Mapping[str, Any], functional: str) -> Failure:
    declared = theory(static_incar())
    differing = changes(declared, ran)
    listed = "; ".join(f"{tag}: {old!r} declared, {new!r} ran" for tag, (old, new) in differing.items())
    message = f"VASP ran another theory level than {functional} as declared ({listed or 'a campaign-specific tag'})."
    cutoff = ran.get("ENCUT")
    if not isinstance(cutoff, int | float) or cutoff < declared["ENCUT"]:
        return Failure(reason="low_cutoff", message=message)
    return Failure(reason="wrong_protocol", message=message)


def _potcar_fault(title: str) -> Failure | None:
    symbol = title.split()[1] if len(title.split()) > 1 else title
    element = symbol.partition("_")[0]
    try:
        wanted = potcar_symbol(element)
    except InputError:
        return Failure(reason="wrong_potcar", message=f"MatPES names no POTCAR for {element}; VASP read {symbol}.")
    if symbol != wanted:
        return Failure(reason="wrong_potcar", message=f"VASP read the POTCAR {symbol}; the protocol declares {wanted}.")
    return None
