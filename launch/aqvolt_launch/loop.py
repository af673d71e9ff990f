"""Driving a loop: one tick looks at the database, submits what is next, and ends.

Nothing lives between ticks but the documents of ``loops`` and ordinary workflows. Units of work are submitted once per
key, and a round's document changes only from the version that a tick has read, so that two ticks at once, or a tick
that was killed anywhere, leave what one undisturbed tick leaves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pymongo.errors import DuplicateKeyError

from aqvolt_flows.campaign import Campaign
from aqvolt_flows.errors import InputError
from aqvolt_flows.labeling.labelers import check_labeler
from aqvolt_flows.loop import rounds
from aqvolt_flows.loop.plan import StepPlan, plan_step, valid_frames
from aqvolt_flows.loop.stopping import RoundNumbers, decide
from aqvolt_flows.schemas.base import utc_now
from aqvolt_flows.schemas.loop import LoopDocument, LoopParameters, RoundStep
from aqvolt_flows.schemas.provenance import ArtifactRef, Failure
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database, check_size
from aqvolt_launch.chain import database_of
from aqvolt_launch.launchpad import fizzled, rerun, workflows_by_key
from aqvolt_launch.open_project import Project
from aqvolt_launch.submission.holds import FailureBudget, enforce, set_budget
from aqvolt_launch.submission.submit import SubmitReport, claimed_units, submit


@dataclass(frozen=True)
class Tick:
    """What a tick did.

    Attributes
    ----------
    loop, round, step
        Where the loop stands; no step after the last round.
    status
        running, held, done, stopped; ``overtaken``: another tick wrote first.
    submitted, waiting
        Units that this tick submitted, and those that are without a result now.
    said
        One sentence.
    """

    loop: str
    round: int
    step: str | None
    status: str
    submitted: int = 0
    waiting: int = 0
    said: str = ""

    @property
    def over(self) -> bool:
        """Whether no further tick will do anything until a user does."""
        return self.status in {"held", "done", "stopped"}

    def as_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


class _OvertakenError(Exception):
    """Another tick has changed the round."""


def start(settings: AqvoltSettings, campaign: Campaign) -> LoopDocument:
    """Write the first round of a campaign's loop, or return the newest one if it has begun; nothing is submitted.

    Raises
    ------
    InputError
        If the loop cannot begin: no candidates, elements that the base potential lacks, a hold-out without labels.
    """
    project = Project(settings).prepare()
    database = database_of(campaign, settings)
    known = rounds.rounds_of(database, campaign)
    if known:
        return known[-1]
    check_labeler(campaign.labeling)
    rounds.check_start(campaign, database)
    held = rounds.hold_out_of(database, campaign.loop.hold_out) if campaign.loop.hold_out else []
    document = rounds.blank_round(campaign, 0, campaign.exploration.potential, hold_out=held)
    _create(project.database.in_campaign(campaign.name), document)
    return rounds.rounds_of(database, campaign)[-1]


def tick(settings: AqvoltSettings, campaign: Campaign) -> Tick:
    """Do what is next in a campaign's loop, as far as it goes without waiting.

    Raises
    ------
    InputError
        If the loop has not begun, or a planner refuses.
    """
    project = Project(settings).prepare()
    database = database_of(campaign, settings)
    document = _newest(database, campaign)
    try:
        while document.status == "running" or _goes_on(document):
            if _goes_on(document):
                _create(database, _following(database, campaign, document))
                document = _newest(database, campaign)
                continue
            if document.step is None:
                document = _conclude(database, campaign, document)
                continue
            found = _planned(project, database, campaign, document)
            report = _submit(project, campaign, document, found)
            document, found = _settled(project, database, campaign, document, found, report)
            if document.status == "running" and not found.done:
                return _waiting(document, found, report)
            if document.status == "running":
                document = _advance(database, document, found)
    except _OvertakenError:
        now = _newest(database, campaign)
        return Tick(now.loop, now.round, now.step, "overtaken", said="another tick was first; it goes on")
    return _ended(document)


def plan(settings: AqvoltSettings, campaign: Campaign) -> dict[str, Any]:
    """Return what the next tick would submit; changes nothing."""
    database = database_of(campaign, settings)
    known = rounds.rounds_of(database, campaign)
    if not known:
        p = campaign.loop
        return {"loop": rounds.loop_name(campaign), "round": 0, "step": "start", **p.model_dump(mode="json")}
    document = known[-1]
    row: dict[str, Any] = {"loop": document.loop, "round": document.round, "status": document.status}
    if document.status != "running" or document.step is None:
        return row | {"step": document.step}
    found = _planned(Project(settings), database, campaign, document)
    facts = {k: v for k, v in found.facts.items() if not isinstance(v, list | dict)}
    counts = {"units": len(found.items), "done": len(found.items) - len(found.todo), "waiting": found.waiting}
    return row | {"step": document.step, **counts, **facts, "missing": list(found.missing)}


def stop(settings: AqvoltSettings, campaign: Campaign) -> LoopDocument:
    """End a loop where it stands; what is queued runs on. ``retry`` lets it go on.

    Raises
    ------
    InputError
        If the loop has not begun or has ended.
    """
    database = database_of(campaign, settings)
    document = _newest(database, campaign)
    if document.status in {"done", "stopped"}:
        raise InputError(f"The loop {document.loop} has ended already ({document.decision.get('rule') or 'stopped'}).")
    why = Failure(reason="stopped", message="A user ended the loop.")
    return _change(database, document, status="stopped", failure=why)


def retry(settings: AqvoltSettings, campaign: Campaign) -> LoopDocument:
    """Let a loop that is held or was stopped go on; the next tick runs failed jobs again.

    Raises
    ------
    InputError
        If it is neither.
    """
    database = database_of(campaign, settings)
    document = _newest(database, campaign)
    if document.status not in {"held", "stopped"}:
        raise InputError(
            f"The loop {document.loop} is {document.status}, not held; there is nothing to try again: see 'aqvolt loop "
            "status'."
        )
    return _change(database, document, status="running", failure=None, retry=document.status == "held")


def status(settings: AqvoltSettings, campaign: Campaign) -> list[dict[str, Any]]:
    """Return one row per round: where it stands, what it gave and what was decided."""
    database = database_of(campaign, settings)
    return [d.row() for d in rounds.rounds_of(database, campaign)]


def judgments(database: Database, frame_id: str) -> list[dict[str, Any]]:
    """Return what rounds of all loops said of a frame, as steps of its lineage: what, identity and facts."""
    import pyarrow.parquet as pq

    fields = {"_id": 0, "round_id": 1, "steps": 1}
    found = []
    for document in database["loops"].find({}, fields).sort([("loop", 1), ("round", 1)]):
        table = next((s["facts"].get("table") for s in document["steps"] if s["name"] == "select"), None)
        if table:
            path = database.artifacts.local_path(ArtifactRef(**table))
            for row in pq.read_table(path, filters=[("frame_id", "=", frame_id)]).to_pylist():
                facts = {k: v for k, v in row.items() if k not in {"frame_id", "trajectory_id", "row"}}
                found.append({"what": "loop round", "identity": document["round_id"], "facts": facts})
    return found


def _newest(database: Database, campaign: Campaign) -> LoopDocument:
    known = rounds.rounds_of(database, campaign)
    if not known:
        raise InputError(f"The loop {rounds.loop_name(campaign)} has not begun; run 'aqvolt loop start'.")
    return known[-1]


def _planned(project: Project, database: Database, campaign: Campaign, document: LoopDocument) -> StepPlan:
    own = database.members("outputs") if document.step == "sample" else {}
    return plan_step(campaign, database, document, claimed_units(project.launchpad, own))


def _submit(project: Project, campaign: Campaign, document: LoopDocument, found: StepPlan) -> SubmitReport:
    """Submit what has no result; in a retry what has failed, too."""
    if found.step == "label":
        p = campaign.labeling
        set_budget(project, FailureBudget(p.failure_budget_outcomes, p.failure_budget_fraction, p.labeler))
        enforce(project)
    if found.adopt is not None:
        found.adopt()
    if document.retry:
        _run_failures_again(project, found)
    if not found.items or found.missing:
        return SubmitReport()
    return submit(found.items, project.settings, rerun_failed=document.retry, campaign=campaign.name)


def _run_failures_again(project: Project, found: StepPlan) -> None:
    """Run workflows again whose result is the document of a failure: they are COMPLETED, so submitting does not."""
    for workflow in workflows_by_key(project.launchpad, list(found.failed_keys)).values():
        children = {int(child) for child in workflow["parent_links"]}
        for fw_id in sorted(set(workflow["nodes"]) - children):  # what follows from them runs again, too
            rerun(project.launchpad, int(fw_id), states=("COMPLETED", "FIZZLED"))


def _settled(
    project: Project,
    database: Database,
    campaign: Campaign,
    document: LoopDocument,
    found: StepPlan,
    report: SubmitReport,
) -> tuple[LoopDocument, StepPlan]:
    """Hold the loop where jobs fizzled or their results are no good, and end a retry that was made."""
    if document.retry:
        again = report.rerun or report.submitted or found.failed_keys
        document = _change(database, document, retry=False)
        if again:  # what failed runs now, and its old result says nothing
            return document, StepPlan(found.step, [], waiting=1, facts=found.facts)
    lost = _fizzled_keys(project, found) if report.failed else set()
    if lost and found.step == "label" and lost == {i.key for i in found.todo} and found.facts["converged"]:
        # single labels without an outcome hold nothing: the round goes on with the others
        others = [i for i in found.items if i.key not in lost]
        found = replace(found, items=others, facts={**found.facts, "fizzled": len(lost)})
    elif lost and not (found.step == "label" and len(lost) < len(found.todo)):
        return _change(database, document, status="held", failure=_fizzled(project, found)), found
    if not found.done and report.done and report == SubmitReport(done=report.done):
        found = _planned(project, database, campaign, document)  # they may have ended since it was planned
        if found.todo:
            message = (
                f"{len(found.todo)} jobs of {found.step} are COMPLETED and left no result, first {found.todo[0].name}"
            )
            return _change(
                database, document, status="held", failure=Failure(reason="no_result", message=message)
            ), found
    if found.missing:
        why_not = Failure(reason="missing", message=f"{found.step}: {'; '.join(found.missing)}.")
        return _change(database, document, status="held", failure=why_not), found
    if found.done and found.trouble is not None:
        return _change(database, document, status="held", failure=found.trouble), found
    if found.done and document.step == "build" and document.round == 0 and not document.hold_out:
        return _with_hold_out(database, campaign, document), found
    return document, found


def _with_hold_out(database: Database, campaign: Campaign, document: LoopDocument) -> LoopDocument:
    frames = valid_frames(database, document.facts_of("select")["chosen"])
    try:
        held = rounds.draw_hold_out(frames, campaign.loop.hold_out_fraction, campaign.release.split_salt)
    except InputError as error:
        return _change(database, document, status="held", failure=Failure(reason="no_hold_out", message=str(error)))
    return _change(database, document, hold_out=held)


def _fizzled_keys(project: Project, found: StepPlan) -> set[str]:
    known = workflows_by_key(project.launchpad, [i.key for i in found.todo])
    return {key for key, workflow in known.items() if workflow["state"] == "FIZZLED"}


def _fizzled(project: Project, found: StepPlan) -> Failure:
    rows = fizzled(project.launchpad, 1, {"spec.aqvolt.key": {"$in": [i.key for i in found.todo]}})
    said = f"{rows[0]['name']}: {rows[0]['reason']}" if rows else "see 'aqvolt status'"
    return Failure(reason="fizzled", message=f"Jobs of {found.step} fizzled, {said}")


def _advance(database: Database, document: LoopDocument, found: StepPlan) -> LoopDocument:
    done = RoundStep(name=found.step, keys=found.keys, facts=dict(found.facts))
    return _change(database, document, steps=[*document.steps, done])


def _goes_on(document: LoopDocument) -> bool:
    """Whether a round is done and the next one is to begin; a killed tick may leave a loop so."""
    return document.status == "done" and not document.decision["stop"]


def _conclude(database: Database, campaign: Campaign, document: LoopDocument) -> LoopDocument:
    """Decide after a round."""
    known = rounds.rounds_of(database, campaign)
    p = LoopParameters(**document.parameters)
    decision = decide([numbers_of(d, known) for d in known], p.stop, p.total_core_hours)
    return _change(database, document, status="done", decision=decision.as_dict())


def _following(database: Database, campaign: Campaign, document: LoopDocument) -> LoopDocument:
    """Return the round after this one; where nothing was trained, the same committee explores again."""
    trained = document.facts_of("train").get("committee")
    committee, scale = document.committee, document.scale
    if trained:
        committee = ArtifactRef(**trained)
        held = document.facts_of("evaluate").get("hold_out") or {}
        scale = (held.get("calibration") or {}).get("scale")
    potential = document.potential
    if committee is not None:
        potential = f"committee:{database.artifacts.local_path(committee)}"
    kept = {"hold_out": document.hold_out, "committee": committee, "scale": scale}
    return rounds.blank_round(campaign, document.round + 1, potential, **kept)


def numbers_of(document: LoopDocument, known: Sequence[LoopDocument]) -> RoundNumbers:
    """Return what decides after a round; core-hours are those of all rounds up to it."""
    chosen, held = document.facts_of("select"), document.facts_of("evaluate").get("hold_out") or {}
    interval = held.get("force_mae_interval_ev_per_a")
    before = [d for d in known if d.round <= document.round]
    return RoundNumbers(
        round=document.round,
        doubtful_fraction=chosen.get("doubtful_fraction"),
        error=held.get("force_mae_ev_per_a"),
        interval=(float(interval[0]), float(interval[1])) if interval else None,
        labels=int(document.facts_of("build").get("valid") or 0),
        chosen=len(chosen.get("chosen") or ()),
        core_hours=float(sum(d.facts_of("label").get("core_hours") or 0.0 for d in before)),
    )


def _create(database: Database, document: LoopDocument) -> None:
    """Write a round that begins, unless another tick was first."""
    plain = document.model_dump(mode="python")
    check_size(plain, f"loops {document.round_id}")
    database.register_campaigns()
    with contextlib.suppress(DuplicateKeyError):
        database["loops"].insert_one(plain)


def _change(database: Database, document: LoopDocument, **values: Any) -> LoopDocument:
    """Write changes of a round and return it; raise if it is not as it was read."""
    changed = document.model_copy(update=values | {"version": document.version + 1, "last_updated": utc_now()})
    plain = LoopDocument(**changed.model_dump(mode="python")).model_dump(mode="python")
    check_size(plain, f"loops {document.round_id}")
    same = {"round_id": document.round_id, "version": document.version}
    if not database["loops"].update_one(same, {"$set": plain}).matched_count:
        raise _OvertakenError
    return LoopDocument(**plain)


def _waiting(document: LoopDocument, found: StepPlan, report: SubmitReport) -> Tick:
    left = len(found.todo) + found.waiting
    new = report.submitted + report.rerun + report.completed
    said = f"{found.step} of round {document.round}: {left} units to run"
    return Tick(document.loop, document.round, document.step, "running", new, left, said)


def _ended(document: LoopDocument) -> Tick:
    said = document.failure.message if document.failure else str(document.decision.get("sentence", ""))
    if document.status == "held":
        said = f"held at {document.step}: {said} Mend it and run 'aqvolt loop retry'."
    return Tick(document.loop, document.round, document.step, document.status, said=said)
