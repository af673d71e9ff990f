"""What stands where: FireWorks states per stage, documents per collection, failures with their reasons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import IDENTITIES, Database
from aqvolt_launch.holds import held_now
from aqvolt_launch.launchpad import get_launchpad

if TYPE_CHECKING:
    from fireworks import LaunchPad

STATES = ("WAITING", "READY", "RESERVED", "RUNNING", "COMPLETED", "FIZZLED", "PAUSED", "DEFUSED", "ARCHIVED")
#: Stages in the order of the chain; others follow.
STAGES = (
    "candidates",
    "lithiate",
    "substitute",
    "explore",
    "sample",
    "label",
    "aimd",
    "build",
    "release",
    "train",
    "benchmark",
    "report",
)
#: Values of ``status`` that mean: a document that tells of a failure.
_FAILED = ("failed", "rejected")


def collect_status(settings: AqvoltSettings, max_failures: int = 20) -> dict[str, Any]:
    """Return the state of the project.

    Returns
    -------
    dict
        ``stages`` (counts per FireWorks state), ``collections`` (documents, and how many of them tell
        of a failure), ``reasons`` (failure documents counted by reason), ``fizzled`` (Fireworks whose
        job raised, newest first, at most ``max_failures``), ``held`` (what is held, and why).
    """
    database = Database.connect(settings)
    launchpad = get_launchpad(settings)
    return {
        "stages": stage_counts(launchpad),
        "collections": collection_counts(database),
        "reasons": failure_reasons(database),
        "fizzled": fizzled(launchpad, max_failures),
        "held": held_now(database),
    }


def stage_counts(launchpad: LaunchPad) -> list[dict[str, Any]]:
    """Return one row per stage with its number of Fireworks in each state that occurs."""
    pipeline = [{"$group": {"_id": {"stage": "$spec.aqvolt.stage", "state": "$state"}, "n": {"$sum": 1}}}]
    counts: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(STATES, 0))
    for row in launchpad.fireworks.aggregate(pipeline):
        counts[row["_id"].get("stage") or "other"][row["_id"]["state"]] += row["n"]
    seen = {state for states in counts.values() for state, n in states.items() if n}
    shown = [s for s in STATES if s in seen or s in {"READY", "RUNNING", "COMPLETED", "FIZZLED"}]
    ordered = sorted(counts, key=lambda stage: (STAGES.index(stage) if stage in STAGES else len(STAGES), stage))
    return [{"stage": stage, **{state: counts[stage][state] for state in shown}} for stage in ordered]


def collection_counts(database: Database) -> list[dict[str, Any]]:
    """Return one row per collection: its documents, and those among them that tell of a failure."""
    rows = []
    for name in (*IDENTITIES, "outputs"):
        collection = database[name]
        failed = collection.count_documents({"status": {"$in": list(_FAILED)}}) if name in IDENTITIES else 0
        rows.append({"collection": name, "documents": collection.count_documents({}), "failures": failed})
    return rows


def failure_reasons(database: Database) -> list[dict[str, Any]]:
    """Return failure documents counted by collection and reason, most frequent first."""
    rows = []
    group: dict[str, Any] = {"_id": {"$ifNull": ["$failure.reason", "$rejection.reason"]}, "n": {"$sum": 1}}
    pipeline: list[Mapping[str, Any]] = [{"$match": {"status": {"$in": list(_FAILED)}}}, {"$group": group}]
    for name in IDENTITIES:
        found = database[name].aggregate(pipeline)
        rows += [{"collection": name, "reason": row["_id"] or "unknown", "documents": row["n"]} for row in found]
    return sorted(rows, key=lambda row: -row["documents"])


def fizzled(launchpad: LaunchPad, limit: int | None = None) -> list[dict[str, Any]]:
    """Return Fireworks whose job raised, newest first, each with the last line of its exception and its folder."""
    fields = {"fw_id": 1, "name": 1, "launches": 1, "spec.aqvolt": 1, "spec._exception_details": 1}
    cursor = launchpad.fireworks.find({"state": "FIZZLED"}, fields).sort("fw_id", -1).limit(limit or 0)
    found = list(cursor)
    last = {firework["fw_id"]: firework["launches"][-1] for firework in found if firework["launches"]}
    fields = {"launch_id": 1, "launch_dir": 1, "action.stored_data._exception": 1}
    found_launches = launchpad.launches.find({"launch_id": {"$in": list(last.values())}}, fields)
    launches = {launch["launch_id"]: launch for launch in found_launches}
    rows = []
    for firework in found:
        launch = launches.get(last.get(firework["fw_id"], -1), {})
        mark = firework["spec"].get("aqvolt", {})
        rows.append(
            {
                "fw_id": firework["fw_id"],
                "stage": mark.get("stage"),
                "name": firework["name"],
                "key": mark.get("key"),
                "reason": _last_line(firework, launch),
                "folder": launch.get("launch_dir"),
            }
        )
    return rows


def _last_line(firework: Mapping[str, Any], launch: Mapping[str, Any]) -> str:
    action = launch.get("action") or {}
    exception = action.get("stored_data", {}).get("_exception", {})
    text = exception.get("_stacktrace") or firework["spec"].get("_exception_details", {}).get("_stacktrace") or ""
    lines: Sequence[str] = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else "lost: its worker ended without a word"
