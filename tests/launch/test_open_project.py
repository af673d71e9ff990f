"""Getting is not ensuring: what only looks makes no index."""

from __future__ import annotations

import trivial_jobs
from counted_commands import CountedCommands

from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stages import STAGES
from aqvolt_flows.stores import Database
from aqvolt_launch import chain
from aqvolt_launch.launchpad import get_launchpad
from aqvolt_launch.open_project import Project
from aqvolt_launch.project.preflight import label_counts
from aqvolt_launch.project.status import collect_status
from aqvolt_launch.submission import holds, window
from aqvolt_launch.submission.holds import FailureBudget
from aqvolt_launch.submission.submit import submit


def test_prepare_makes_indexes_and_the_counter(
    counted: CountedCommands, database: Database, settings: AqvoltSettings
) -> None:
    counted.on = True
    project = Project(settings).prepare()
    assert counted.counts["createIndexes"] > 0, "the listener sees the clients of database and LaunchPad"
    assert project.launchpad.fw_id_assigner.count_documents({}) == 1
    assert "aqvolt_key" in project.launchpad.workflows.index_information()


def test_an_idle_worker_makes_no_index(counted: CountedCommands, database: Database, settings: AqvoltSettings) -> None:
    project = Project(settings).prepare()
    holds.set_budget(project, FailureBudget(1, 0.5, "vasp"))
    submit(trivial_jobs.bulk(3), settings, window=2)
    counted.on = True
    for number in range(50):
        if number % 10 == 0:  # as if a minute had passed
            window.end_lease(project.launchpad, "failure-budget")
        holds.enforce(project, at_most_every=holds.LOOK)
        window.top_up(project.launchpad)
    assert counted.counts["createIndexes"] == 0
    assert counted.counts["aggregate"] == 55, "READY ones counted in every round, outcomes in every tenth"
    assert counted.counts["find"] >= 100


def test_looking_makes_no_index(counted: CountedCommands, database: Database, settings: AqvoltSettings) -> None:
    campaign = chain.campaign_for(settings, "demo")
    counted.on = True
    collect_status(settings)
    for stage in STAGES:
        chain.plan(stage.name, campaign, settings)
    database = chain.database_of(campaign, settings)
    label_counts(chain.plan("label", campaign, settings), campaign, database)
    assert counted.counts["find"] > len(STAGES)
    assert counted.counts["createIndexes"] == 0


def test_getting_writes_nothing(counted: CountedCommands, settings: AqvoltSettings) -> None:
    counted.on = True
    project = Project(settings)
    assert project.launchpad is get_launchpad(settings)
    assert project.database.mongo.list_collection_names() == []
    assert not set(counted.counts) & {"insert", "update", "findAndModify", "createIndexes", "create"}
