"""The stages of a campaign, planned and submitted one by one."""

from __future__ import annotations

from pathlib import Path

import label_factory
import pytest

from aqvolt_flows.errors import ConfigError, InputError
from aqvolt_flows.settings import AqvoltSettings, load_settings
from aqvolt_flows.stages import STAGES
from aqvolt_flows.stores import Database
from aqvolt_launch import chain
from aqvolt_launch.chain import campaign_for, plan, submit_stage
from aqvolt_launch.launchpad import get_launchpad


class TestCampaignFor:
    """Which campaign a project works for."""

    def test_that_of_the_settings_or_a_named_one(self, project: Path) -> None:
        assert campaign_for(load_settings()).name == "aqvolt26"
        assert campaign_for(load_settings(campaign="demo")).name == "demo"
        assert campaign_for(load_settings(), "demo").name == "demo"

    def test_a_file_of_the_folder_comes_before_a_shipped_one(self, project: Path) -> None:
        (project / "demo").write_text("name: mine\n")
        assert campaign_for(load_settings(), "demo").name == "mine"
        with pytest.raises(ConfigError, match="nonsense"):
            campaign_for(load_settings(), "nonsense")

    def test_another_labeler_changes_only_the_labeler(self, project: Path) -> None:
        stock, other = campaign_for(load_settings(), "demo"), campaign_for(load_settings(), "demo", "vasp")
        assert (stock.labeling.labeler, other.labeling.labeler) == ("surrogate", "vasp")
        assert other.labeling.model_copy(update={"labeler": "surrogate"}) == stock.labeling
        assert other.model_copy(update={"labeling": stock.labeling}) == stock
        with pytest.raises(InputError, match="abacus"):
            campaign_for(load_settings(), "demo", "abacus")


class TestPlan:
    """What a stage would do now."""

    @pytest.mark.parametrize("stage", [stage.name for stage in STAGES])
    def test_a_database_without_collections_plans(self, settings: AqvoltSettings, stage: str) -> None:
        found = plan(stage, campaign_for(settings, "demo"), settings)
        assert len(found.items) == (1 if stage in {"candidates", "report"} else 0) or found.missing
        assert Database.connect(settings).mongo.list_collection_names() == [], "nothing was made"

    def test_no_such_stage(self, settings: AqvoltSettings) -> None:
        with pytest.raises(InputError, match=r"no stage 'lable'; expected one of candidates, .* label, .* report\."):
            plan("lable", campaign_for(settings, "demo"), settings)


class TestSubmitStage:
    """Planning a stage and submitting what is left of it."""

    def test_submitting_twice_is_submitting_once(self, database: Database, settings: AqvoltSettings) -> None:
        campaign = campaign_for(settings, "demo")
        found, report = submit_stage("candidates", campaign, settings)
        assert (len(found.todo), report.submitted) == (1, 1)
        assert submit_stage("candidates", campaign, settings)[1].queued == 1
        assert get_launchpad(settings).fireworks.count_documents({"spec.aqvolt.stage": "candidates"}) == 1

    def test_what_is_missing_is_named_and_nothing_submitted(self, database: Database, settings: AqvoltSettings) -> None:
        with pytest.raises(InputError, match=r"Nothing was submitted for explore: .*aqvolt candidates select"):
            submit_stage("explore", campaign_for(settings, "demo"), settings)
        assert get_launchpad(settings).workflows.count_documents({}) == 0

    def test_only_labels_have_a_budget(self, database: Database, settings: AqvoltSettings) -> None:
        with pytest.raises(InputError, match="given for explore; only labels have a forecast"):
            submit_stage("explore", campaign_for(settings, "demo"), settings, budget_core_hours=1.0)

    def test_limit_of_labels(self, database: Database, settings: AqvoltSettings) -> None:
        database.in_campaign("demo").upsert("frames", [label_factory.frame(n) for n in range(3)])
        _, report = submit_stage("label", campaign_for(settings, "demo"), settings, limit=2)
        assert (report.submitted, report.left) == (2, 1)
        assert database.mongo["aqvolt_queue"].count_documents({"_id": "failure-budget"}) == 1


def test_every_stage_is_planned_and_one_that_cannot_be_says_so(
    database: Database, settings: AqvoltSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = chain.plan

    def without_torch(stage: str, *rest: object) -> object:
        if stage == "train":
            raise ImportError("No module named 'torch'")
        return real(stage, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(chain, "plan", without_torch)
    rows = {row["stage"]: row for row in chain.plan_all(chain.campaign_for(settings, "demo"), settings)}
    assert list(rows) == [stage.name for stage in STAGES]
    assert rows["candidates"]["to_submit"] == rows["candidates"]["units"] >= 1
    assert "there is no selected frame yet" in rows["label"]["missing"]
    assert rows["train"]["missing"] == "No module named 'torch'"
    assert database.mongo["fireworks"].count_documents({}) == 0, "planning changes nothing"
