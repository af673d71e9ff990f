"""Plan the selection of candidates, and count the pool."""

from __future__ import annotations

from typing import Any

from aqvolt_flows.campaign import Campaign
from aqvolt_flows.candidates.jobs import SelectMaker
from aqvolt_flows.candidates.pool import Intake, pool_counts, prototype_records
from aqvolt_flows.identity import content_key
from aqvolt_flows.stores import Database
from aqvolt_flows.work import Plan, WorkItem

#: What decides a selection, and so its key; rules of other routes may change without selecting again.
_SELECTION = (
    "prototypes",
    "require_elements",
    "require_any_of",
    "exclude_elements",
    "exclude_radioactive",
    "exclude_noble_gases",
)


def plan_candidates(campaign: Campaign, database: Database, _claimed: frozenset[str] = frozenset()) -> Plan:
    """Return the selection of the campaign's structures."""
    p = campaign.candidates
    intake = Intake(p, source="user")
    documents = [intake.document(r) for r in prototype_records(p)]
    ids = sorted({d.candidate_id for d in documents})
    present = database["candidates"].count_documents({"candidate_id": {"$in": ids}})
    key = content_key("select/1", parameters=p.model_dump(mode="json", include=set(_SELECTION)))
    accepted = sum(d.status == "accepted" for d in documents)
    missing = (
        []
        if documents
        else ["the campaign names no structure; add candidates.prototypes or run 'aqvolt candidates import FILE'"]
    )
    item = WorkItem(
        "candidates",
        key,
        f"select {len(documents)} candidates",
        lambda: SelectMaker(parameters=p).make(key),
        done=bool(ids) and present == len(ids),
    )
    facts: dict[str, Any] = {
        "offered": len(documents),
        "accepted": accepted,
        "rejected": len(documents) - accepted,
        "known": present,
    }
    facts |= _pool_facts(database)
    return Plan("candidates", [item] if documents else [], missing, facts)


def _pool_facts(database: Database) -> dict[str, Any]:
    """Return what the pool holds already: candidates and hosts by source, what was left out by reason."""
    facts: dict[str, Any] = {}
    for row in pool_counts(database):
        what = "hosts" if row["role"] == "host" else "candidates"
        name, part = (
            (f"pool_{what}", row["source"]) if row["status"] == "accepted" else (f"left_out_{what}", row["reason"])
        )
        by = facts.setdefault(name, {})
        by[part] = by.get(part, 0) + row["n"]
    return facts
