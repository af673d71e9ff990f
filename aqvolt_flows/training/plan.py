"""Plan a two-stage training on the newest release."""

from __future__ import annotations

from functools import partial

from aqvolt_flows.campaign import Campaign
from aqvolt_flows.holdout import is_hold_out
from aqvolt_flows.releases import latest_release
from aqvolt_flows.stores import Database
from aqvolt_flows.training.jobs import TwoStageTrainMaker, train_key
from aqvolt_flows.work import Plan, WorkItem, bind


def plan_train(campaign: Campaign, database: Database, _claimed: frozenset[str] = frozenset()) -> Plan:
    """Return the two-stage training on the newest release."""
    p = campaign.training
    release = latest_release(database, campaign.release.name)
    if release is None:
        return Plan(
            "train",
            [],
            [f"there is no release {campaign.release.name!r} yet; run 'aqvolt release create {campaign.release.name}'"],
        )
    if is_hold_out(release):
        return Plan("train", [], [f"the release {release['release_id']} is a hold-out, which nothing is trained on"])
    key = train_key(p, release["content_hash"])
    maker = TwoStageTrainMaker(parameters=p)
    item = WorkItem(
        "train",
        key,
        f"{p.architecture} on {release['release_id']}",
        bind(maker.make, release["release_id"], release["content_hash"], key),
        category="gpu",
        done=database["models"].find_one({"key": key}) is not None,
    )
    facts = {"release": release["release_id"], "counts": release["counts"]}
    return Plan("train", [item], [], facts, partial(database.adopt, "models", [key], "key"))
