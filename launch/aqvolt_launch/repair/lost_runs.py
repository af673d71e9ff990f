"""Lost runs: what a killed worker leaves in the LaunchPad, and how it is repaired.

A worker can die between any two of FireWorks' writes. What can be left, and what is done:

========================================================  =============================================
left over                                                 done
========================================================  =============================================
a workflow locked by nobody                               unlocked after a grace time
a launch RUNNING whose process is gone                    the launch is closed, the Firework reruns; a label
                                                          whose result is there is completed instead
a Firework RUNNING or RESERVED whose launch has ended     refreshed (finished) or rerun (closed as lost)
a Firework RESERVED with no launch                        READY again after a grace time
a finished Firework in a workflow that does not know      refreshed
a root Firework WAITING in a submitted workflow           READY (a submission was killed)
workflows of an announced batch without their Firework    removed (a submission was killed)
========================================================  =============================================

Only this host's processes can be judged. Launches of other hosts are watched by ``aqvolt reconcile --every``
(:mod:`aqvolt_launch.repair.elsewhere`).
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_launch.launchpad import GRACE_S, get_launchpad, rerun
from aqvolt_launch.processes import host_name, is_dead
from aqvolt_launch.repair.salvage import settle
from aqvolt_launch.submission.announced import undo_killed_batches

if TYPE_CHECKING:
    from fireworks import LaunchPad

_ACTIVE = ("RUNNING", "RESERVED")


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecoveryReport:
    """How many were repaired, by kind."""

    rerun: int = 0
    refreshed: int = 0
    unreserved: int = 0
    unlocked: int = 0
    released: int = 0
    undone: int = 0
    finished: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return the counts as a mapping."""
        return asdict(self)

    def total(self) -> int:
        """Return their sum."""
        return sum(self.as_dict().values())


def lost_launches(launchpad: LaunchPad, gone: Collection[str] = ()) -> list[dict[str, Any]]:
    """Return launches that say RUNNING and whose worker, on this host, is gone; see :func:`recover_dead`."""
    query = {"state": "RUNNING", "fworker.name": {"$regex": f"^aqvolt-{re.escape(host_name())}-"}}
    fields = {"launch_id": 1, "fw_id": 1, "fworker.name": 1, "launch_dir": 1, "state_history": 1}
    return [launch for launch in launchpad.launches.find(query, fields) if _is_gone(launch["fworker"]["name"], gone)]


def lasted(launch: dict[str, Any]) -> float:
    """Return how long a lost launch ran, from its start to its last sign of life, seconds."""
    times = [
        datetime.fromisoformat(t) if isinstance(t, str) else t
        for entry in launch.get("state_history", ())
        if entry.get("state") == "RUNNING"
        for t in (entry.get("created_on"), entry.get("updated_on"))
        if t is not None
    ]
    return max((max(times) - min(times)).total_seconds(), 0.0) if times else 0.0


def _is_gone(name: str, gone: Collection[str]) -> bool:
    return name in gone or is_dead(name) is True


def recover_dead(settings: AqvoltSettings, gone: Collection[str] = ()) -> RecoveryReport:
    """Put right what workers killed on this host left; safe to call at any time, by several workers.

    Parameters
    ----------
    settings
        Which database.
    gone
        Workers that live, but have lost what they ran: a worker names itself after the database was away.
    """
    launchpad = get_launchpad(settings)
    unlocked = _unlock(launchpad)
    reruns, finished = rerun_lost(settings, lost_launches(launchpad, gone))
    again, refreshed = _close_ended(launchpad, gone)
    return RecoveryReport(
        rerun=reruns + again,
        finished=finished,
        refreshed=refreshed + _refresh_finished(launchpad, gone),
        unreserved=_unreserve(launchpad),
        unlocked=unlocked,
        released=_release(launchpad),
        undone=undo_killed_batches(launchpad),
    )


def rerun_lost(settings: AqvoltSettings, lost: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Complete lost launches whose result is there, close and rerun the others; return how many of each."""
    if not lost:
        return 0, 0
    launchpad, database = get_launchpad(settings), Database.connect(settings)
    reruns = finished = 0
    for launch in lost:
        if settle(launchpad, database, launch["fw_id"], launch["launch_id"]):
            finished += 1
            logger.info("Firework %s was lost with its worker; its result was there and is kept.", launch["fw_id"])
            continue
        query = {"launch_id": launch["launch_id"], "state": "RUNNING"}
        launchpad.launches.update_one(query, {"$set": {"state": "FIZZLED", "runtime_secs": lasted(launch)}})
        again_now = rerun(launchpad, launch["fw_id"], _ACTIVE, last_launch=launch["launch_id"])
        if again_now:
            logger.warning(
                "Firework %s was lost with worker %s; it runs again.", launch["fw_id"], launch["fworker"]["name"]
            )
        reruns += again_now
    return reruns, finished


def _unlock(launchpad: LaunchPad) -> int:
    """Unlock workflows that stay locked with no sign of life for the grace time."""
    query = {"locked": {"$exists": True}}
    fields = {"updated_on": 1, "nodes": 1}
    before = {w["_id"]: w.get("updated_on") for w in launchpad.workflows.find(query, fields)}
    if not before:
        return 0
    time.sleep(GRACE_S)
    unlocked = 0
    for workflow in list(launchpad.workflows.find(query | {"_id": {"$in": list(before)}}, fields)):
        if workflow.get("updated_on") == before[workflow["_id"]]:
            result = launchpad.workflows.update_one({"_id": workflow["_id"]}, {"$unset": {"locked": ""}})
            unlocked += result.modified_count
    return unlocked


def _close_ended(launchpad: LaunchPad, gone: Collection[str] = ()) -> tuple[int, int]:
    """Rerun or refresh Fireworks that say RUNNING or RESERVED although their last launch has ended."""
    active = list(
        launchpad.fireworks.find(
            {"state": {"$in": _ACTIVE}, "launches.0": {"$exists": True}}, {"fw_id": 1, "launches": 1}
        )
    )
    if not active:
        return 0, 0
    last = {firework["launches"][-1]: firework["fw_id"] for firework in active}
    ended = launchpad.launches.find(
        {"launch_id": {"$in": list(last)}, "state": {"$in": ["COMPLETED", "FIZZLED"]}},
        {"launch_id": 1, "state": 1, "action": 1},
    )
    reruns = refreshed = 0
    for launch in list(ended):
        fw_id = last[launch["launch_id"]]
        if launch["state"] == "FIZZLED" and not launch.get("action"):  # closed as lost, never finished by itself
            reruns += rerun(launchpad, fw_id, _ACTIVE, last_launch=launch["launch_id"])
        elif _settled(launchpad, fw_id, launch["launch_id"], gone):
            launchpad._refresh_wf(fw_id)
            refreshed += 1
    return reruns, refreshed


def _settled(launchpad: LaunchPad, fw_id: int, launch_id: int, gone: Collection[str]) -> bool:
    """Return whether nobody is about to refresh this Firework: its worker is gone."""
    launch = launchpad.launches.find_one({"launch_id": launch_id}, {"fworker.name": 1})
    current = launchpad.fireworks.find_one({"fw_id": fw_id}, {"state": 1})
    return bool(launch and current and current["state"] in _ACTIVE and _is_gone(launch["fworker"]["name"], gone))


def _refresh_finished(launchpad: LaunchPad, gone: Collection[str] = ()) -> int:
    """Refresh workflows that believe a Firework active although its document says it is finished."""
    refreshed = 0
    fields = {"fw_states": 1, "locked": 1}
    for workflow in list(launchpad.workflows.find({"state": {"$in": _ACTIVE}}, fields)):
        if "locked" in workflow:
            continue
        believed = {int(i): state for i, state in workflow["fw_states"].items() if state in (*_ACTIVE, "READY")}
        finished = launchpad.fireworks.find(
            {"fw_id": {"$in": list(believed)}, "state": {"$in": ["COMPLETED", "FIZZLED"]}}, {"fw_id": 1, "launches": 1}
        )
        for firework in list(finished):
            launch = launchpad.launches.find_one({"launch_id": {"$in": firework["launches"][-1:]}}, {"fworker.name": 1})
            if launch and _is_gone(launch["fworker"]["name"], gone):
                launchpad._refresh_wf(firework["fw_id"])
                refreshed += 1
    return refreshed


def _unreserve(launchpad: LaunchPad) -> int:
    """Give back reservations that never became a launch, and stay so for the grace time.

    The time is waited for, not read from the reservation: it says what another machine's clock said.
    """
    query = {"state": "RESERVED", "launches": []}
    reserved = list(launchpad.fireworks.find(query, {"fw_id": 1, "updated_on": 1}))
    if not reserved:
        return 0
    time.sleep(GRACE_S)
    given_back = 0
    for firework in reserved:
        same = query | {"fw_id": firework["fw_id"], "updated_on": firework.get("updated_on")}
        given_back += launchpad.fireworks.update_one(same, {"$set": {"state": "READY"}}).modified_count
    return given_back


def _release(launchpad: LaunchPad) -> int:
    """Make root Fireworks of submitted workflows READY that a killed submission left WAITING."""
    waiting = [
        f["fw_id"]
        for f in launchpad.fireworks.find({"state": "WAITING", "spec.aqvolt.key": {"$exists": True}}, {"fw_id": 1})
    ]
    if not waiting:
        return 0
    released = 0
    fields = {"fw_states": 1, "parent_links": 1}
    for workflow in launchpad.workflows.find({"nodes": {"$in": waiting}}, fields):
        parents = workflow["parent_links"]
        roots = [int(i) for i, s in workflow["fw_states"].items() if s == "READY" and not parents.get(i)]
        query = {"fw_id": {"$in": roots}, "state": "WAITING"}
        released += launchpad.fireworks.update_many(query, {"$set": {"state": "READY"}}).modified_count
    return released
