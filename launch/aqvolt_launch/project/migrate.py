"""Give what a database of before campaigns holds to the campaign of its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pymongo.collection import Collection

from aqvolt_flows.membership import FIELDS, REGISTER
from aqvolt_flows.schemas.base import utc_now
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_launch.launchpad import KEY_FIELD, ensure_launchpad
from aqvolt_launch.submission.adopt import ADDED_FIELD, FIREWORK_FIELD, JOB_FIELD, WORKFLOW_FIELD

#: Documents that one write changes; a migration that is killed continues with the next one.
BATCH = 1000


def migrate(settings: AqvoltSettings, progress: Callable[[str, int], None] | None = None) -> dict[str, int]:
    """Give every document and workflow without a campaign to that of the settings; return how many of each collection.

    No other field changes, ``last_updated`` neither: to builders nothing is new. A second run changes nothing.

    Parameters
    ----------
    settings
        Name the database and the campaign.
    progress
        Called with a collection and the number of its documents changed so far.
    """
    database = Database.connect(settings)
    launchpad = ensure_launchpad(settings)
    database.ensure_indexes()
    name = database.default_campaign
    counts: dict[str, int] = {}
    for collection, field in FIELDS.items():
        ours: dict[str, Any] = {KEY_FIELD: {"$exists": True}} if collection == "outputs" else {}
        counts[collection] = _give(database[collection], ours, field, name, progress)
    counts["workflows"] = _give(launchpad.workflows, {KEY_FIELD: {"$exists": True}}, WORKFLOW_FIELD, name, progress)
    counts["fireworks"] = _give(
        launchpad.fireworks, {"spec.aqvolt.key": {"$exists": True}}, FIREWORK_FIELD, name, progress
    )
    for field in (JOB_FIELD, ADDED_FIELD):  # jobs still to run, and the jobs that they will add
        about = {field.removesuffix(".campaigns"): {"$exists": True}}
        _give(launchpad.fireworks, about, field, name, None)
    database.mongo[REGISTER].update_one(
        {"_id": name}, {"$setOnInsert": {"first_used": utc_now()}, "$set": {"migrated_at": utc_now()}}, upsert=True
    )
    return counts


def _give(
    collection: Collection[dict[str, Any]],
    query: Mapping[str, Any],
    field: str,
    campaign: str,
    progress: Callable[[str, int], None] | None,
) -> int:
    missing = {**query, field: {"$exists": False}}
    given = 0
    while True:
        ids = [d["_id"] for d in collection.find(missing, {"_id": 1}).limit(BATCH)]
        if not ids:
            return given
        change = {"$set": {field: [campaign]}}
        given += collection.update_many({"_id": {"$in": ids}, field: {"$exists": False}}, change).modified_count
        if progress is not None:
            progress(collection.name, given)
