"""What documents of made structures have in common: identity, the last look at the geometry, deduplication."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pymatgen.core import Structure

from aqvolt_flows.candidates.duplicates import Deduplicator
from aqvolt_flows.candidates.pool import kept_structures, reject_duplicate, write_judged
from aqvolt_flows.candidates.select import check_geometry, describe_any
from aqvolt_flows.schemas.candidate import ACCEPTED, CandidateDocument, CandidateSource, explored
from aqvolt_flows.schemas.parameters import DuplicateParameters
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.stores import Database


def generated_document(
    key: str,
    source: CandidateSource,
    parent: dict[str, Any],
    structure: Structure,
    failure: Failure | None,
    decisions: dict[str, Any],
    provenance: dict[str, Any],
    name: str,
) -> CandidateDocument:
    """Return the document of one made structure, or of the attempt that failed.

    Parameters
    ----------
    key
        Content key of the attempt; the identity follows from it, so that a rerun writes the same document.
    source
        ``stuffed`` or ``substituted``.
    parent
        Document of the host or parent.
    structure
        What was made; the last geometry, or the parent's own, where nothing was.
    failure
        Why it stays out, or None.
    decisions, provenance
        Numbers that decided, and what made it (potential, density, reference).
    name
        What people call it.
    """
    plain = Structure(structure.lattice, [s.specie.symbol for s in structure], structure.frac_coords)
    if failure is None:
        failure = check_geometry(plain, decisions)
    return CandidateDocument(
        candidate_id=f"candidate-{key}",
        key=key,
        name=name,
        source=source,
        status="rejected" if failure else "accepted",
        rejection=failure,
        structure=plain.as_dict(),
        parent_id=parent["candidate_id"],
        parent_source=parent.get("source"),
        decisions=decisions,
        provenance=provenance,
        references=list(parent.get("references") or []),
        **describe_any(plain),
    )


def write_generated(
    database: Database,
    documents: Sequence[CandidateDocument],
    duplicates: DuplicateParameters,
    only_aimd: Sequence[str] = (),
) -> dict[str, Any]:
    """Reject what the pool already has, write all, and return counts by status and reason.

    Children of the sources ``only_aimd`` come last, and no other is rejected as a duplicate of one of them: it would
    then not be explored.
    """
    aside = [d for d in documents if d.parent_source in only_aimd]
    counts: dict[str, Any] = {"new": 0, "accepted": 0, "rejected": {}}
    for group, query in (([d for d in documents if d not in aside], explored(only_aimd)), (aside, ACCEPTED)):
        if not group:
            continue
        _reject_duplicates(database, group, duplicates, query)
        counts["new"] += write_judged(database, group)
        for document in group:
            if document.rejection is None:
                counts["accepted"] += 1
            else:
                reason = document.rejection.reason
                counts["rejected"][reason] = counts["rejected"].get(reason, 0) + 1
    return counts


def _reject_duplicates(
    database: Database,
    documents: Sequence[CandidateDocument],
    duplicates: DuplicateParameters,
    query: dict[str, Any],
) -> None:
    offered = [(d, Structure.from_dict(d.structure)) for d in documents if d.status == "accepted"]
    with Deduplicator(duplicates, lambda formulas: kept_structures(database, formulas, query)) as seen:
        verdicts = seen.check([(d.candidate_id, s) for d, s in offered])
        for (document, _), verdict in zip(offered, verdicts, strict=True):
            if verdict.problem or verdict.duplicate_of:
                reject_duplicate(document, verdict, "", seen)
