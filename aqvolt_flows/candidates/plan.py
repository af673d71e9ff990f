"""Plan the selection of candidates, and count the pool."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
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
    verdicts = {d.candidate_id: d.status for d in documents}
    stored = database["candidates"].find(
        {"candidate_id": {"$in": ids}}, {"candidate_id": 1, "status": 1, "campaigns": 1}
    )
    present = sum(_is_settled(database, d, verdicts[d["candidate_id"]]) for d in stored)
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
    return Plan("candidates", [item] if documents else [], missing, facts, partial(_adopt, database, key, verdicts))


def _is_settled(database: Database, stored: Mapping[str, Any], verdict: str) -> bool:
    """Whether a structure needs no selection: it is the campaign's, or left out here and accepted by another."""
    own = database.is_alone() or database.campaign in database.members_of(stored)
    return own or (verdict == "rejected" and stored["status"] == "accepted")


def _adopt(database: Database, key: str, verdicts: Mapping[str, str]) -> int:
    """Take over what the same selection, run for another campaign, has written."""
    if database["outputs"].find_one({"metadata.aqvolt.key": key}, {"_id": 1}) is None:
        return 0
    by_verdict = [(v, [i for i, found in verdicts.items() if found == v]) for v in ("accepted", "rejected")]
    return sum(database.adopt("candidates", ids, query={"status": verdict}) for verdict, ids in by_verdict)


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
