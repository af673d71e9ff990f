"""Plan a release of the current labels."""

from __future__ import annotations

from functools import partial

from aqvolt_flows.campaign import Campaign
from aqvolt_flows.datasets.jobs import ReleaseMaker
from aqvolt_flows.datasets.release import labels_fingerprint
from aqvolt_flows.identity import content_key
from aqvolt_flows.stores import Database
from aqvolt_flows.work import Plan, WorkItem, bind


def plan_release(campaign: Campaign, database: Database, _claimed: frozenset[str] = frozenset()) -> Plan:
    """Plan a release of the current labels."""
    p = campaign.release
    labels = database.own("labels").count_documents({"status": "valid"})
    missing = (
        []
        if labels
        else ["there is no valid label yet; run 'aqvolt submit label', 'aqvolt work' and 'aqvolt build labels'"]
    )
    if missing:
        return Plan("release", [], missing, {"labels": 0})
    key = content_key("release/1", labels=labels_fingerprint(database, p), parameters=p)
    item = WorkItem(
        "release",
        key,
        f"release {p.name}",
        bind(ReleaseMaker(parameters=p.model_dump(mode="json")).make, key),
        done=database["releases"].find_one({"key": key}) is not None,
    )
    adopt = partial(database.adopt, "releases", [key], "key")
    return Plan("release", [item], missing, {"labels": labels}, adopt)
