"""The stages of a campaign in order, planned and submitted one by one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from aqvolt_builders.jobs import BuildMaker
from aqvolt_flows.campaign import Campaign, load_campaign
from aqvolt_flows.datasets.labels import BUILDER_VERSION
from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import content_key
from aqvolt_flows.planning import PLANNERS
from aqvolt_flows.planning_labeling import cost_model
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_flows.work import Plan, WorkItem
from aqvolt_launch.holds import FailureBudget, enforce, set_budget
from aqvolt_launch.launchpad import ensure_launchpad
from aqvolt_launch.submit import CoreHours, SubmitReport, claimed_units, submit

#: The order in which a campaign runs.
ORDER = ("candidates", "explore", "sample", "label", "build", "release", "train", "benchmark", "report")


def build_options(campaign: Campaign) -> dict[str, Any]:
    """Return what a campaign tells the label builder."""
    labeling = campaign.labeling
    return {"aimd_stride": labeling.aimd_label_stride, "max_energy_jump_ev": labeling.max_energy_jump_ev}


def plan_build(campaign: Campaign, database: Database, _claimed: frozenset[str] = frozenset()) -> Plan:
    """Return the building of ``labels`` from the labeling outcomes and ab-initio runs of now."""
    outcomes = sorted(database["outputs"].distinct("metadata.aqvolt.key", {"metadata.aqvolt.stage": "label"}))
    runs = sorted(
        [t["trajectory_id"], t["n_frames"]]
        for t in database["trajectories"].find(
            {"engine": "aimd", "status": {"$in": ["completed", "failed"]}}, {"trajectory_id": 1, "n_frames": 1}
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
    return Plan(
        "build", [item] if outcomes or runs else [], missing, {"outcomes": len(outcomes), "ab-initio runs": len(runs)}
    )


_PLANNERS: dict[str, Callable[[Campaign, Database, frozenset[str]], Plan]] = {**PLANNERS, "build": plan_build}


def campaign_for(settings: AqvoltSettings, name: str | None = None, labeler: str | None = None) -> Campaign:
    """Return the campaign of a project, with another labeler if asked for.

    Parameters
    ----------
    settings
        Names the campaign file, relative to the project folder, or a shipped one.
    name
        Another campaign.
    labeler
        ``surrogate``, ``vasp`` or ``gpaw``.
    """
    chosen = name or settings.campaign
    local = settings.path(chosen)
    campaign = load_campaign(local if local.is_file() else chosen)
    if labeler is None:
        return campaign
    if labeler not in {"surrogate", "vasp", "gpaw"}:
        raise InputError(f"There is no labeler {labeler!r}; expected surrogate, vasp or gpaw.")
    return campaign.model_copy(update={"labeling": campaign.labeling.model_copy(update={"labeler": labeler})})


def plan(stage: str, campaign: Campaign, settings: AqvoltSettings) -> Plan:
    """Return what a stage would do now; changes nothing but missing indexes.

    Raises
    ------
    InputError
        If there is no such stage.
    DatabaseError
        If no database answers.
    """
    if stage not in _PLANNERS:
        raise InputError(f"There is no stage {stage!r}; expected one of {', '.join(_PLANNERS)}.")
    database = Database.connect(settings)
    database.ensure_indexes()
    claimed = frozenset() if stage == "label" else claimed_units(ensure_launchpad(settings))  # no batches there
    return _PLANNERS[stage](campaign, database, claimed)


def submit_stage(
    stage: str,
    campaign: Campaign,
    settings: AqvoltSettings,
    limit: int | None = None,
    rerun_failed: bool = False,
    budget_core_hours: float | None = None,
    window: int | None = None,
) -> tuple[Plan, SubmitReport]:
    """Plan a stage and submit what is left of it; before labels, pause what has used up its failure budget.

    Parameters
    ----------
    stage, campaign, settings
        What to submit where.
    limit, rerun_failed, window
        As :func:`aqvolt_launch.submit.submit` has them.
    budget_core_hours
        Labels only: stop before the forecast of what is submitted exceeds it.

    Raises
    ------
    InputError
        If something that the stage needs is missing, or there is no finished run to forecast a budget from.
    ResourceError
        If the stage is ``label`` and its labeler cannot run: no VASP_CMD, no POTCARs, no gpaw.
    """
    if budget_core_hours is not None and stage != "label":
        raise InputError(f"A budget of core-hours was given for {stage}; only labels have a forecast, leave it out.")
    found = plan(stage, campaign, settings)
    if found.missing:
        raise InputError(f"Nothing was submitted for {stage}: {'; '.join(found.missing)}.")
    budget = None
    if stage == "label":
        p = campaign.labeling
        limits = FailureBudget(p.failure_budget_outcomes, p.failure_budget_fraction, p.labeler)
        set_budget(settings, limits)
        enforce(settings)
        if budget_core_hours is not None:
            model = cost_model(campaign, Database.connect(settings))
            budget = CoreHours(
                budget_core_hours, lambda item: model.predict(float(item.tags["atoms"]), float(item.tags["electrons"]))
            )
    report = submit(found.items, settings, limit=limit, rerun_failed=rerun_failed, budget=budget, window=window)
    return found, report
