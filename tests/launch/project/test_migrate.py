"""``aqvolt db migrate``, and work of one campaign that another one adopts."""

from __future__ import annotations

import pytest
from trivial_jobs import add

from aqvolt_flows.errors import InputError
from aqvolt_flows.membership import FIELDS
from aqvolt_flows.work import WorkItem
from aqvolt_launch.chain import view_of
from aqvolt_launch.launchpad import get_launchpad
from aqvolt_launch.project import migrate as module
from aqvolt_launch.project.migrate import migrate
from aqvolt_launch.submission.submit import submit
from aqvolt_launch.workers import work


def item(key: str) -> WorkItem:
    return WorkItem("label", key, f"add {key}", lambda: add(1, 2))


def campaigns(settings, database) -> dict[str, list]:
    launchpad = get_launchpad(settings)
    return {
        "workflows": [w["metadata"]["aqvolt"].get("campaigns") for w in launchpad.workflows.find()],
        "fireworks": [f["spec"]["aqvolt"].get("campaigns") for f in launchpad.fireworks.find()],
        "jobs": [
            f["spec"]["_tasks"][0]["job"]["metadata"]["aqvolt"].get("campaigns") for f in launchpad.fireworks.find()
        ],
        "outputs": [d["metadata"]["aqvolt"].get("campaigns") for d in database["outputs"].find()],
    }


def test_a_database_of_before_is_given_to_the_campaign_once(database, settings, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 2)
    for name in FIELDS:
        if name != "outputs":
            database[name].insert_many([{"key": f"{name}{i}", f"{name}_id": i} for i in range(1)])
    database["labels"].drop_indexes()
    database["labels"].insert_many([{"key": f"k{i}", "label_id": f"label-{i}", "last_updated": i} for i in range(5)])
    submit([item("k")], settings)  # no campaign: as version 0.1 stored jobs
    work(settings, until_empty=True)
    submit([item("k2")], settings)
    before = {d["label_id"]: d["last_updated"] for d in database["labels"].find({"label_id": {"$exists": True}})}
    seen = []
    counts = migrate(settings, lambda name, n: seen.append((name, n)))
    assert counts["labels"] == 6
    assert [n for name, n in seen if name == "labels"] == [2, 4, 6]
    assert (counts["outputs"], counts["workflows"], counts["fireworks"]) == (1, 2, 2)
    mine = [database.default_campaign]
    assert all(found == mine for group in campaigns(settings, database).values() for found in group)
    after = {d["label_id"]: d["last_updated"] for d in database["labels"].find({"label_id": {"$exists": True}})}
    assert after == before, "to builders nothing is new"
    assert set(migrate(settings).values()) == {0}
    database.in_campaign("beta").register_campaigns()
    assert database.members("labels") == {"campaigns": database.default_campaign}


def test_a_queued_unit_of_two_campaigns_runs_once_and_belongs_to_both(database, settings):
    assert submit([item("k")], settings, campaign="alpha").submitted == 1
    again = submit([item("k")], settings, campaign="beta")
    assert (again.submitted, again.queued) == (0, 1)
    assert work(settings, until_empty=True).completed == 1
    found = campaigns(settings, database)
    assert all(group == [["alpha", "beta"]] for group in found.values()), found
    assert submit([item("k")], settings, campaign="gamma").done == 1
    assert campaigns(settings, database)["outputs"] == [["alpha", "beta", "gamma"]]


def test_a_stored_job_without_a_campaign_is_the_settings_campaigns(database, settings):
    submit([item("k")], settings)
    submit([item("other")], settings, campaign="beta")
    work(settings, until_empty=True)
    assert database.own("outputs").distinct("metadata.aqvolt.key") == ["k"]
    assert database.in_campaign("beta").own("outputs").distinct("metadata.aqvolt.key") == ["other"]


def test_an_unknown_campaign_is_refused_with_those_that_are_there(database, settings):
    with pytest.raises(InputError, match=r"nothing of a campaign 'nowhere'; no campaign has written here yet"):
        view_of(settings, "nowhere")
    database.in_campaign("alpha").register_campaigns()
    with pytest.raises(InputError, match=r"nothing of a campaign 'demo'; there are alpha\."):
        view_of(settings, "demo")
    assert view_of(settings, "alpha").campaign == "alpha"
    assert view_of(settings).campaign == database.default_campaign
    assert view_of(settings, all_campaigns=True).members("labels") == {}
