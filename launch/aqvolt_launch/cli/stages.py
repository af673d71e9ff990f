"""``aqvolt plan`` and ``aqvolt submit``: what a stage would do, and doing it once."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from aqvolt_flows.stages import STAGES
from aqvolt_launch.cli import output
from aqvolt_launch.cli.options import AllCampaigns, CampaignOption, Json, Labeler, Limit, RerunFailed

#: The names of :data:`aqvolt_flows.stages.STAGES`, in the order of a campaign.
NAMES = [stage.name for stage in STAGES]
Stage = Annotated[
    str,
    typer.Argument(
        help="; ".join(f"{stage.name}: {stage.help}" for stage in STAGES) + ".",
        show_default=False,
        autocompletion=lambda: NAMES,
    ),
]


def plan(
    stage: Annotated[
        str | None,
        typer.Argument(
            help="; ".join(f"{stage.name}: {stage.help}" for stage in STAGES) + ". Without one, all are planned.",
            show_default=False,
            autocompletion=lambda: NAMES,
        ),
    ] = None,
    campaign: CampaignOption = None,
    labeler: Labeler = None,
    all_campaigns: AllCampaigns = False,
    as_json: Json = False,
) -> None:
    """Show what a stage would do now: counts, duplicates skipped, what is missing. Without a stage: all of them.

    Changes nothing.
    """
    from aqvolt_flows.errors import AqvoltError
    from aqvolt_flows.labelers import LABELERS
    from aqvolt_flows.labeling.labelers import check_labeler
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch import chain
    from aqvolt_launch.project import preflight

    settings = load_settings()
    chosen = chain.campaign_for(settings, campaign, labeler)
    if stage is None:
        overview = chain.plan_all(chosen, settings, all_campaigns)
        output.table(overview, as_json, title=f"Plan of {chosen.name}")
        return
    found = chain.plan(stage, chosen, settings, all_campaigns)
    missing = list(found.missing)
    rows: dict[str, Any] = {"stage": stage, "campaign": chosen.name}
    if stage == "label":
        database = chain.database_of(chosen, settings, all_campaigns)
        elements = preflight.frame_elements(database)
        checks = list(preflight.labeler_checks(settings, chosen, elements))
        missing += [f"{c.check}: {c.detail}. {c.todo}" for c in checks if c.status == "fail"]
        potcars = {c.check.split()[-1]: c.detail for c in checks if ", SHA-256 " in c.detail}
        if LABELERS[chosen.labeling.labeler].category == "vasp":
            rows["potcars"] = potcars
        try:
            check_labeler(chosen.labeling)
        except AqvoltError as error:
            missing += [] if missing else [str(error)]
        rows |= {**found.facts, **preflight.label_counts(found, chosen, database), "missing": missing}
    else:
        todo = len(found.todo)
        rows |= {"units": len(found.items), "done": len(found.items) - todo, "to_submit": todo}
        rows |= {**found.facts, "missing": missing}
    if as_json:
        output.emit(rows)
        return
    lengths = rows.pop("lengths", {})
    output.table(
        [{"what": k.replace("_", " "), "value": v} for k, v in rows.items() if k != "missing"], title=f"Plan: {stage}"
    )
    if lengths:
        names = list(dict.fromkeys(name for stage_ in lengths.values() for name in stage_))
        told = [{"what": n.replace("_", " "), **{s: str(v.get(n, "")) for s, v in lengths.items()}} for n in names]
        output.table(told, title="Length of the training")
    for sentence in missing:
        output.say(f"Missing: {sentence}")


def submit(
    stage: Stage,
    campaign: CampaignOption = None,
    labeler: Labeler = None,
    limit: Limit = None,
    budget_core_hours: Annotated[
        float | None,
        typer.Option(
            help="Labels: submit only as many as the forecast fits into this many core-hours.", show_default=False
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            help="Labels: maximum number of READY Fireworks; workers refill the queue. 0: no limit. Default: 200 on "
            "the embedded database, else 0.",
            show_default=False,
        ),
    ] = None,
    rerun_failed: RerunFailed = False,
    all_campaigns: AllCampaigns = False,
    as_json: Json = False,
) -> None:
    """Submit a stage's work to the LaunchPad. Submitting twice is submitting once.

    With a limit or a budget the most informative frames go first.
    """
    from aqvolt_flows.labeling.labelers import check_labeler
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch import chain

    settings = load_settings()
    chosen = chain.campaign_for(settings, campaign, labeler)
    if stage == "label":
        check_labeler(chosen.labeling)
    _, report = chain.submit_stage(
        stage,
        chosen,
        settings,
        limit=limit,
        rerun_failed=rerun_failed,
        budget_core_hours=budget_core_hours,
        window=window,
        all_campaigns=all_campaigns,
    )
    row = {"stage": stage, **report.as_dict()}
    if as_json:
        output.emit(row)
        return
    output.table([row], title="Submitted")
    if report.held:
        output.say("Some are held; 'aqvolt hold list' says why, 'aqvolt hold lift NAME' lets them go on.")
    if report.failed:
        output.say("What failed may end otherwise; 'aqvolt status' shows the reasons, --rerun-failed runs it again.")
    if report.submitted or report.queued or report.rerun:
        output.say("Run 'aqvolt work' here, or 'qlaunch' on a cluster; 'aqvolt status' shows how far it is.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: aqvolt plan label --labeler vasp")(plan)
    app.command(
        epilog="Example: aqvolt submit explore, then aqvolt work; aqvolt submit label --budget-core-hours 5000"
    )(submit)
