"""Plan a campaign's trainings on the newest release."""

from __future__ import annotations

from functools import partial

from aqvolt_flows.campaign import Campaign
from aqvolt_flows.holdout import is_hold_out
from aqvolt_flows.releases import latest_release
from aqvolt_flows.stores import Database
from aqvolt_flows.trainers import trainings_of
from aqvolt_flows.training.trainer_job import training_items
from aqvolt_flows.work import Plan


def plan_train(campaign: Campaign, database: Database, _claimed: frozenset[str] = frozenset()) -> Plan:
    """Return the campaign's trainings on the newest release."""
    release = latest_release(database, campaign.release.name)
    if release is None:
        return Plan(
            "train",
            [],
            [f"there is no release {campaign.release.name!r} yet; run 'aqvolt release create {campaign.release.name}'"],
        )
    if is_hold_out(release):
        return Plan("train", [], [f"the release {release['release_id']} is a hold-out, which nothing is trained on"])
    items = training_items(trainings_of(campaign.trainings, campaign.training), release, database)
    facts = {"release": release["release_id"], "counts": release["counts"]}
    return Plan("train", items, [], facts, partial(database.adopt, "models", [i.key for i in items], "key"))
