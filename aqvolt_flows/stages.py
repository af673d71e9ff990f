"""The stages of a campaign in order, in one tuple: names, planners, collections, what counts as a failure.

This module joins the stages; no stage imports another. A planner reads, counts and hashes, and changes nothing; what
it returns is submitted at most once per key.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aqvolt_flows.errors import InputError
from aqvolt_flows.work import Category, Plan, no_input

if TYPE_CHECKING:  # the command line reads the names of the stages, and must not wait for pymatgen or jobflow
    from aqvolt_flows.campaign import Campaign
    from aqvolt_flows.stores import Database

    Planner = Callable[[Campaign, Database, frozenset[str]], Plan]


@dataclass(frozen=True)
class Stage:
    """One stage of a campaign.

    Attributes
    ----------
    name
        Name of the stage on the command line, in keys and in Fireworks.
    help
        What it does, in one phrase.
    planner
        ``module:function`` of its planner; imported when it is asked for.
    collection
        Where its results are counted.
    category
        Worker category of most of its Fireworks.
    in_demo
        Part of the chain that ``aqvolt demo`` runs.
    counted
        Query for its documents in the collection.
    failed
        Query, besides ``counted``, for those that tell of a failure; none: there are no such documents.
    failed_word
        What a failure is called in tables.
    """

    name: str
    help: str
    planner: str
    collection: str
    category: Category = "cpu"
    in_demo: bool = True
    counted: Mapping[str, Any] = field(default_factory=dict)
    failed: Mapping[str, Any] | None = None
    failed_word: str = ""

    def load_planner(self) -> Planner:
        """Return the planner."""
        module, _, function = self.planner.partition(":")
        planner: Planner = getattr(importlib.import_module(module), function)
        return planner


_FAILED = {"status": "failed"}
_REJECTED = {"status": "rejected"}
#: In the order in which a campaign runs.
STAGES: tuple[Stage, ...] = (
    Stage(
        "candidates",
        "select the campaign's structures",
        "aqvolt_flows.candidates.plan:plan_candidates",
        "candidates",
        failed=_REJECTED,
        failed_word="rejected",
    ),
    Stage(
        "lithiate",
        "insert Li into accepted hosts",
        "aqvolt_flows.candidates.plan_generated:plan_lithiate",
        "candidates",
        "gpu",
        in_demo=False,
        counted={"source": "stuffed"},
        failed=_REJECTED,
        failed_word="rejected",
    ),
    Stage(
        "substitute",
        "replace one halogen by another",
        "aqvolt_flows.candidates.plan_generated:plan_substitute",
        "candidates",
        "gpu",
        in_demo=False,
        counted={"source": "substituted"},
        failed=_REJECTED,
        failed_word="rejected",
    ),
    Stage(
        "explore",
        "NpT molecular dynamics with an ML potential",
        "aqvolt_flows.exploration.plan:plan_explore",
        "trajectories",
        "gpu",
        failed=_FAILED,
        failed_word="failed",
    ),
    Stage("sample", "encode frames, choose by 2DIRECT", "aqvolt_flows.stages:plan_sample", "frames", "gpu"),
    Stage(
        "label",
        "one static per selected frame",
        "aqvolt_flows.labeling.plan:plan_label",
        "outputs",
        "vasp",
        counted={"metadata.aqvolt.stage": "label"},
        failed={"output.status": {"$ne": "converged"}},
        failed_word="not converged",
    ),
    Stage(
        "aimd",
        "r2SCAN NpT ab-initio MD",
        "aqvolt_flows.exploration.plan:plan_aimd",
        "trajectories",
        "vasp",
        in_demo=False,
        counted={"engine": "aimd"},
        failed=_FAILED,
        failed_word="failed",
    ),
    Stage(
        "build",
        "build labels from outcomes and AIMD",
        "aqvolt_builders.plan:plan_build",
        "labels",
        failed=_REJECTED,
        failed_word="rejected",
    ),
    Stage("release", "make a dataset release", "aqvolt_flows.datasets.plan:plan_release", "releases"),
    Stage(
        "train",
        "train on the newest release",
        "aqvolt_flows.training.plan:plan_train",
        "models",
        "gpu",
        failed=_FAILED,
        failed_word="failed",
    ),
    Stage(
        "benchmark",
        "measure models",
        "aqvolt_flows.benchmarks.plan:plan_benchmark",
        "benchmarks",
        "gpu",
        failed=_FAILED,
        failed_word="failed",
    ),
    Stage(
        "report",
        "write the campaign report",
        "aqvolt_flows.figures.plan:plan_report",
        "outputs",
        counted={"metadata.aqvolt.stage": "report"},
        failed={"output": None},
        failed_word="failed",
    ),
)


def stage_named(name: str) -> Stage:
    """Return a stage by its name.

    Raises
    ------
    InputError
        If there is no such stage.
    """
    for stage in STAGES:
        if stage.name == name:
            return stage
    raise InputError(f"There is no stage {name!r}; expected one of {', '.join(s.name for s in STAGES)}.")


def plan_stage(name: str, campaign: Campaign, database: Database, claimed: frozenset[str] = frozenset()) -> Plan:
    """Return what a stage would do now.

    Raises
    ------
    InputError
        If there is no such stage.
    """
    return stage_named(name).load_planner()(campaign, database, claimed)


def plan_sample(campaign: Campaign, database: Database, claimed: frozenset[str] = frozenset()) -> Plan:
    """Plan one round of encoding and choosing over the finished trajectories that no earlier round saw."""
    from aqvolt_flows.exploration.plan import finished_runs, wanted_runs
    from aqvolt_flows.sampling.plan import plan_rounds

    runs = wanted_runs(campaign, database)
    finished = finished_runs(database, runs)
    missing = no_input(runs, "trajectory", "aqvolt submit explore")
    if len(finished) < len(runs):
        missing = [
            f"{len(runs) - len(finished)} of {len(runs)} trajectories are not finished; run 'aqvolt submit "
            "explore' and 'aqvolt work'"
        ]
    return plan_rounds(campaign.sampling, database, finished, missing, claimed)
