"""Submission: units of work become FireWorks workflows, each once, whoever submits and whenever it is killed.

Three writes per batch, in an order that makes each state of a killed submission harmless:

1. the Fireworks, all WAITING: nothing runs them, and no workflow knows them;
2. the workflow documents: the unique index on ``metadata.aqvolt.key`` decides which submitter wins;
   the Fireworks of a loser are deleted again;
3. the root Fireworks become READY.

Killed after 1, Fireworks without a workflow are left over (``aqvolt reconcile`` removes them) and the
next submission starts anew; killed after 2, the next submission, or a worker, does 3 with the same ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import batched
from typing import TYPE_CHECKING, Any

from pymongo.errors import BulkWriteError

from aqvolt_flows.errors import InputError
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import check_size, job_store
from aqvolt_flows.work import WorkItem
from aqvolt_launch.launchpad import KEY_FIELD, ensure_launchpad
from aqvolt_launch.recovery import rerun

if TYPE_CHECKING:
    from fireworks import LaunchPad, Workflow

#: Workflows built and written together.
BATCH = 200
_DUPLICATE = 11000


@dataclass(frozen=True)
class SubmitReport:
    """What became of the units of work.

    Attributes
    ----------
    submitted
        New workflows, by this call.
    completed
        Workflows of an earlier, killed submission that this call made runnable.
    queued
        Were there already: ready, running, waiting or paused.
    done
        Finished: the result stands in its collection, or its workflow is COMPLETED.
    failed
        FIZZLED, and left so; ``rerun_failed`` runs them again.
    rerun
        FIZZLED before, ready again by this call.
    left
        Not submitted because of ``limit``.
    """

    submitted: int = 0
    completed: int = 0
    queued: int = 0
    done: int = 0
    failed: int = 0
    rerun: int = 0
    left: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return the counts as a mapping."""
        return asdict(self)

    def __add__(self, other: SubmitReport) -> SubmitReport:
        """Return the sums."""
        mine, theirs = self.as_dict(), other.as_dict()
        return SubmitReport(**{name: mine[name] + theirs[name] for name in mine})


def submit(
    items: Sequence[WorkItem], settings: AqvoltSettings, limit: int | None = None, rerun_failed: bool = False
) -> SubmitReport:
    """Put units of work into the LaunchPad, each key once.

    Parameters
    ----------
    items
        What a planner returned; of several with one key the first counts.
    settings
        Which database.
    limit
        Submit at most so many new ones (a windowed queue stays fast).
    rerun_failed
        Run FIZZLED ones again instead of only reporting them.

    Raises
    ------
    InputError
        If ``limit`` is negative, or a job would not fit into a MongoDB document.
    DatabaseError
        If no database answers.
    """
    if limit is not None and limit < 0:
        raise InputError(f"A limit of {limit} was given; expected the number of units to submit, 0 or more.")
    unique = {item.key: item for item in reversed(items)}
    pending = [item for item in reversed(unique.values()) if not item.done]
    report = SubmitReport(done=len(unique) - len(pending))
    if not pending:
        return report
    launchpad = ensure_launchpad(settings)
    store = job_store()
    for batch in batched(pending, BATCH):
        known = _known(launchpad, [item.key for item in batch])
        report += _report_known(launchpad, known.values(), rerun_failed)
        new = [item for item in batch if item.key not in known]
        room = len(new) if limit is None else max(0, limit - report.submitted)
        report += SubmitReport(left=len(new) - min(room, len(new)))
        won, lost = _insert(launchpad, [_workflow(item, store) for item in new[:room]])
        report += SubmitReport(submitted=won, queued=lost)
    return report


def _known(launchpad: LaunchPad, keys: list[str]) -> dict[str, dict[str, Any]]:
    fields = {KEY_FIELD: 1, "state": 1, "fw_states": 1, "nodes": 1, "parent_links": 1}
    found = launchpad.workflows.find({KEY_FIELD: {"$in": keys}}, fields)
    return {workflow["metadata"]["aqvolt"]["key"]: workflow for workflow in found}


def _report_known(launchpad: LaunchPad, workflows: Iterable[dict[str, Any]], rerun_failed: bool) -> SubmitReport:
    """Count workflows that are there already, complete half-submitted ones, and rerun failed ones if asked to."""
    counts = dict.fromkeys(("completed", "queued", "done", "failed", "rerun"), 0)
    workflows = list(workflows)
    staged = release_staged(launchpad, [fw_id for workflow in workflows for fw_id in _roots(workflow)])
    for workflow in workflows:
        if workflow["state"] == "COMPLETED":
            counts["done"] += 1
        elif staged & set(workflow["nodes"]):
            counts["completed"] += 1
        elif workflow["state"] != "FIZZLED":
            counts["queued"] += 1
        elif rerun_failed:
            for fw_id in (int(i) for i, state in workflow["fw_states"].items() if state == "FIZZLED"):
                rerun(launchpad, fw_id, states=("FIZZLED",))
            counts["rerun"] += 1
        else:
            counts["failed"] += 1
    return SubmitReport(**counts)


def _roots(workflow: dict[str, Any]) -> Iterator[int]:
    """Yield the Fireworks that the workflow believes READY and that wait for no other."""
    parents = workflow["parent_links"]
    for fw_id, state in workflow["fw_states"].items():
        if state == "READY" and not parents.get(fw_id):
            yield int(fw_id)


def release_staged(launchpad: LaunchPad, fw_ids: Sequence[int]) -> set[int]:
    """Make those READY that a killed submission left WAITING; return the ids of those it found so."""
    if not fw_ids:
        return set()
    query = {"fw_id": {"$in": list(fw_ids)}, "state": "WAITING"}
    staged = {firework["fw_id"] for firework in launchpad.fireworks.find(query, {"fw_id": 1})}
    if staged:
        query = {"fw_id": {"$in": list(staged)}, "state": "WAITING"}
        launchpad.fireworks.update_many(query, {"$set": {"state": "READY"}})
    return staged


def _workflow(item: WorkItem, store: Any) -> Workflow:
    """Return the FireWorks workflow of one unit of work, named, keyed, with category and priority."""
    from jobflow import Flow
    from jobflow.managers.fireworks import flow_to_workflow

    made = item.make()
    mark = {"aqvolt": {"stage": item.stage, "key": item.key}}
    made.update_metadata(mark)  # also for jobs that these jobs make at run time
    for job in [job for job, _ in made.iterflow()] if isinstance(made, Flow) else [made]:
        job.config.manager_config.update({"_category": item.category, "_priority": item.priority})
    units = {"units": list(item.units)} if item.units else {}
    return flow_to_workflow(made, store=store, name=item.name, metadata={"aqvolt": mark["aqvolt"] | units})


def claimed_units(launchpad: LaunchPad) -> frozenset[str]:
    """Return the keys of the units inside unfinished workflows; a plan leaves them out of new batches."""
    unfinished = {
        "metadata.aqvolt.units": {"$exists": True},
        "state": {"$nin": ["COMPLETED", "FIZZLED", "DEFUSED", "ARCHIVED"]},
    }
    found = launchpad.workflows.find(unfinished, {"metadata.aqvolt.units": 1})
    return frozenset(unit for workflow in found for unit in workflow["metadata"]["aqvolt"]["units"])


def _insert(launchpad: LaunchPad, workflows: list[Workflow]) -> tuple[int, int]:
    """Write workflows in the order that the module's docstring gives; return how many were won and lost."""
    if not workflows:
        return 0, 0
    next_id = launchpad.get_new_fw_id(quantity=sum(len(workflow) for workflow in workflows))
    fireworks, documents = [], []
    for workflow in workflows:
        new_ids = dict(zip(sorted(workflow.id_fw, reverse=True), range(next_id, next_id + len(workflow)), strict=True))
        next_id += len(workflow)
        for firework in workflow:
            firework.fw_id = new_ids[firework.fw_id]
            fireworks.append(firework.to_db_dict() | {"state": "WAITING"})
            check_size(fireworks[-1], f"Firework {firework.name!r}")
        workflow._reassign_ids(new_ids)
        for root in workflow.root_fw_ids:
            workflow.fw_states[root] = "READY"
        documents.append(workflow.to_db_dict())
    launchpad.fireworks.insert_many(fireworks, ordered=False)
    lost = _insert_workflows(launchpad, documents)
    lost_ids = {fw_id for index in lost for fw_id in documents[index]["nodes"]}
    if lost_ids:
        launchpad.fireworks.delete_many({"fw_id": {"$in": list(lost_ids)}, "state": "WAITING"})
    won = [document for index, document in enumerate(documents) if index not in lost]
    release_staged(launchpad, [fw_id for document in won for fw_id in _roots(document)])
    return len(won), len(lost)


def _insert_workflows(launchpad: LaunchPad, documents: list[dict[str, Any]]) -> set[int]:
    """Insert workflow documents and return the indices of those whose key another submitter had already written."""
    try:
        launchpad.workflows.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        failures = error.details["writeErrors"]
        if any(failure["code"] != _DUPLICATE for failure in failures):
            raise
        return {failure["index"] for failure in failures}
    return set()
