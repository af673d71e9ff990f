"""Plan the label builder over the current outcomes and AIMD runs."""

from __future__ import annotations

from functools import partial
from typing import Any

from maggma.stores import MongoStore

from aqvolt_builders.growth import adopt_labels
from aqvolt_builders.jobs import BuildMaker
from aqvolt_builders.labels import LabelBuilder
from aqvolt_flows.campaign import Campaign
from aqvolt_flows.datasets.labels import BUILDER_VERSION
from aqvolt_flows.identity import content_key
from aqvolt_flows.schemas.trajectory import ENDED
from aqvolt_flows.stores import Database, by_ids
from aqvolt_flows.work import Plan, WorkItem


def build_options(campaign: Campaign) -> dict[str, Any]:
    """Return what a campaign tells the label builder."""
    labeling = campaign.labeling
    return {"aimd_stride": labeling.aimd_label_stride, "max_energy_jump_ev": labeling.max_energy_jump_ev}


def _not_built(campaign: Campaign, database: Database) -> list[list[str]]:
    """Return the jobs with their times, and the AIMD runs, that the label builder would take up now."""
    names = ("outputs", "frames", "labels", "trajectories")
    stores = {name: MongoStore.from_collection(database.mongo[name]) for name in names}
    jobs, runs = LabelBuilder(**stores, **build_options(campaign)).waiting(database)
    fields = {"uuid": 1, "completed_at": 1, "_id": 0}
    found = by_ids(database["outputs"], "uuid", jobs, fields)
    return sorted([d["uuid"], str(d.get("completed_at", ""))] for d in found) + [[run] for run in runs]


def plan_build(campaign: Campaign, database: Database, _claimed: frozenset[str] = frozenset()) -> Plan:
    """Plan the label builder over the current outcomes and AIMD runs."""
    outcomes = sorted(database.own("outputs").distinct("metadata.aqvolt.key", {"metadata.aqvolt.stage": "label"}))
    runs = sorted(
        [t["trajectory_id"], t["n_frames"]]
        for t in database.own("trajectories").find(
            {"engine": "aimd", "status": {"$in": list(ENDED)}}, {"trajectory_id": 1, "n_frames": 1}
        )
    )
    options = build_options(campaign)
    key = content_key("build/1", builder="labels", version=BUILDER_VERSION, outcomes=outcomes, runs=runs, **options)
    done = database["outputs"].find_one({"metadata.aqvolt.key": key}, {"_id": 1}) is not None
    if done and (again := _not_built(campaign, database)):  # a job ran again: the same outcomes, other results
        key = content_key("build/1", builder="labels", version=BUILDER_VERSION, after=key, again=again, **options)
        done = database["outputs"].find_one({"metadata.aqvolt.key": key}, {"_id": 1}) is not None
    item = WorkItem(
        "build",
        key,
        f"labels from {len(outcomes)} outcomes and {len(runs)} ab-initio runs",
        partial(BuildMaker(builder="labels", options=options).make, key),
        done=done,
    )
    missing = (
        [] if outcomes or runs else ["there is no labeling outcome yet; run 'aqvolt submit label' and 'aqvolt work'"]
    )
    facts = {"outcomes": len(outcomes), "ab-initio runs": len(runs)}
    return Plan("build", [item] if outcomes or runs else [], missing, facts, partial(adopt_labels, database))
