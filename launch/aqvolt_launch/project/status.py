"""What stands where: FireWorks states per stage, documents per collection, failures with their reasons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stages import STAGES
from aqvolt_flows.stores import IDENTITIES, Database
from aqvolt_flows.training.live import live_rows
from aqvolt_launch.launchpad import fizzled, get_launchpad
from aqvolt_launch.submission.adopt import FIREWORK_FIELD
from aqvolt_launch.submission.holds import held_now

if TYPE_CHECKING:
    from fireworks import LaunchPad

STATES = ("WAITING", "READY", "RESERVED", "RUNNING", "COMPLETED", "FIZZLED", "PAUSED", "DEFUSED", "ARCHIVED")
#: Values of ``status`` that mean: a document that tells of a failure.
_FAILED = ("failed", "rejected")


def collect_status(
    settings: AqvoltSettings, max_failures: int = 20, database: Database | None = None
) -> dict[str, Any]:
    """Return the state of a campaign.

    Parameters
    ----------
    settings
        Which database.
    max_failures
        How many Fireworks whose job raised are listed.
    database
        As the campaign sees it; by default that of the settings.

    Returns
    -------
    dict
        ``stages`` (counts per FireWorks state), ``collections`` (documents, and how many of them tell
        of a failure), ``reasons`` (failure documents counted by reason), ``fizzled`` (Fireworks whose
        job raised, newest first, at most ``max_failures``), ``held`` (what is held, and why), ``campaigns`` (whose
        all this is), ``training`` (trainings that have begun and not ended on this machine, whoever wants them).
    """
    database = Database.connect(settings) if database is None else database
    launchpad = get_launchpad(settings)
    asked = database.members("outputs")
    members = {FIREWORK_FIELD: next(iter(asked.values()))} if asked else {}
    return {
        "campaigns": database.known_campaigns() if database.all_campaigns else [database.campaign],
        "stages": stage_counts(launchpad, members),
        "collections": collection_counts(database),
        "reasons": failure_reasons(database),
        "fizzled": fizzled(launchpad, max_failures, members),
        "held": held_now(database),
        "training": live_rows(settings),
    }


def stage_counts(launchpad: LaunchPad, query: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return one row per stage with its number of Fireworks in each state that occurs."""
    group = {"$group": {"_id": {"stage": "$spec.aqvolt.stage", "state": "$state"}, "n": {"$sum": 1}}}
    pipeline = [{"$match": dict(query)}, group] if query else [group]
    counts: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(STATES, 0))
    for row in launchpad.fireworks.aggregate(pipeline):
        counts[row["_id"].get("stage") or "other"][row["_id"]["state"]] += row["n"]
    seen = {state for states in counts.values() for state, n in states.items() if n}
    shown = [s for s in STATES if s in seen or s in {"READY", "RUNNING", "COMPLETED", "FIZZLED"}]
    order = [stage.name for stage in STAGES]
    ordered = sorted(counts, key=lambda stage: (order.index(stage) if stage in order else len(order), stage))
    return [{"stage": stage, **{state: counts[stage][state] for state in shown}} for stage in ordered]


def collection_counts(database: Database) -> list[dict[str, Any]]:
    """Return one row per collection: its documents, and those among them that tell of a failure."""
    rows = []
    for name in (*IDENTITIES, "outputs"):
        collection = database.own(name)
        failed = collection.count_documents({"status": {"$in": list(_FAILED)}}) if name in IDENTITIES else 0
        rows.append({"collection": name, "documents": collection.count_documents(), "failures": failed})
    return rows


def failure_reasons(database: Database) -> list[dict[str, Any]]:
    """Return failure documents counted by collection and reason, most frequent first."""
    rows = []
    group: dict[str, Any] = {"_id": {"$ifNull": ["$failure.reason", "$rejection.reason"]}, "n": {"$sum": 1}}
    pipeline: list[Mapping[str, Any]] = [{"$match": {"status": {"$in": list(_FAILED)}}}, {"$group": group}]
    for name in IDENTITIES:
        found = database.own(name).aggregate(pipeline)
        rows += [{"collection": name, "reason": row["_id"] or "unknown", "documents": row["n"]} for row in found]
    return sorted(rows, key=lambda row: -row["documents"])
