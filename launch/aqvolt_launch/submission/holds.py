"""Holds: chemical systems that used up their failure budget, and what reconciliation could not repair.

A chemical system has used up its budget when at least ``min_outcomes`` of its labels have an outcome and more than
``max_failed_fraction`` of them failed. It is paused: its Fireworks do not run, further ones are not submitted, and
``aqvolt hold lift Cl-Li-Y`` resumes it and resets its failure count.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pymongo.collection import Collection

from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.base import utc_now
from aqvolt_flows.schemas.hold import HoldDocument, HoldKind
from aqvolt_flows.stores import Database
from aqvolt_launch.open_project import Project
from aqvolt_launch.submission import window as queue

#: Workers look at the budgets so often, all of them together.
LOOK = timedelta(seconds=60)
_BUDGET = "failure-budget"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FailureBudget:
    """How many labels of one chemical system may fail before it is paused.

    Attributes
    ----------
    min_outcomes
        Outcomes before the fraction counts.
    max_failed_fraction
        Failed by all outcomes; above it the system is paused. 1: never.
    code
        Whose outcomes count: vasp, gpaw or surrogate.
    """

    min_outcomes: int
    max_failed_fraction: float
    code: str


def set_budget(project: Project, budget: FailureBudget) -> None:
    """Remember the budget for the workers."""
    values = {"min_outcomes": budget.min_outcomes, "max_failed_fraction": budget.max_failed_fraction}
    _queue(project.database).update_one({"_id": _BUDGET}, {"$set": values | {"code": budget.code}}, upsert=True)


def _queue(database: Database) -> Collection[dict[str, Any]]:
    return database.mongo[queue.COLLECTION]


def enforce(project: Project, at_most_every: timedelta | None = None) -> list[str]:
    """Pause the chemical systems that have used up their failure budget; return those that were not paused before.

    Parameters
    ----------
    project
        Which project.
    at_most_every
        Do nothing if another process did it within this time.
    """
    database = project.database
    stored = _queue(database).find_one({"_id": _BUDGET}, {"_id": 0})
    if stored is None:
        return []
    launchpad = project.launchpad
    if at_most_every and not queue.take_lease(launchpad, _BUDGET, at_most_every):
        return []
    budget = FailureBudget(**stored)
    held = {d["what"]: d for d in database["holds"].find({"kind": "chemsys"})}
    paused = []
    for system, (outcomes, failed) in outcome_counts(database, budget.code).items():
        before = held.get(system, {})
        if before.get("status") == "held":
            queue.pause_system(launchpad, system)  # nothing to do, unless a process was killed between the two
        forgiven = (before.get("lifted_outcomes", 0), before.get("lifted_failed", 0))
        counted, wrong = outcomes - forgiven[0], failed - forgiven[1]
        if before.get("status") == "held" or counted < budget.min_outcomes:
            continue
        if wrong > budget.max_failed_fraction * counted:
            message = f"{wrong} of {counted} labels of {system} failed, more than {budget.max_failed_fraction:.0%}."
            numbers = {"outcomes": outcomes, "failed": failed}
            numbers |= {"lifted_outcomes": forgiven[0], "lifted_failed": forgiven[1]}
            hold = HoldDocument.of("chemsys", system, "failure_budget", message, **numbers)
            database.upsert("holds", [hold])
            n = queue.pause_system(launchpad, system)
            logger.warning("Paused %s: %s %d Fireworks wait for 'aqvolt hold lift %s'.", system, message, n, system)
            paused.append(system)
    return paused


def outcome_counts(database: Database, code: str) -> dict[str, tuple[int, int]]:
    """Return chemical system → (outcomes, failed ones) of the labels by one code; unlabelled systems are left out."""
    match = {"metadata.aqvolt.stage": "label", "output.protocol.code": code}
    failed = {"$cond": [{"$eq": ["$output.status", "converged"]}, 0, 1]}
    group: dict[str, Any] = {"_id": "$metadata.aqvolt.chemsys", "n": {"$sum": 1}, "failed": {"$sum": failed}}
    rows = database["outputs"].aggregate([{"$match": match}, {"$group": group}])
    return {row["_id"]: (row["n"], row["failed"]) for row in rows if row["_id"]}


def hold(database: Database, kind: HoldKind, what: str, reason: str, message: str) -> None:
    """Hold a thing, unless somebody has lifted the hold on it for the same reason."""
    document = HoldDocument.of(kind, what, reason, message)
    before = database["holds"].find_one({"hold_id": document.hold_id}, {"status": 1, "reason.reason": 1})
    if before is None or (before["status"] == "lifted" and before["reason"]["reason"] != reason):
        database.upsert("holds", [document])


def lift(project: Project, what: str) -> int:
    """Lift the holds on a thing, by its name or its ``hold_id``; return how many Fireworks may run again.

    Raises
    ------
    InputError
        If nothing of this name is held.
    """
    database, launchpad = project.database, project.launchpad
    query = {"status": "held", "$or": [{"what": what}, {"hold_id": what}]}
    found = list(database["holds"].find(query))
    if not found:
        raise InputError(f"Nothing named {what!r} is held; 'aqvolt hold list' shows what is.")
    resumed = 0
    for document in found:
        change: dict[str, Any] = {"status": "lifted", "last_updated": utc_now()}
        if document["kind"] == "chemsys":
            stored = _queue(database).find_one({"_id": _BUDGET}) or {}
            outcomes, failed = outcome_counts(database, stored.get("code", "vasp")).get(document["what"], (0, 0))
            change |= {"lifted_outcomes": outcomes, "lifted_failed": failed}
        database["holds"].update_one({"hold_id": document["hold_id"]}, {"$set": change})
        if document["kind"] == "chemsys":
            resumed += queue.resume_system(launchpad, document["what"])
    return resumed


def held_now(database: Database) -> list[dict[str, Any]]:
    """Return what is held: kind, what, reason, message, since; newest first."""
    fields = {"_id": 0, "hold_id": 1, "kind": 1, "what": 1, "reason": 1, "since": 1}
    found = database["holds"].find({"status": "held"}, fields).sort("since", -1)
    return [
        {k: d[k] for k in ("hold_id", "kind", "what")}
        | {"reason": d["reason"]["reason"], "message": d["reason"]["message"], "since": d["since"]}
        for d in found
    ]
