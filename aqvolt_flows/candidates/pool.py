"""From a stream of records to documents: judged, deduplicated against the pool, written in batches."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import batched
from pathlib import Path
from typing import IO, Any, Literal

from pymatgen.core import Structure

from aqvolt_flows.candidates.duplicates import Deduplicator, Verdict
from aqvolt_flows.candidates.hosts import host_document
from aqvolt_flows.candidates.records import Quarantined, Record, encodable
from aqvolt_flows.candidates.select import build_structure, candidate_document
from aqvolt_flows.schemas.candidate import ACCEPTED, CandidateDocument, CandidateSource
from aqvolt_flows.schemas.parameters import CandidateParameters
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.stores import Database, by_ids

Role = Literal["candidate", "host"]
Judged = tuple[CandidateDocument, Structure]
#: Documents in memory at a time.
BATCH = 500
#: A cell of more atoms is no crystal to start from, and comes near MongoDB's limit for a document.
MAX_SITES = 10_000
#: Broken records that a report quotes; the quarantine file has all.
SHOWN = 5


@dataclass
class ImportReport:
    """What an import did.

    Attributes
    ----------
    read
        Records seen, broken ones included.
    new
        Documents that were not there before.
    accepted, rejected
        By source, and by reason; with what was there before.
    not_kept
        Rejected without a document, by reason, because the caller asked so.
    repeated
        The very same structure a second time in this import.
    quarantined, quarantined_for
        Records that could not be read; by kind of reason (:data:`~aqvolt_flows.candidates.refusals.REFUSALS`).
    broken
        Sentences about the first few of them.
    stopped
        Sentences about files that could not be read to their end.
    remarks
        What readers had to say about the first few structure files; all of it is in ``provenance.remarks``.
    """

    read: int = 0
    new: int = 0
    accepted: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    not_kept: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    quarantined: int = 0
    quarantined_for: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {k: dict(v) if isinstance(v, Counter) else v for k, v in vars(self).items()}

    def unread(self, broken: Quarantined) -> None:
        """Count a record that could not be read."""
        place = f"{broken.file}, record {broken.record}" + (f", line {broken.line}" if broken.line else "")
        if broken.fatal:
            self.stopped.append(f"{place}: {broken.reason}; the records before it are in, nothing after it was read")
        else:
            self.read += 1
            self.broken += [f"{place}: {broken.reason}"] if len(self.broken) < SHOWN else []
        self.quarantined += 1
        self.quarantined_for[broken.code] += 1


@dataclass(frozen=True)
class Intake:
    """How records become documents.

    Parameters
    ----------
    parameters
        The campaign's rules.
    role
        ``candidate``: judged as a Li halide; ``host``: judged as an empty host.
    source
        What the documents say; by default ``matpes`` for MatPES records, else ``user``.
    not_kept
        Reasons whose rejected structures are only counted, e.g. ``missing_element`` of a file of all
        chemistries.
    """

    parameters: CandidateParameters
    role: Role = "candidate"
    source: CandidateSource | None = None
    not_kept: Collection[str] = ()

    def document(self, record: Record) -> CandidateDocument:
        """Return the document of one record, judged but not yet compared with others."""
        origin = record.provenance
        source = self.source or ("matpes" if origin.get("database") == "MatPES" else "user")
        references = list(record.references) or [str(origin[k]) for k in ("record_id", "file") if k in origin]
        if self.role == "host":
            return host_document(record.structure, self.parameters.hosts, record.name, source, references, origin)
        return candidate_document(record.structure, self.parameters, record.name, source, references, provenance=origin)


def prototype_records(parameters: CandidateParameters) -> list[Record]:
    """Return the structures that a campaign file gives by lattice data."""
    return [Record(p.name, build_structure(p), references=tuple(p.references)) for p in parameters.prototypes]


def kept_structures(
    database: Database, formulas: list[str], accepted: Mapping[str, Any]
) -> Iterator[tuple[str, str, Structure]]:
    """Yield (formula, identity, structure) of what a query accepts under some formulas, by identity."""
    query = {"formula": {"$in": formulas}, **accepted}
    fields = {"formula": 1, "candidate_id": 1, "structure": 1}
    for d in database.own("candidates").find(query, fields).sort("candidate_id", 1):
        yield d["formula"], d["candidate_id"], Structure.from_dict(d["structure"])


def pool_counts(database: Database) -> list[dict[str, Any]]:
    """Return how many documents there are by role, source, status and reason; the largest first."""
    group = {"role": "$role", "source": "$source", "status": "$status", "reason": "$rejection.reason"}
    found = database.own("candidates").aggregate([{"$group": {"_id": group, "n": {"$sum": 1}}}])
    rows = [
        {
            "role": d["_id"].get("role") or "candidate",
            "source": d["_id"].get("source"),
            "status": d["_id"].get("status"),
            "reason": d["_id"].get("reason") or "",
            "n": d["n"],
        }
        for d in found
    ]
    return sorted(rows, key=lambda r: (r["role"], r["status"], -r["n"], r["source"], r["reason"]))


def add_to_pool(
    entries: Iterable[Record | Quarantined],
    database: Database,
    intake: Intake,
    quarantine: Path | None = None,
    workers: int = 1,
) -> ImportReport:
    """Judge, deduplicate and write a stream of records; memory holds one batch and the kept, reduced structures.

    Running it again writes the same documents. Records of one structure are one document, which keeps
    the name and provenance of the first.

    Parameters
    ----------
    entries
        What the importers yield.
    database
        Where ``candidates`` are.
    intake
        Rules and role.
    quarantine
        JSON-lines file for broken records, one line each; written whole, replacing an earlier one.
    workers
        Processes that compare structures.
    """
    report = ImportReport()
    pool = {"status": "accepted", "role": "host"} if intake.role == "host" else ACCEPTED
    with (
        _QuarantineFile(quarantine) as aside,
        Deduplicator(
            intake.parameters.duplicates, lambda formulas: kept_structures(database, formulas, pool), workers
        ) as seen,
    ):
        for batch in batched(_usable(entries, report, aside), BATCH):
            judged = _judged(batch, intake, report, aside)
            _settle(judged, database, seen)
            kept = []
            for document, _ in judged:
                reason = document.rejection.reason if document.rejection else None
                if reason and reason in intake.not_kept:
                    report.not_kept[reason] += 1
                    continue
                kept.append(document)
                if reason:
                    report.rejected[reason] += 1
                else:
                    report.accepted[document.source] += 1
            report.new += write_judged(database, kept)
    return report


def write_judged(database: Database, documents: Sequence[CandidateDocument]) -> int:
    """Write judged structures and return how many were new.

    Campaigns may judge one structure differently; it has one document. The campaigns that accept it own the document,
    so a rejection by this campaign leaves another's acceptance alone, and an acceptance replaces another's rejection.
    """
    if database.is_alone():
        return database.upsert("candidates", documents)
    fields = {"_id": 0, "candidate_id": 1, "status": 1, "campaigns": 1}
    found = by_ids(database["candidates"], "candidate_id", [d.candidate_id for d in documents], fields)
    stored = {d["candidate_id"]: (d["status"], set(database.members_of(d)) - set(database.campaigns)) for d in found}
    mine: list[CandidateDocument] = []
    for document in documents:
        status, others = stored.get(document.candidate_id, ("", set()))
        if not others:
            mine.append(document)
        elif status == document.status:  # the reason and the name that were first stay
            database.adopt("candidates", [document.candidate_id])
        elif document.status == "accepted":
            change = {"$set": {"campaigns": sorted(database.campaigns)}}
            database["candidates"].update_one({"candidate_id": document.candidate_id}, change)
            mine.append(document)
        else:
            leave = {"$pull": {"campaigns": {"$in": list(database.campaigns)}}}
            database["candidates"].update_one({"candidate_id": document.candidate_id}, leave)
    return database.upsert("candidates", mine)


def _usable(entries: Iterable[Record | Quarantined], report: ImportReport, aside: _QuarantineFile) -> Iterator[Record]:
    for entry in entries:
        if isinstance(entry, Record) and len(entry.structure) <= MAX_SITES:
            report.read += 1
            yield replace(
                entry,
                name=encodable(entry.name),
                provenance=encodable(entry.provenance),
                references=tuple(encodable(entry.references)),
            )
            continue
        if isinstance(entry, Record):
            said = f"it has {len(entry.structure)} atoms; expected at most {MAX_SITES}"
            broken = _unread(entry, said, "too_large")
        else:
            broken = entry
        report.unread(broken)
        aside.write(broken)


def _unread(record: Record, said: str, code: str = "unreadable") -> Quarantined:
    where = record.provenance
    file, number = str(where.get("file", record.name)), int(where.get("record") or 0)
    return Quarantined(file, number, None, said, where.get("record_id"), code=code)


def _judged(batch: Iterable[Record], intake: Intake, report: ImportReport, aside: _QuarantineFile) -> list[Judged]:
    documents: dict[str, Judged] = {}
    for record in batch:
        try:
            document = intake.document(record)
        except Exception as error:  # noqa: BLE001 - a structure that breaks a rule's arithmetic must not end the import
            said = f"it cannot be judged ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
            broken = _unread(record, said)
            report.read -= 1  # counted when it was read, and again as unread
            report.unread(broken)
            aside.write(broken)
            continue
        remarks = record.provenance.get("remarks", ())
        report.remarks += [f"{record.name}: {said}" for said in remarks][: SHOWN - len(report.remarks)]
        if document.candidate_id in documents:
            report.repeated += 1
            continue
        documents[document.candidate_id] = (document, record.structure)
    return list(documents.values())


def _settle(judged: list[Judged], database: Database, seen: Deduplicator) -> None:
    """Reject duplicates, and let documents that are there already keep their name and provenance."""
    offered = [(d, s) for d, s in judged if d.status == "accepted"]
    verdicts = seen.check([(d.candidate_id, s) for d, s in offered])
    wanted = {d.candidate_id for d, _ in judged} | {v.duplicate_of for v in verdicts if v.duplicate_of}
    fields = {"_id": 0, "candidate_id": 1, "name": 1, "provenance": 1, "references": 1}
    found = database["candidates"].find({"candidate_id": {"$in": sorted(wanted)}}, fields)
    stored = {d["candidate_id"]: d for d in found}
    names = {d.candidate_id: d.name for d, _ in judged} | {i: d["name"] for i, d in stored.items()}
    for (document, _), verdict in zip(offered, verdicts, strict=True):
        if verdict.problem or verdict.duplicate_of:
            reject_duplicate(document, verdict, names.get(verdict.duplicate_of, ""), seen)
    for document, _ in judged:
        first = stored.get(document.candidate_id)
        origin = (first or {}).get("provenance") or {}
        if first and origin.get("record_id") != document.provenance.get("record_id"):
            document.name, document.references, document.provenance = first["name"], first["references"], origin


def reject_duplicate(document: CandidateDocument, verdict: Verdict, name: str, seen: Deduplicator) -> None:
    """Turn an accepted document into a rejected one that points at the structure that was kept, or says the problem."""
    if verdict.problem:
        document.status = "rejected"
        document.rejection = Failure(reason="not_comparable", message=verdict.problem)
        return
    tolerances = seen.parameters.model_dump(mode="json")
    document.status = "rejected"
    document.rejection = Failure(
        reason="duplicate", message=f"the same structure as {f'{name}, ' if name else ''}{verdict.duplicate_of}"
    )
    document.decisions |= {
        "duplicate_of": verdict.duplicate_of,
        "volume_ratio": verdict.volume_ratio,
        "structure_matcher": tolerances,
    }


class _QuarantineFile:
    """Broken records as JSON lines, written beside and renamed at the end."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._handle: IO[str] | None = None

    def __enter__(self) -> _QuarantineFile:
        return self

    def write(self, entry: Quarantined) -> None:
        if self.path is None:
            return
        if self._handle is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = self._beside.open("w", encoding="utf-8", errors="backslashreplace")
        self._handle.write(json.dumps(asdict(entry), ensure_ascii=False) + "\n")

    @property
    def _beside(self) -> Path:
        assert self.path is not None
        return self.path.with_name(f".{self.path.name}.{os.getpid()}")

    def __exit__(self, *_: object) -> None:
        if self._handle is not None and self.path is not None:
            self._handle.close()
            self._beside.replace(self.path)
