"""Membership stands beside identity: scope, growth, adoption, and documents of before campaigns."""

from __future__ import annotations

import pytest
from pymatgen.core import Lattice, Structure

from aqvolt_flows.candidates.pool import write_judged
from aqvolt_flows.candidates.select import candidate_document
from aqvolt_flows.membership import campaign_of
from aqvolt_flows.schemas.hold import HoldDocument
from aqvolt_flows.schemas.parameters import CandidateParameters

FLUORIDE = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.02), ["Li", "F"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def candidate(**rules):
    return candidate_document(FLUORIDE, CandidateParameters(**rules), "LiF", "user", ["x"])


@pytest.fixture
def two(database):
    return database.in_campaign("alpha"), database.in_campaign("beta")


def stored(database):
    [document] = database["candidates"].find({}, {"_id": 0})
    return document


def test_an_equal_document_of_two_campaigns_is_one_and_moves_only_when_membership_grows(two):
    alpha, beta = two
    assert alpha.upsert("candidates", [candidate()]) == 1
    first = stored(alpha)
    assert first["campaigns"] == ["alpha"]
    assert alpha.upsert("candidates", [candidate()]) == 0
    assert stored(alpha) == first
    assert beta.own("candidates").count_documents() == 0
    assert beta.upsert("candidates", [candidate()]) == 0
    grown = stored(alpha)
    assert grown["campaigns"] == ["alpha", "beta"]
    assert grown["last_updated"] >= first["last_updated"]
    same = {k: v for k, v in grown.items() if k not in {"campaigns", "last_updated"}}
    assert same == {k: v for k, v in first.items() if k not in {"campaigns", "last_updated"}}
    assert beta.upsert("candidates", [candidate()]) == 0
    assert stored(alpha) == grown
    assert [v.own("candidates").count_documents({"formula": "LiF"}) for v in two] == [1, 1]


def test_a_document_without_campaigns_is_the_settings_campaigns_and_stays_so(database):
    database.upsert("candidates", [candidate()])
    database["candidates"].update_one({}, {"$unset": {"campaigns": ""}})
    other = database.in_campaign("beta")
    assert database.members("candidates") == {}, "alone, nothing is filtered"
    other.register_campaigns()
    assert database.own("candidates").count_documents() == 1
    assert other.own("candidates").count_documents() == 0
    assert database.adopt("candidates", [candidate().candidate_id]) == 0
    assert "campaigns" not in stored(database)
    assert other.adopt("candidates", [candidate().candidate_id]) == 1
    assert stored(database)["campaigns"] == [database.default_campaign, "beta"]
    assert other.adopt("candidates", [candidate().candidate_id]) == 0
    assert database.own("candidates").count_documents() == other.own("candidates").count_documents() == 1


def test_an_upsert_by_another_campaign_does_not_take_an_old_document_away(database):
    database.upsert("candidates", [candidate()])
    database["candidates"].update_one({}, {"$unset": {"campaigns": ""}})
    database.in_campaign("beta").upsert("candidates", [candidate()])
    assert stored(database)["campaigns"] == sorted([database.default_campaign, "beta"])


def test_all_campaigns_reads_everything_and_a_scope_reads_its_own(two):
    alpha, beta = two
    alpha.upsert("candidates", [candidate()])
    assert list(beta.own("candidates").find({})) == []
    assert beta.own("candidates").find_one({"status": "accepted"}) is None
    assert beta.own("candidates").distinct("formula") == []
    assert list(beta.own("candidates").aggregate([{"$group": {"_id": None}}])) == []
    assert beta.in_all_campaigns().own("candidates").distinct("formula") == ["LiF"]
    assert beta.own("candidates").among({"campaigns": "alpha"}) == {
        "$and": [{"campaigns": "alpha"}, {"campaigns": "beta"}]
    }
    assert alpha.known_campaigns() == ["alpha"]


def test_holds_and_other_work_for_all_have_no_campaign(database):
    hold = HoldDocument(
        key="h", hold_id="hold-h", kind="chemsys", what="F-Li", status="held", reason={"reason": "x", "message": "y"}
    )
    database.in_campaign("beta").upsert("holds", [hold])
    assert "campaigns" not in database["holds"].find_one({})


def test_the_campaign_that_accepts_a_structure_owns_its_document(two):
    alpha, beta = two
    refused, accepted = candidate(exclude_elements=["F"]), candidate()
    assert (refused.status, accepted.status) == ("rejected", "accepted")
    write_judged(alpha, [refused])
    write_judged(beta, [accepted])
    assert (stored(alpha)["status"], stored(alpha)["campaigns"]) == ("accepted", ["beta"])
    before = stored(alpha)
    write_judged(alpha, [refused])
    assert stored(alpha) == before, "a rejection leaves another campaign's acceptance alone"
    write_judged(alpha, [accepted])
    assert sorted(stored(alpha)["campaigns"]) == ["alpha", "beta"]
    write_judged(alpha, [refused])
    assert (stored(alpha)["status"], stored(alpha)["campaigns"]) == ("accepted", ["beta"])


def test_membership_has_an_index(two):
    alpha, _ = two
    alpha.upsert("candidates", [candidate()])
    indexed = {field for index in alpha["candidates"].index_information().values() for field, _ in index["key"]}
    assert "campaigns" in indexed
    outputs = {field for index in alpha["outputs"].index_information().values() for field, _ in index["key"]}
    assert "metadata.aqvolt.campaigns" in outputs
    plan = alpha["candidates"].find(alpha.members("candidates")).explain()
    winning = str(plan.get("queryPlanner", {}).get("winningPlan", ""))
    assert not winning or "IXSCAN" in winning, plan


def test_the_name_in_the_file_is_the_campaigns_name(settings, project):
    assert campaign_of(settings) == "aqvolt26"
    (project / "mine.yaml").write_text("name: halides\n")
    assert campaign_of(settings.model_copy(update={"campaign": "mine.yaml"})) == "halides"
    (project / "mine.yaml").write_text("name: sulfides, all\n- broken")
    assert campaign_of(settings.model_copy(update={"campaign": "mine.yaml"})) == "mine"
    assert campaign_of(settings.model_copy(update={"campaign": "not there/My Set.yaml"})) == "my-set"
