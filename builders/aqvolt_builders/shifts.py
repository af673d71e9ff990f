"""What labels may be expected to differ from the frames' own potential by, fitted once per run of the builder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import batched
from typing import Any

from maggma.core import Store
from pymatgen.core import Composition

from aqvolt_builders.base import by_key, frames_with_model
from aqvolt_flows.chemistry import symbols_of
from aqvolt_flows.datasets.energies import EnergyShift, fit_shift
from aqvolt_flows.labelers import known_code
from aqvolt_flows.schemas.provenance import Protocol

#: Outcomes that enter the fit, evenly spread over those that wait.
MAX_WAITING = 4_000
#: Labels per element that enter it besides, so that one new label is judged by many old ones.
LABELS_PER_ELEMENT = 40
_BATCH = 500

Pair = tuple[str, str]


class Shifts:
    """Energy shifts by (exploring potential, protocol).

    Parameters
    ----------
    fitted
        (model string, protocol_id) → shift.
    """

    def __init__(self, fitted: Mapping[Pair, EnergyShift] | None = None) -> None:
        self.fitted = dict(fitted or {})

    @classmethod
    def of(cls, outputs: Store, frames: Store, trajectories: Store, labels: Store, waiting: Sequence[str]) -> Shifts:
        """Return the shifts that a sample of waiting outcomes and of finished labels shows.

        Parameters
        ----------
        outputs, frames, trajectories, labels
            Where outcomes, their frames, the potentials that made these and finished labels are.
        waiting
            Identities of the jobs whose outcomes are not built yet.
        """
        step = max(1, -(-len(waiting) // MAX_WAITING))
        rows: dict[Pair, list[tuple[float, Mapping[str, float]]]] = defaultdict(list)
        elements: set[str] = set()
        for uuids in batched(waiting[::step], _BATCH):
            for pair, difference, composition in _of_outcomes(outputs, frames, trajectories, uuids):
                rows[pair].append((difference, composition))
                elements |= set(composition)
        for pair, difference, composition in _of_labels(labels, sorted(elements)):
            if pair in rows:
                rows[pair].append((difference, composition))
        return cls({pair: fit_shift([d for d, _ in found], [c for _, c in found]) for pair, found in rows.items()})

    def expected(self, outcome: Mapping[str, Any], frame: Mapping[str, Any] | None) -> float | None:
        """Return the expected E_label − E_potential of one outcome, eV; None where nothing is known."""
        pair = _pair(outcome, frame)
        numbers = outcome.get("atomic_numbers")
        if pair is None or pair not in self.fitted or not _are_elements(numbers):
            return None
        return self.fitted[pair].of(symbols_of(numbers or ()))


def _are_elements(numbers: Any) -> bool:
    return isinstance(numbers, list) and bool(numbers) and all(isinstance(z, int) and 1 <= z <= 118 for z in numbers)


def _pair(outcome: Mapping[str, Any], frame: Mapping[str, Any] | None) -> Pair | None:
    protocol = outcome.get("protocol")
    if frame is None or not isinstance(protocol, Mapping):
        return None
    known = {name: protocol.get(name) for name in ("code", "functional", "settings_hash")}
    if not known_code(known["code"]) or not isinstance(known["functional"], str):
        return None
    settings = known["settings_hash"] if isinstance(known["settings_hash"], str) else ""
    made = Protocol.model_validate(known | {"version": "", "settings_hash": settings})
    return str(frame.get("explored_with")), made.protocol_id


def _of_outcomes(
    outputs: Store, frames: Store, trajectories: Store, uuids: Iterable[str]
) -> Iterable[tuple[Pair, float, Mapping[str, float]]]:
    """Yield pair, difference (eV/atom) and composition of converged outcomes; reads scalars only."""
    fields = {f"output.{name}": 1 for name in ("frame_id", "energy", "status", "protocol")} | {"_id": 0}
    found = [d["output"] for d in by_key(outputs, "uuid", uuids, fields) if isinstance(d.get("output"), dict)]
    ids = [o["frame_id"] for o in found if isinstance(o.get("frame_id"), str)]
    known = frames_with_model(frames, trajectories, ids)
    for outcome in found:
        frame = known.get(str(outcome.get("frame_id")))
        pair = _pair(outcome, frame)
        energy = outcome.get("energy")
        if pair is None or frame is None or outcome.get("status") != "converged" or not isinstance(energy, int | float):
            continue
        composition = {str(e): float(n) for e, n in Composition(frame["formula"]).get_el_amt_dict().items()}
        yield pair, (energy - frame["surrogate_energy"]) / frame["n_atoms"], composition


def _of_labels(labels: Store, elements: Sequence[str]) -> Iterable[tuple[Pair, float, Mapping[str, float]]]:
    """Yield the same of labels that hold these elements."""
    fields = ("label_id", "formula", "explored_with", "protocol_id", "surrogate_difference_per_atom")
    seen: set[str] = set()
    for element in elements:
        query = {"elements": element, "status": "valid", "surrogate_difference_per_atom": {"$type": "double"}}
        for label in labels.query(query, dict.fromkeys(fields, 1) | {"_id": 0}, limit=LABELS_PER_ELEMENT):
            if label["label_id"] in seen:
                continue
            seen.add(label["label_id"])
            composition = {str(e): float(n) for e, n in Composition(label["formula"]).get_el_amt_dict().items()}
            pair = (str(label.get("explored_with")), label["protocol_id"])
            yield pair, float(label["surrogate_difference_per_atom"]), composition
