"""FireWorks' LaunchPad on the database that the settings name; never wiped, only completed."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from pymongo import ASCENDING, ReturnDocument
from pymongo.errors import DuplicateKeyError

from aqvolt_flows.retries import RetryingCollection
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database, client_for, normalise_uri

if TYPE_CHECKING:
    from fireworks import LaunchPad

#: Path of a workflow's content key; unique, so that the database decides races between submitters.
KEY_FIELD = "metadata.aqvolt.key"
_QUIET = "ERROR"
#: FireWorks' collections, by the LaunchPad's attributes.
_COLLECTIONS = ("fireworks", "launches", "workflows", "offline_runs")
_open: list[LaunchPad] = []


def get_launchpad(settings: AqvoltSettings) -> LaunchPad:
    """Return the (cached) LaunchPad of these settings; nothing is contacted yet."""
    _, name = client_for(settings)
    return _launchpad(normalise_uri(settings.database_uri()), name, settings.timeout_s)


@cache
def _launchpad(uri: str, name: str, timeout_s: float) -> LaunchPad:
    from fireworks import LaunchPad

    milliseconds = int(timeout_s * 1000)
    launchpad = LaunchPad(
        host=uri,
        name=name,
        uri_mode=True,
        strm_lvl=_QUIET,
        mongoclient_kwargs={
            "serverSelectionTimeoutMS": milliseconds,
            "connectTimeoutMS": milliseconds,
            "socketTimeoutMS": max(milliseconds * 12, 120_000),
            "appname": "aqvolt-fireworks",
        },
    )
    _open.append(launchpad)
    for collection in _COLLECTIONS:
        setattr(launchpad, collection, RetryingCollection(getattr(launchpad, collection)))
    launchpad.fw_id_assigner = _Counters(launchpad.db["fw_id_assigner"])
    return launchpad


class _Counters(RetryingCollection):
    """FireWorks' counters, which give every number once on the embedded database, too.

    FireWorks increments a counter and takes the number before. SecantusDB 0.7.0b3 increments atomically, but of several
    clients at once some are told the same number before (of 100 increments by four threads 62 to 94 different ones);
    the number after is each one's own, and FireWorks' number follows from it.
    """

    def find_one_and_update(self, query: Any, update: Any, *args: Any, **kwargs: Any) -> Any:
        """Increment, and return the counters as they were before."""
        steps = update.get("$inc") if isinstance(update, Mapping) else None
        if not steps or len(update) > 1 or args or kwargs:
            return super().__getattr__("find_one_and_update")(query, update, *args, **kwargs)
        increment = super().__getattr__("find_one_and_update")
        after = increment(query, update, return_document=ReturnDocument.AFTER)
        return None if after is None else after | {name: after[name] - step for name, step in steps.items()}


def close_launchpads() -> None:
    """Close the connections of every cached LaunchPad."""
    _launchpad.cache_clear()
    while _open:
        _open.pop().connection.close()


def ensure_launchpad(settings: AqvoltSettings) -> LaunchPad:
    """Return the LaunchPad with FireWorks' indexes, our unique key and its id counter; nothing is ever deleted.

    ``lpad reset`` would make the counter too, but deletes all workflows first; this is safe to call
    again and by several processes at once.
    """
    Database.connect(settings)  # a clear sentence if no server answers
    launchpad = get_launchpad(settings)
    quiet_fireworks()
    launchpad.tuneup()
    launchpad.workflows.create_index(
        [(KEY_FIELD, ASCENDING)], name="aqvolt_key", unique=True, partialFilterExpression={KEY_FIELD: {"$exists": True}}
    )
    for field in ("spec.aqvolt.stage", "spec.aqvolt.key", "spec.aqvolt.held"):
        launchpad.fireworks.create_index([(field, ASCENDING)])
    launchpad.fireworks.create_index([("spec.aqvolt.stage", ASCENDING), ("state", ASCENDING)])
    launchpad.launches.create_index([("state", ASCENDING), ("time_end", ASCENDING)])
    launchpad.workflows.create_index([("state", ASCENDING)])
    if launchpad.fw_id_assigner.find_one({}, {"_id": 1}) is None:
        newest_fw = _highest(launchpad, "fireworks", "fw_id")
        newest_launch = _highest(launchpad, "launches", "launch_id")
        with contextlib.suppress(DuplicateKeyError):  # another process made it in between
            launchpad.fw_id_assigner.update_one(
                {"_id": "aqvolt"},
                {"$setOnInsert": {"next_fw_id": newest_fw + 1, "next_launch_id": newest_launch + 1}},
                upsert=True,
            )
    return launchpad


def workflows_by_key(launchpad: LaunchPad, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return key → state, Fireworks and links of the workflows with these keys that are there."""
    fields = {KEY_FIELD: 1, "state": 1, "fw_states": 1, "nodes": 1, "parent_links": 1}
    found = launchpad.workflows.find({KEY_FIELD: {"$in": list(keys)}}, fields)
    return {workflow["metadata"]["aqvolt"]["key"]: workflow for workflow in found}


def _highest(launchpad: LaunchPad, collection: str, field: str) -> int:
    found = launchpad.db[collection].find_one({}, {field: 1}, sort=[(field, -1)])
    return int(found[field]) if found else 0


def quiet_fireworks() -> None:
    """Keep FireWorks from narrating every launch on the terminal; errors still show.

    A Rocket asks for its logger at FireWorks' own level each time, which would add a talking handler:
    naming that handler as already present keeps it away.
    """
    from fireworks.utilities import fw_utilities

    for entry in (("rocket.launcher", "INFO"), ("rocket.launcher", "DEBUG")):
        if entry not in fw_utilities.PREVIOUS_STREAM_LOGGERS:
            fw_utilities.PREVIOUS_STREAM_LOGGERS.append(entry)


def fizzled(
    launchpad: LaunchPad, limit: int | None = None, query: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return Fireworks whose job raised, newest first, each with the last line of its exception and its folder.

    With a query only those that match it, at most ``limit``.
    """
    fields = {"fw_id": 1, "name": 1, "launches": 1, "spec.aqvolt": 1, "spec._exception_details": 1}
    cursor = launchpad.fireworks.find({"state": "FIZZLED", **(query or {})}, fields).sort("fw_id", -1).limit(limit or 0)
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


#: A lock or a reservation of a live process lasts milliseconds; older ones belong to the dead, seconds.
GRACE_S = 5.0


def rerun(launchpad: LaunchPad, fw_id: int, states: Sequence[str], last_launch: int | None = None) -> bool:
    """Rerun a Firework if it is (still) in one of ``states`` and, where given, its last launch is that one.

    Checked and done under the workflow's lock, so that of several processes that find the same lost
    run one reruns it, and a run that another has started since is left alone. A lock that stays
    longer than the grace time is taken over.
    """
    from fireworks.core.launchpad import WFLock

    with WFLock(launchpad, fw_id, expire_secs=GRACE_S, kill=True):
        firework = launchpad.fireworks.find_one({"fw_id": fw_id}, {"state": 1, "launches": 1})
        if firework is None or firework["state"] not in states:
            return False
        if last_launch is not None and firework["launches"][-1:] != [last_launch]:
            return False
        workflow = launchpad.get_wf_by_fw_id_lzyfw(fw_id)
        launchpad._update_wf(workflow, workflow.rerun_fw(fw_id))
    return True
