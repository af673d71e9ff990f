"""What the next step of a round needs: units of work of the stages' own planners, and when the step is done.

Planning reads and changes nothing. A step is done when every unit has its result; what is wrong with the results is
said by :attr:`StepPlan.trouble`, which holds the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aqvolt_flows.campaign import Campaign
from aqvolt_flows.exploration.plan import finished_runs, plan_explore, wanted_runs
from aqvolt_flows.identity import content_key
from aqvolt_flows.labeling.plan import label_items
from aqvolt_flows.loop.jobs import EvaluateMaker, SelectMaker
from aqvolt_flows.loop.rounds import committee_file, member_campaigns, round_campaign
from aqvolt_flows.schemas.loop import LoopDocument, LoopParameters
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.stages import plan_stage
from aqvolt_flows.stores import Database, by_ids
from aqvolt_flows.work import Plan, WorkItem, bind


@dataclass(frozen=True)
class StepPlan:
    """One step of a round as it stands.

    Attributes
    ----------
    step
        Its name.
    items
        Units of work, finished ones included.
    waiting
        Units that run or wait already, beside ``items``.
    facts
        What the step gave; complete once it is done.
    missing
        What stands in the way, one sentence each.
    trouble
        Why the loop must not go on although all units have ended.
    failed_keys
        Units whose result is a failure; a retry runs them again.
    adopt
        As :class:`~aqvolt_flows.work.Plan` has it.
    """

    step: str
    items: Sequence[WorkItem]
    waiting: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    missing: Sequence[str] = ()
    trouble: Failure | None = None
    failed_keys: Sequence[str] = ()
    adopt: Callable[[], object] | None = None

    @property
    def todo(self) -> list[WorkItem]:
        """Units without a result, held ones excepted: nobody will run them."""
        return [i for i in self.items if not i.done and not i.held]

    @property
    def done(self) -> bool:
        """Whether every unit has its result."""
        return not (self.todo or self.waiting or self.missing)

    @property
    def keys(self) -> list[str]:
        """Keys of the units."""
        return [i.key for i in self.items]


def plan_step(
    campaign: Campaign, database: Database, document: LoopDocument, claimed: frozenset[str] = frozenset()
) -> StepPlan:
    """Return the next step of a round; ``claimed`` as planners of stages take it.

    Raises
    ------
    InputError
        If a planner or a committee is refused.
    """
    step = document.step
    assert step is not None, "all steps of the round are done"
    chosen = document.facts_of("select").get("chosen")
    if chosen == [] and step in _NEED_LABELS:
        return StepPlan(step, [], facts={"skipped": "no frame was worth a label"})
    return _PLANNERS[step](round_campaign(campaign, database, document), database, document, claimed)


_NEED_LABELS = ("label", "build", "release", "train", "evaluate")


def _of(plan: Plan, **values: Any) -> StepPlan:
    return StepPlan(plan.stage, list(plan.items), missing=plan.missing, adopt=plan.adopt, **values)


def _explore(campaign: Campaign, database: Database, _document: LoopDocument, claimed: frozenset[str]) -> StepPlan:
    plan = plan_explore(campaign, database, claimed)
    runs = wanted_runs(campaign, database)
    ended = finished_runs(database, runs)
    reasons: dict[str, int] = {}
    for run in ended.values():
        if run["failure"]:
            reasons[run["failure"]["reason"]] = reasons.get(run["failure"]["reason"], 0) + 1
    frames = sum(r["n_frames"] for r in ended.values())
    facts = {"runs": len(runs), "frames": frames, "ended": dict(sorted(reasons.items()))}
    trouble = None
    if ended and len(ended) == len(runs) and not frames:
        said = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()))
        trouble = Failure(reason="no_frames", message=f"None of {len(runs)} runs gave a frame: {said}.")
    return _of(plan, waiting=len(plan.queued), facts=facts, trouble=trouble)


def _sample(campaign: Campaign, database: Database, _document: LoopDocument, claimed: frozenset[str]) -> StepPlan:
    plan = plan_stage("sample", campaign, database, claimed)
    items = list(plan.items)
    sample = database["samples"].find_one({"key": items[0].key}, {"sample_id": 1, "funnel": 1}) if items else None
    facts = {"sample_key": items[0].key, "funnel": sample["funnel"]} if items and sample else {}
    missing = [] if items or plan.missing else ["the round of sampling before this one has not run yet"]
    return StepPlan("sample", items, facts=facts, missing=[*plan.missing, *missing], adopt=plan.adopt)


def _select(campaign: Campaign, database: Database, document: LoopDocument, _claimed: frozenset[str]) -> StepPlan:
    p = LoopParameters(**document.parameters)
    sample_key = document.facts_of("sample")["sample_key"]
    committee = document.committee.model_dump(mode="json") if document.committee else None
    key = content_key(
        "loop-select/1",
        round=document.round_id,
        sample=sample_key,
        committee=document.potential_sha256 if committee else None,
        scale=document.scale,
        parameters=p,
    )
    make = SelectMaker(parameters=p, labeling=campaign.labeling).make
    found = _output(database, key)
    item = _item(
        "loop-select",
        key,
        f"judge frames of {document.round_id}",
        bind(make, sample_key, committee, document.scale, key),
        found,
    )
    return StepPlan("select", [item], facts=found or {})


def _label(campaign: Campaign, database: Database, document: LoopDocument, _claimed: frozenset[str]) -> StepPlan:
    chosen = set(document.facts_of("select")["chosen"])
    items = label_items(campaign, database, sorted(chosen))
    ended = {i.key for i in items if i.done}
    outcomes = _outcomes(database, ended)
    converged = [d for d in outcomes if (d.get("output") or {}).get("status") == "converged"]
    facts = {
        "chosen": len(chosen),
        "outcomes": len(ended),
        "converged": len(converged),
        "held": sum(bool(i.held) for i in items),
        "core_hours": float(sum((d.get("output") or {}).get("cost_core_hours") or 0.0 for d in outcomes)),
    }
    trouble = None
    if items and not converged:
        said = "; ".join(sorted({i.held for i in items if i.held} | _reasons(outcomes)))
        trouble = Failure(reason="labels_failed", message=f"All {len(items)} labels of the round failed: {said}.")
    return StepPlan("label", items, facts=facts, trouble=trouble)


def _build(campaign: Campaign, database: Database, document: LoopDocument, claimed: frozenset[str]) -> StepPlan:
    plan = plan_stage("build", campaign, database, claimed)
    chosen = sorted(document.facts_of("select")["chosen"])
    labels = _labels(database, chosen)
    valid = {d["frame_id"] for d in labels if d["status"] == "valid"}
    rejected = sorted({d["failure"]["reason"] for d in labels if d["status"] == "rejected"})
    trouble = None
    if not valid:
        trouble = Failure(
            reason="labels_rejected", message=f"All labels of the round were rejected: {', '.join(rejected)}."
        )
    return _of(plan, facts={"valid": len(valid), "rejected": len(chosen) - len(valid)}, trouble=trouble)


def _release(campaign: Campaign, database: Database, _document: LoopDocument, _claimed: frozenset[str]) -> StepPlan:
    plan = plan_stage("release", campaign, database)
    items = list(plan.items)
    found = database["releases"].find_one({"key": items[0].key}) if items else None
    facts = {k: found[k] for k in ("release_id", "content_hash", "counts")} if found else {}
    return _of(plan, facts=facts)


def _train(campaign: Campaign, database: Database, _document: LoopDocument, _claimed: frozenset[str]) -> StepPlan:
    plans = [plan_stage("train", member, database) for member in member_campaigns(campaign)]
    items = list({i.key: i for plan in plans for i in plan.items}.values())
    missing = sorted({sentence for plan in plans for sentence in plan.missing})
    found = {d["key"]: d for d in by_keys(database, [i.key for i in items])}
    failed = [d for d in found.values() if d["status"] != "trained"]
    trouble, facts = None, {}
    if failed:
        why = failed[0]["failure"]
        message = f"{len(failed)} of {len(items)} trainings failed, first {failed[0]['model_id']}: {why['message']}"
        trouble = Failure(reason="training_failed", message=message)
    elif items and len(found) == len(items):
        models = sorted(d["model_id"] for d in found.values())
        committee = committee_file(database, models)
        facts = {"models": models, "committee": committee.model_dump(mode="json")}
    adopts = [plan.adopt for plan in plans if plan.adopt]
    return StepPlan(
        "train",
        items,
        facts=facts,
        missing=missing,
        trouble=trouble,
        failed_keys=[d["key"] for d in failed],
        adopt=lambda: [adopt() for adopt in adopts],
    )


def _evaluate(_campaign: Campaign, database: Database, document: LoopDocument, _claimed: frozenset[str]) -> StepPlan:
    committee = document.facts_of("train")["committee"]
    before = document.committee.model_dump(mode="json") if document.committee else None
    new = sorted(document.facts_of("select")["chosen"])
    content = document.facts_of("release")["content_hash"]
    key = content_key(
        "loop-evaluate/1",
        round=document.round_id,
        committee=committee,
        before=before,
        release=content,
        hold_out=document.hold_out,
    )
    found = _output(database, key)
    make = bind(EvaluateMaker().make, committee, before, document.hold_out, new, key)
    return StepPlan(
        "evaluate",
        [_item("loop-evaluate", key, f"compare {document.round_id} with labels", make, found)],
        facts=found or {},
    )


_PLANNERS: dict[str, Callable[[Campaign, Database, LoopDocument, frozenset[str]], StepPlan]] = {
    "explore": _explore,
    "sample": _sample,
    "select": _select,
    "label": _label,
    "build": _build,
    "release": _release,
    "train": _train,
    "evaluate": _evaluate,
}


def _item(stage: str, key: str, name: str, make: Callable[[], Any], found: Any) -> WorkItem:
    return WorkItem(stage, key, name, make, category="gpu", done=found is not None)


def _output(database: Database, key: str) -> dict[str, Any] | None:
    found = database["outputs"].find_one({"metadata.aqvolt.key": key}, {"output": 1}, sort=[("completed_at", -1)])
    return dict(found["output"]) if found and isinstance(found.get("output"), dict) else None


def by_keys(database: Database, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Return the ``models`` documents of some trainings."""
    fields = {"_id": 0, "key": 1, "model_id": 1, "status": 1, "failure": 1}
    return list(database["models"].find({"key": {"$in": list(keys)}}, fields))


def _outcomes(database: Database, keys: set[str]) -> list[dict[str, Any]]:
    fields = {"metadata.aqvolt.key": 1, "output.status": 1, "output.failure": 1, "output.cost_core_hours": 1, "_id": 0}
    return list(by_ids(database["outputs"], "metadata.aqvolt.key", sorted(keys), fields))


def _reasons(outcomes: Sequence[Mapping[str, Any]]) -> set[str]:
    failures = [(d.get("output") or {}).get("failure") or {} for d in outcomes]
    return {f"{f.get('reason')}: {f.get('message')}" for f in failures if f}


def _labels(database: Database, frame_ids: Sequence[str]) -> list[dict[str, Any]]:
    fields = {"_id": 0, "frame_id": 1, "trajectory_id": 1, "status": 1, "failure": 1}
    return list(by_ids(database["labels"], "frame_id", frame_ids, fields))


def valid_frames(database: Database, frame_ids: Sequence[str]) -> dict[str, str]:
    """Return frame_id → trajectory_id of the frames that have a valid label."""
    found = [d for d in _labels(database, frame_ids) if d["status"] == "valid"]
    return {d["frame_id"]: d["trajectory_id"] or d["frame_id"] for d in found}
