"""The stages of a campaign in order, planned and submitted one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from aqvolt_flows.campaign import Campaign, load_campaign, with_models
from aqvolt_flows.errors import AqvoltError, ConfigError, DatabaseError, InputError
from aqvolt_flows.labelers import LABELERS
from aqvolt_flows.labeling.plan import cost_model
from aqvolt_flows.models import identity_of
from aqvolt_flows.quarantine import guarded
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stages import STAGES, stage_named
from aqvolt_flows.stores import Database
from aqvolt_flows.work import Plan
from aqvolt_launch.open_project import Project
from aqvolt_launch.submission.adopt import Adopter
from aqvolt_launch.submission.holds import FailureBudget, enforce, set_budget
from aqvolt_launch.submission.submit import CoreHours, SubmitReport, claimed_units, submit


def campaign_for(settings: AqvoltSettings, name: str | None = None, labeler: str | None = None) -> Campaign:
    """Return the campaign of a project, with another labeler if asked for.

    Parameters
    ----------
    settings
        Names the campaign file, relative to the project folder, or a shipped one.
    name
        Another campaign.
    labeler
        Name of a labeler.
    """
    chosen = name or settings.campaign
    local = settings.path(chosen)
    campaign = load_campaign(local if local.is_file() else chosen)
    if labeler is None:
        return campaign
    LABELERS[labeler]  # refuses what is no labeler
    return campaign.model_copy(update={"labeling": campaign.labeling.model_copy(update={"labeler": labeler})})


def database_of(campaign: Campaign, settings: AqvoltSettings, all_campaigns: bool = False) -> Database:
    """Return the database as a campaign sees it, or with the documents of all campaigns."""
    database = Database.connect(settings).in_campaign(campaign.name)
    return database.in_all_campaigns() if all_campaigns else database


def view_of(settings: AqvoltSettings, name: str | None = None, all_campaigns: bool = False) -> Database:
    """Return the database as a campaign sees it, for commands that need no parameters of the campaign.

    Parameters
    ----------
    settings
        Name the database and the campaign.
    name
        Another campaign: its name in the database, its file, or the name of a shipped one.
    all_campaigns
        Read the documents of all campaigns.

    Raises
    ------
    InputError
        If the database has seen no campaign of this name.
    """
    database = Database.connect(settings)
    if name is not None:
        known = database.known_campaigns()
        if name not in {*known, database.default_campaign}:
            name = _name_of(settings, name, known)
        database = database.in_campaign(name)
    return database.in_all_campaigns() if all_campaigns else database


def _name_of(settings: AqvoltSettings, text: str, known: Sequence[str]) -> str:
    try:
        name = campaign_for(settings, text).name
    except ConfigError:
        name = text
    if name not in known:
        said = f"there are {', '.join(known)}" if known else "no campaign has written here yet"
        raise InputError(f"The database holds nothing of a campaign {name!r}; {said}.")
    return name


def plan(stage: str, campaign: Campaign, settings: AqvoltSettings, all_campaigns: bool = False) -> Plan:
    """Return what a stage would do now; changes nothing, but for setting documents aside that stop it.

    Parameters
    ----------
    stage, campaign, settings
        What to plan where.
    all_campaigns
        Plan over the documents of all campaigns, not only of this one.

    Raises
    ------
    InputError
        If there is no such stage.
    DatabaseError
        If no database answers.
    """
    database = database_of(campaign, settings, all_campaigns)
    campaign = with_models(campaign, partial(identity_of, database))
    return guarded(lambda: _plan(stage, campaign, settings, database), lambda: database)


def plan_all(campaign: Campaign, settings: AqvoltSettings, all_campaigns: bool = False) -> list[dict[str, Any]]:
    """Return one row per stage, in order: units, those done and those to submit, and what is missing.

    A stage that cannot be planned, because an extra or a file is not on this machine, says so in its row, and the
    others are planned.

    Raises
    ------
    DatabaseError
        If no database answers.
    """
    rows: list[dict[str, Any]] = []
    for name in (stage.name for stage in STAGES):
        try:
            found = plan(name, campaign, settings, all_campaigns)
        except DatabaseError:
            raise
        except (AqvoltError, ImportError) as error:
            rows.append({"stage": name, "units": None, "done": None, "to_submit": None, "missing": str(error)})
            continue
        done = sum(item.done for item in found.items)
        counts = {"units": len(found.items), "done": done, "to_submit": len(found.items) - done}
        rows.append({"stage": name, **counts, "missing": "; ".join(found.missing)})
    return rows


def _plan(stage: str, campaign: Campaign, settings: AqvoltSettings, database: Database) -> Plan:
    planner = stage_named(stage).load_planner()
    if stage == "label":  # no batches there
        return _with_campaigns(planner(campaign, database, frozenset()), database)
    # a round of sampling is a campaign's own, other units are the same for all
    claimed = claimed_units(Project(settings).launchpad, _own_rounds(stage, database))
    return _with_campaigns(planner(campaign, database, claimed), database)


def _with_campaigns(found: Plan, database: Database) -> Plan:
    """Say, where something is missing for a campaign that the database does not know, which campaigns it does know."""
    known = database.known_campaigns()
    if not found.missing or not known or database.campaign in known or database.all_campaigns:
        return found
    said = f"the database holds nothing of the campaign {database.campaign}, only of {', '.join(known)}"
    return replace(found, missing=[*found.missing, said])


def _own_rounds(stage: str, database: Database) -> dict[str, Any]:
    return database.members("outputs") if stage == "sample" else {}


def submit_stage(
    stage: str,
    campaign: Campaign,
    settings: AqvoltSettings,
    limit: int | None = None,
    rerun_failed: bool = False,
    budget_core_hours: float | None = None,
    window: int | None = None,
    all_campaigns: bool = False,
) -> tuple[Plan, SubmitReport]:
    """Plan a stage and submit what is left of it; before labels, pause what has used up its failure budget.

    Parameters
    ----------
    stage, campaign, settings
        What to submit where.
    limit, rerun_failed, window
        As :func:`aqvolt_launch.submission.submit.submit` has them.
    budget_core_hours
        Labels only: stop before the forecast of what is submitted exceeds it.
    all_campaigns
        As :func:`plan` has it; what is submitted belongs to the campaign.

    Raises
    ------
    InputError
        If something that the stage needs is missing, or there is no finished run to forecast a budget from.
    ResourceError
        If the stage is ``label`` and its labeler cannot run: no VASP_CMD, no POTCARs, no gpaw.
    """
    if budget_core_hours is not None and stage != "label":
        raise InputError(f"A budget of core-hours was given for {stage}; only labels have a forecast, leave it out.")
    project = Project(settings).prepare()
    options = {"limit": limit, "rerun_failed": rerun_failed, "window": window}
    return guarded(
        lambda: _submit(project, stage, campaign, budget_core_hours, all_campaigns, options), lambda: project.database
    )


def _submit(
    project: Project,
    stage: str,
    campaign: Campaign,
    budget_core_hours: float | None,
    all_campaigns: bool,
    options: dict[str, Any],
) -> tuple[Plan, SubmitReport]:
    settings = project.settings
    found = plan(stage, campaign, settings, all_campaigns)
    if found.missing:
        raise InputError(f"Nothing was submitted for {stage}: {'; '.join(found.missing)}.")
    budget = None
    if stage == "label":
        p = campaign.labeling
        limits = FailureBudget(p.failure_budget_outcomes, p.failure_budget_fraction, p.labeler)
        set_budget(project, limits)
        enforce(project)
        if budget_core_hours is not None:
            model = cost_model(campaign, database_of(campaign, settings))
            budget = CoreHours(
                budget_core_hours, lambda item: model.predict(float(item.tags["atoms"]), float(item.tags["electrons"]))
            )
    if found.adopt is not None:
        found.adopt()
    Adopter(settings, campaign.name).adopt_units(found.queued)
    return found, submit(found.items, settings, budget=budget, campaign=campaign.name, **options)
