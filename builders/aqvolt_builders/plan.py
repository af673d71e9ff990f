"""Plan the label builder over the current outcomes and AIMD runs."""

from __future__ import annotations

from functools import partial
from typing import Any

from aqvolt_builders.growth import adopt_labels
from aqvolt_builders.jobs import BuildMaker
from aqvolt_flows.campaign import Campaign
from aqvolt_flows.datasets.labels import BUILDER_VERSION
from aqvolt_flows.identity import content_key
from aqvolt_flows.schemas.trajectory import ENDED
from aqvolt_flows.stores import Database
from aqvolt_flows.work import Plan, WorkItem


def build_options(campaign: Campaign) -> dict[str, Any]:
    """Return what a campaign tells the label builder."""
    labeling = campaign.labeling
    return {"aimd_stride": labeling.aimd_label_stride, "max_energy_jump_ev": labeling.max_energy_jump_ev}


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
    done = database["outputs"].find_one({"metadata.aqvolt.key": key}) is not None
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
