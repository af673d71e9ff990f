"""The last gate before labels are stored: a batch of them against this import's earlier records and the database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aqvolt_flows.datasets.importers.contradictions import (
    COMPARED,
    REASON,
    Seen,
    contradiction,
    difference,
    place_of,
    same_geometry,
)
from aqvolt_flows.datasets.importers.published import Broken, ImportOptions
from aqvolt_flows.schemas.label import LabelDocument
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.stores import Database


@dataclass
class Passed:
    """A judged batch.

    Attributes
    ----------
    labels
        To be stored.
    rejected
        Labels of earlier records that are taken back, to be stored as rejected.
    broken
        Records that are set aside, those that are taken back among them.
    skipped
        Repetitions that say the same.
    withdrawn, withdrawn_new
        Labels that an earlier batch of the file counted and that are taken back, by protocol; how many were new.
    withdrawn_elsewhere
        Labels of other files of the import that are taken back.
    """

    labels: list[LabelDocument] = field(default_factory=list)
    rejected: list[LabelDocument] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    withdrawn: Counter[str] = field(default_factory=Counter)
    withdrawn_new: int = 0
    withdrawn_elsewhere: int = 0


class Gate:
    """Refuses labels that contradict others.

    Parameters
    ----------
    database
        Holds ``labels`` of earlier imports and batches.
    options
        Whether stored labels may be replaced.
    seen
        What this import has met.
    """

    def __init__(self, database: Database, options: ImportOptions, seen: Seen) -> None:
        self._database, self._options, self._seen = database, options, seen

    def judge(self, batch: Sequence[LabelDocument]) -> Passed:
        """Return what becomes of a batch."""
        wanted = {"label_id": {"$in": [label.label_id for label in batch]}}
        fields = dict.fromkeys(COMPARED, 1) | {"_id": 0}
        stored = {d["label_id"]: d for d in self._database["labels"].find(wanted, fields)}
        passed = Passed()
        pending: dict[str, LabelDocument] = {}
        for label in batch:
            if self._repeats(label, pending, passed) or self._defended(label, stored.get(label.label_id), passed):
                continue
            self._seen.add(label, existed=label.label_id in stored)
            pending[label.label_id] = label
        passed.labels = list(pending.values())
        return passed

    def _repeats(self, label: LabelDocument, pending: dict[str, LabelDocument], passed: Passed) -> bool:
        """Return whether an earlier record of this import settles what becomes of a label."""
        earlier = self._seen.earlier(label)
        if earlier is None:
            return False
        if self._seen.is_refused(earlier):
            message = "Records of the same configuration or identity before it contradicted each other."
            passed.broken.append(broken_label(label, Failure(reason=REASON, message=message)))
            return True
        held = pending.get(earlier)
        other = held if held is not None else self._stored(earlier)
        if other is None:
            return False
        plain = _plain(other)
        how = difference(plain, _plain(label)) if same_geometry(plain, _plain(label)) else "another configuration"
        if how is None:
            if earlier != label.label_id:  # two identities of one dataset that agree: both are kept
                return False
            passed.skipped["repeated"] += 1
            return True
        failure = contradiction(how, _plain(label))
        passed.broken += [broken_label(label, contradiction(how, plain)), broken_label(other, failure)]
        passed.rejected.append(_rejected(other, failure))
        self._seen.refuse(earlier)
        if held is not None:
            del pending[earlier]
        elif other.provenance.get("file") != label.provenance.get("file"):
            passed.withdrawn_elsewhere += 1
        else:
            passed.withdrawn[other.protocol_name] += 1
            passed.withdrawn_new += not self._seen.existed(earlier)
        return True

    def _defended(self, label: LabelDocument, stored: Mapping[str, Any] | None, passed: Passed) -> bool:
        """Return whether a label of an earlier import says otherwise and stays."""
        if stored is None or stored["status"] != "valid" or self._options.replace:
            return False
        own, other = label.provenance, stored.get("provenance") or {}
        if (own.get("file"), own.get("record")) == (other.get("file"), other.get("record")):
            return False  # the same record again: its file, or how it is read, was corrected
        how = difference(stored, _plain(label)) if same_geometry(stored, _plain(label)) else "another configuration"
        if how is None:
            return False
        message = (
            f"The stored label ({place_of(stored)}) says otherwise: {how}; import with --replace if this one is right."
        )
        passed.broken.append(broken_label(label, Failure(reason="contradicts_stored", message=message)))
        return True

    def _stored(self, label_id: str) -> LabelDocument | None:
        found = self._database["labels"].find_one({"label_id": label_id, "status": "valid"}, {"_id": 0})
        if found is None:
            return None
        return LabelDocument(**{k: v for k, v in found.items() if k in LabelDocument.model_fields})


def broken_label(label: LabelDocument, failure: Failure) -> Broken:
    """Return a label as a record that is set aside."""
    where = label.provenance
    reason = f"{failure.reason}: {failure.message.rstrip('.')}"
    return Broken(where.get("file", ""), where.get("record", 0), None, reason, record_id=where.get("record_id"))


def _plain(label: LabelDocument) -> dict[str, Any]:
    return {name: getattr(label, name) for name in COMPARED}


def _rejected(label: LabelDocument, failure: Failure) -> LabelDocument:
    """Return a label taken back: without arrays, as labels that were rejected when they were built."""
    nothing = dict.fromkeys(("forces", "stress", "magmoms", "charges", "energy", "energy_per_atom"))
    nothing |= dict.fromkeys(("max_force", "pressure_gpa", "cohesive_energy_per_atom", "bandgap"))
    nothing |= dict.fromkeys(("efermi", "vbm", "cbm", "surrogate_difference_per_atom"))
    arrays: dict[str, list[Any]] = {"atomic_numbers": [], "positions": [], "cell": []}
    return label.model_copy(update=nothing | arrays | {"status": "rejected", "failure": failure})
