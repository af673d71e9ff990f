"""What stands where: FireWorks states per stage, documents per collection, failures with their reasons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stages import STAGES
from aqvolt_flows.stores import IDENTITIES, Database
from aqvolt_flows.training.live import live_rows
from aqvolt_launch.launchpad import fizzled, get_launchpad
from aqvolt_launch.project.progress import STATES, progress, state_counts
from aqvolt_launch.submission.adopt import FIREWORK_FIELD
from aqvolt_launch.submission.holds import held_now

if TYPE_CHECKING:
    from fireworks import LaunchPad

#: Values of ``status`` that mean: a document that tells of a failure.
_FAILED = ("failed", "rejected")
#: Collection → its stage, of those whose documents may tell of a failure; ``status`` is indexed there or they are few.
_FAILING = {
    stage.collection: stage.name for stage in reversed(STAGES) if stage.failed_word and stage.collection in IDENTITIES
}


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
        ``stages`` (counts per FireWorks state), ``progress`` (per stage what waits, runs, is done and failed, rate,
        time left and hours; see :func:`aqvolt_launch.project.progress.progress`), ``costs`` (the documents of the
        costs builder), ``collections`` (documents, and how many of them tell
        of a failure), ``reasons`` (failure documents counted by reason), ``fizzled`` (Fireworks whose
        job raised, newest first, at most ``max_failures``), ``held`` (what is held, and why), ``campaigns`` (whose
        all this is), ``training`` (trainings that have begun and not ended on this machine, whoever wants them).
    """
    database = Database.connect(settings) if database is None else database
    launchpad = get_launchpad(settings)
    asked = database.members("outputs")
    members = {FIREWORK_FIELD: next(iter(asked.values()))} if asked else {}
    counts = state_counts(launchpad, members)
    reasons = failure_reasons(database)
    return {
        "campaigns": database.known_campaigns() if database.all_campaigns else [database.campaign],
        "stages": stage_rows(counts),
        "progress": progress(launchpad, counts, reasons),
        "costs": list(database["costs"].find({}, {"_id": 0, "key": 0, "campaigns": 0})),
        "collections": collection_counts(database),
        "reasons": [{k: v for k, v in row.items() if k != "stage"} for row in reasons],
        "fizzled": fizzled(launchpad, max_failures, members),
        "held": held_now(database),
        "training": live_rows(settings),
    }


def stage_rows(counts: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """Return one row per stage with its number of Fireworks in each state that occurs."""
    seen = {state for states in counts.values() for state, n in states.items() if n}
    shown = [s for s in STATES if s in seen or s in {"READY", "RUNNING", "COMPLETED", "FIZZLED"}]
    return [{"stage": stage, **{state: states[state] for state in shown}} for stage, states in counts.items()]


def stage_counts(launchpad: LaunchPad, query: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Return one row per stage with its number of Fireworks in each state that occurs."""
    return stage_rows(state_counts(launchpad, query))


def collection_counts(database: Database) -> list[dict[str, Any]]:
    """Return one row per collection: its documents, and those among them that tell of a failure."""
    rows = []
    for name in (*IDENTITIES, "outputs"):
        collection = database.own(name)
        failed = collection.count_documents({"status": {"$in": list(_FAILED)}}) if name in _FAILING else 0
        rows.append({"collection": name, "documents": collection.estimated_document_count(), "failures": failed})
    return rows


def failure_reasons(database: Database) -> list[dict[str, Any]]:
    """Return failure documents counted by stage, collection and reason, most frequent first."""
    rows = []
    group: dict[str, Any] = {"_id": {"$ifNull": ["$failure.reason", "$rejection.reason"]}, "n": {"$sum": 1}}
    pipeline: list[Mapping[str, Any]] = [{"$match": {"status": {"$in": list(_FAILED)}}}, {"$group": group}]
    for name, stage in _FAILING.items():
        for row in database.own(name).aggregate(pipeline):
            about = {"stage": stage, "collection": name, "reason": row["_id"] or "unknown"}
            rows.append(about | {"documents": row["n"]})
    return sorted(rows, key=lambda row: -row["documents"])
