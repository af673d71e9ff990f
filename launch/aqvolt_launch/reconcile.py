"""Reconciliation: make the LaunchPad, the outputs and the folders agree after whatever happened."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import timedelta
from itertools import batched
from typing import TYPE_CHECKING, Any

from bson import ObjectId

from aqvolt_flows.schemas.base import utc_now
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_launch.launchpad import KEY_FIELD, ensure_launchpad
from aqvolt_launch.recovery import lost_launches, recover_dead, rerun
from aqvolt_launch.status import fizzled

if TYPE_CHECKING:
    from fireworks import LaunchPad

#: A Firework without a workflow may belong to a submission in progress; older ones do not.
ORPHAN_AGE = timedelta(minutes=10)
_BATCH = 1000


@dataclass(frozen=True)
class ReconcileReport:
    """What was found and, unless it was a dry run, put right.

    Attributes
    ----------
    dry_run
        Nothing was changed.
    lost
        Fireworks whose worker on this host is gone; rerun.
    recovered
        All that :func:`aqvolt_launch.recovery.recover_dead` put right, by kind; empty in a dry run.
    orphans
        Fireworks without a workflow, left by a killed submission; removed.
    broken
        Keys of workflows with missing Fireworks; only reported: remove one with ``lpad delete_wflows``
        and submit again.
    without_output
        Fireworks that are COMPLETED while ``outputs`` has no document of theirs; rerun.
    fizzled
        Fireworks whose job raised, with the exception's last line; only reported.
    """

    dry_run: bool
    lost: list[int]
    recovered: dict[str, int]
    orphans: list[int]
    broken: list[str]
    without_output: list[int]
    fizzled: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a mapping."""
        return asdict(self)


def reconcile(settings: AqvoltSettings, dry_run: bool = False) -> ReconcileReport:
    """Find lost runs, leftovers and finished work without a result, and put them right.

    Parameters
    ----------
    settings
        Which database.
    dry_run
        Only look.
    """
    database = Database.connect(settings)
    launchpad = ensure_launchpad(settings)
    lost = sorted(launch["fw_id"] for launch in lost_launches(launchpad))
    recovered = {} if dry_run else recover_dead(settings).as_dict()
    orphans, broken = _unmatched(launchpad)
    without_output = _without_output(launchpad, database)
    if not dry_run:
        if orphans:
            launchpad.fireworks.delete_many({"fw_id": {"$in": orphans}, "state": "WAITING"})
        for fw_id in without_output:
            rerun(launchpad, fw_id, states=("COMPLETED",))
    return ReconcileReport(dry_run, lost, recovered, orphans, broken, without_output, fizzled(launchpad))


def _unmatched(launchpad: LaunchPad) -> tuple[list[int], list[str]]:
    """Return Fireworks of ours without a workflow, and keys of workflows of ours without all their Fireworks."""
    expected: dict[int, str] = {}
    for workflow in launchpad.workflows.find({KEY_FIELD: {"$exists": True}}, {"nodes": 1, KEY_FIELD: 1}):
        expected |= dict.fromkeys(workflow["nodes"], workflow["metadata"]["aqvolt"]["key"])
    young = ObjectId.from_datetime(utc_now() - ORPHAN_AGE)
    orphans = []
    present = set()
    for firework in launchpad.fireworks.find({"spec.aqvolt.key": {"$exists": True}}, {"fw_id": 1, "state": 1}):
        present.add(firework["fw_id"])
        if firework["fw_id"] not in expected and firework["state"] == "WAITING" and firework["_id"] < young:
            orphans.append(firework["fw_id"])
    broken = sorted({key for fw_id, key in expected.items() if fw_id not in present})
    return sorted(orphans), broken


def _without_output(launchpad: LaunchPad, database: Database) -> list[int]:
    """Return COMPLETED Fireworks of ours whose job (uuid and index) has no document in ``outputs``."""
    fields = {"fw_id": 1, "spec._tasks.job.uuid": 1, "spec._tasks.job.index": 1}
    missing = []
    cursor = launchpad.fireworks.find({"state": "COMPLETED", "spec.aqvolt.key": {"$exists": True}}, fields)
    for batch in batched(cursor, _BATCH):
        jobs = {}
        for firework in batch:
            job = firework["spec"]["_tasks"][0].get("job", {})
            jobs[firework["fw_id"]] = (job.get("uuid"), job.get("index", 1))
        query = {"uuid": {"$in": [uuid for uuid, _ in jobs.values()]}}
        found = {(d["uuid"], d["index"]) for d in database["outputs"].find(query, {"uuid": 1, "index": 1})}
        missing += [fw_id for fw_id, job in jobs.items() if job not in found]
    return sorted(missing)
