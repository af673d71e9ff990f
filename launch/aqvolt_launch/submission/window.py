"""The window: a maximum number of READY Fireworks, the others PAUSED behind them in the order of their priority.

FireWorks checks the next Firework out with a sort over all that are READY. A mongod has an index for that; the
embedded database sorts, 0.07 ms for each READY Firework and check-out. So there a submission leaves most of its
Fireworks PAUSED, with the place where they wait in ``spec.aqvolt.held``, and workers make the next ones READY
whenever less than half of the window is left.

``spec.aqvolt.held`` is ``window:CATEGORY:NNN``, where NNN is a tenth of the priority (000 … 100), or
``chemsys:SYSTEM`` for a chemical system that :mod:`aqvolt_launch.submission.holds` has paused. It is indexed, and
looked up by equality, bucket by bucket: no sort. Within a bucket the order is that of submission.
"""

from __future__ import annotations

import logging
import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pymongo import UpdateOne
from pymongo.errors import DuplicateKeyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fireworks import LaunchPad

logger = logging.getLogger(__name__)

#: Collection of what submitters and workers tell each other; none of it is data.
COLLECTION = "aqvolt_queue"
HELD_FIELD = "spec.aqvolt.held"
#: Ready Fireworks on the embedded database; the check-out of one then takes about 15 ms.
EMBEDDED_WINDOW = 200
_HIGHEST, _WIDTH = 1000, 10
#: A process that dies while it tops up keeps others from it for so long.
_LEASE = timedelta(seconds=30)


def is_embedded(launchpad: LaunchPad) -> bool:
    """Return whether the server is the embedded one, SecantusDB, which sorts without an index."""
    return "secantusVersion" in launchpad.connection.server_info()


def waiting_place(category: str, priority: int) -> str:
    """Return ``spec.aqvolt.held`` of a Firework that waits behind the window."""
    bucket = min(max(priority, 0), _HIGHEST) // _WIDTH
    return f"window:{category}:{bucket:03d}"


def set_window(launchpad: LaunchPad, category: str, size: int) -> None:
    """Remember the window of a category for all who top up, and that Fireworks may wait; 0: no window, all READY.

    Called before and after a submission, because a worker that runs in between may mark the window as empty.
    """
    change = {"$set": {"size": size, "empty": False}, "$inc": {"epoch": 1}}
    launchpad.db[COLLECTION].update_one({"_id": f"window:{category}"}, change, upsert=True)


def windows(launchpad: LaunchPad, category: str | None = None) -> dict[str, int]:
    """Return the windows in use, category → size (0: none any more)."""
    return {d["_id"].removeprefix("window:"): d["size"] for d in _windows(launchpad, category)}


def _windows(launchpad: LaunchPad, category: str | None) -> list[dict[str, Any]]:
    query: dict[str, Any] = {"_id": f"window:{category}"} if category else {"_id": {"$regex": "^window:"}}
    return list(launchpad.db[COLLECTION].find(query))


def behind_window(launchpad: LaunchPad, category: str | None = None) -> bool:
    """Return whether Fireworks may wait for their turn; :func:`top_up` finds out, and remembers when there are none."""
    return any(not window["empty"] for window in _windows(launchpad, category))


def top_up(launchpad: LaunchPad, category: str | None = None) -> int:
    """Make the next Fireworks READY where less than half of a window is left; return how many.

    Safe to call at any time by several processes: one at a time tops up, the others return at once.
    """
    released = 0
    for window in _windows(launchpad, category):
        name, size = window["_id"].removeprefix("window:"), window["size"]
        if window["empty"] or (size and _ready(launchpad, name, size) > size // 2):
            continue
        if take_lease(launchpad, f"top-up:{name}", _LEASE):
            try:
                room = size - _ready(launchpad, name, size) if size else math.inf
                made = _release(launchpad, name, room)
                released += made
                if made:
                    logger.info("%d %s Fireworks became READY.", made, name)
                if made < room:
                    same = {"_id": window["_id"], "epoch": window["epoch"]}
                    launchpad.db[COLLECTION].update_one(same, {"$set": {"empty": True}})
            finally:
                end_lease(launchpad, f"top-up:{name}")
    return released


def _ready(launchpad: LaunchPad, category: str, at_most: int) -> int:
    query = {"state": "READY", "spec._category": category}
    return launchpad.fireworks.count_documents(query, limit=at_most)


def _release(launchpad: LaunchPad, category: str, room: float) -> int:
    """Make up to ``room`` Fireworks of a category READY, highest bucket first."""
    paused = set(paused_systems(launchpad))
    released = 0
    fields = {"fw_id": 1, "state": 1, "spec.aqvolt.chemsys": 1}
    for bucket in range(_HIGHEST // _WIDTH, -1, -1):
        place = waiting_place(category, bucket * _WIDTH)
        while released < room:
            found = list(launchpad.fireworks.find({HELD_FIELD: place}, fields).limit(int(min(room - released, 500))))
            if not found:
                break
            free = [f for f in found if f["state"] == "PAUSED" and f["spec"]["aqvolt"].get("chemsys") not in paused]
            make_ready(launchpad, [f["fw_id"] for f in free], place)
            released += len(free)
            for firework in found:
                if firework["state"] != "PAUSED":  # somebody resumed it by hand
                    launchpad.fireworks.update_one({"fw_id": firework["fw_id"]}, {"$unset": {HELD_FIELD: ""}})
                elif firework["spec"]["aqvolt"].get("chemsys") in paused:
                    mark = {HELD_FIELD: f"chemsys:{firework['spec']['aqvolt']['chemsys']}"}
                    launchpad.fireworks.update_one({"fw_id": firework["fw_id"], HELD_FIELD: place}, {"$set": mark})
        if released >= room:
            break
    return released


def make_ready(launchpad: LaunchPad, fw_ids: Sequence[int], place: str) -> None:
    """Make Fireworks READY that are PAUSED at ``place``, and tell their workflows.

    Killed in between, a workflow says PAUSED of a Firework that is READY; checking it out puts that right.
    """
    if not fw_ids:
        return
    now = datetime.now(UTC)
    query = {"fw_id": {"$in": list(fw_ids)}, "state": "PAUSED", HELD_FIELD: place}
    change = {"$set": {"state": "READY", "updated_on": now}, "$unset": {HELD_FIELD: ""}}
    launchpad.fireworks.update_many(query, change)
    tell_workflows(launchpad, fw_ids, "PAUSED", "READY")


def tell_workflows(launchpad: LaunchPad, fw_ids: Sequence[int], before: str, after: str) -> None:
    """Write the new state of Fireworks into their workflows of one Firework, where they still have the old one."""
    writes = [
        UpdateOne({"nodes": i, f"fw_states.{i}": before}, {"$set": {"state": after, f"fw_states.{i}": after}})
        for i in fw_ids
    ]
    if writes:
        launchpad.workflows.bulk_write(writes, ordered=False)


def pause_system(launchpad: LaunchPad, system: str) -> int:
    """Pause the READY Fireworks of a chemical system; those behind the window follow when their turn comes."""
    query = {"state": "READY", "spec.aqvolt.chemsys": system}
    fw_ids = [f["fw_id"] for f in launchpad.fireworks.find(query, {"fw_id": 1})]
    change = {"$set": {"state": "PAUSED", HELD_FIELD: f"chemsys:{system}", "updated_on": datetime.now(UTC)}}
    paused = launchpad.fireworks.update_many({"fw_id": {"$in": fw_ids}, "state": "READY"}, change).modified_count
    tell_workflows(launchpad, fw_ids, "READY", "PAUSED")
    return paused


def resume_system(launchpad: LaunchPad, system: str) -> int:
    """Let the Fireworks of a paused chemical system run again: behind the window where there is one, else READY."""
    place = f"chemsys:{system}"
    fields = {"fw_id": 1, "spec._category": 1, "spec._priority": 1}
    found = list(launchpad.fireworks.find({HELD_FIELD: place}, fields))
    limited = {category: size for category, size in windows(launchpad).items() if size}
    make_ready(launchpad, [f["fw_id"] for f in found if f["spec"].get("_category") not in limited], place)
    for firework in found:
        category = firework["spec"].get("_category")
        if category in limited:
            mark = {HELD_FIELD: waiting_place(category, firework["spec"].get("_priority", 0))}
            launchpad.fireworks.update_one({"fw_id": firework["fw_id"], HELD_FIELD: place}, {"$set": mark})
    for category, size in limited.items():
        set_window(launchpad, category, size)
        top_up(launchpad, category)
    return len(found)


def paused_systems(launchpad: LaunchPad) -> list[str]:
    """Return the chemical systems that are held."""
    held = launchpad.db["holds"].find({"kind": "chemsys", "status": "held"}, {"what": 1})
    return sorted(d["what"] for d in held)


def take_lease(launchpad: LaunchPad, name: str, time: timedelta) -> bool:
    """Return whether this process may do ``name`` now; no other may until :func:`end_lease` or ``time`` later.

    A lease that ends later than one taken now would was given by a machine whose clock is ahead, and counts as ended:
    its process may be dead, and nobody would do ``name`` for as long as that clock is wrong. Two that do it at once
    do no harm.
    """
    now = datetime.now(UTC)
    collection = launchpad.db[COLLECTION]
    query = {"_id": f"lease:{name}", "$or": [{"until": {"$lt": now}}, {"until": {"$gt": now + 2 * time}}]}
    if collection.find_one_and_update(query, {"$set": {"until": now + time}}) is not None:
        return True
    try:
        collection.insert_one({"_id": f"lease:{name}", "until": now + time})
    except DuplicateKeyError:
        return False
    return True


def end_lease(launchpad: LaunchPad, name: str) -> None:
    """Let others do ``name`` again."""
    collection = launchpad.db[COLLECTION]
    collection.update_one({"_id": f"lease:{name}"}, {"$set": {"until": datetime(1970, 1, 1, tzinfo=UTC)}})
