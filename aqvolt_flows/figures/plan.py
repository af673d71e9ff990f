"""Plan the report."""

from __future__ import annotations

from aqvolt_flows.campaign import Campaign
from aqvolt_flows.figures.jobs import ReportMaker
from aqvolt_flows.identity import content_key
from aqvolt_flows.stores import Database
from aqvolt_flows.work import Plan, WorkItem, bind


def plan_report(campaign: Campaign, database: Database, _claimed: frozenset[str] = frozenset()) -> Plan:
    """Return the report on what the collections hold now."""
    state = {
        name: sorted(database.own(name).distinct(identity))
        for name, identity in (
            ("candidates", "candidate_id"),
            ("trajectories", "trajectory_id"),
            ("frames", "frame_id"),
            ("labels", "label_id"),
            ("releases", "release_id"),
            ("models", "model_id"),
            ("benchmarks", "benchmark_id"),
        )
    }
    key = content_key("report/1", campaign=campaign.name, state=state)
    done = database["outputs"].find_one({"metadata.aqvolt.key": key}) is not None
    item = WorkItem("report", key, "report", bind(_maker(database).make, key), done=done)
    return Plan("report", [item], [], {name: len(ids) for name, ids in state.items()})


def _maker(database: Database) -> ReportMaker:
    """Return the maker; campaigns that share a project folder write pages of their own."""
    own = database.campaign == database.default_campaign
    return ReportMaker() if own else ReportMaker(path=f"report-{database.campaign}.html")
