"""Announced batches: a submission that was killed between its two writes is undone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from aqvolt_launch.launchpad import KEY_FIELD
from aqvolt_launch.processes import is_dead
from aqvolt_launch.submission import window as queue

if TYPE_CHECKING:
    from fireworks import LaunchPad


#: An announcement of another host's submission that is older belongs to the dead.
ANNOUNCED = timedelta(hours=1)


def undo_killed_batches(launchpad: LaunchPad) -> int:
    """Remove the workflows without a Firework that a killed submission left; return how many.

    An announcement is stale if the process that made it, on this host, has ended, or if it is older than
    :data:`ANNOUNCED`: writing a batch takes seconds.
    """
    collection = launchpad.db[queue.COLLECTION]
    undone = 0
    for batch in list(collection.find({"_id": {"$regex": "^batch:"}})):
        dead = is_dead(batch["by"])
        if dead is False or (dead is None and batch["at"].replace(tzinfo=UTC) > datetime.now(UTC) - ANNOUNCED):
            continue
        numbers = {"$gte": batch["first"], "$lte": batch["last"]}
        there = {f["fw_id"] for f in launchpad.fireworks.find({"fw_id": numbers}, {"fw_id": 1})}
        empty = [
            workflow["_id"]
            for workflow in launchpad.workflows.find({"nodes": numbers, KEY_FIELD: {"$exists": True}}, {"nodes": 1})
            if not there & set(workflow["nodes"])
        ]
        if empty:
            undone += launchpad.workflows.delete_many({"_id": {"$in": empty}}).deleted_count
        collection.delete_one({"_id": batch["_id"]})
    return undone
