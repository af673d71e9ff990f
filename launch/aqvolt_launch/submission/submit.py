"""Submission: units of work become FireWorks workflows, each once, whoever submits and whenever it is killed.

Work of which there is little (any flow) takes three writes per batch, in an order that makes each state of a
killed submission harmless:

1. the Fireworks, all WAITING: nothing runs them, and no workflow knows them;
2. the workflow documents: the unique index on ``metadata.aqvolt.key`` decides which submitter wins;
   the Fireworks of a loser are deleted again;
3. the root Fireworks become READY.

Killed after 1, Fireworks without a workflow are left over (``aqvolt reconcile`` removes them) and the
next submission starts anew; killed after 2, the next submission, or a worker, does 3 with the same ids.

Work of which there is very much (units with a ``template``, one job each) takes two, because an update costs the
embedded database as much as an insert:

1. the workflow documents; the unique index decides, as before. Nothing can run: there is no Firework;
2. the Fireworks of the winners, in the state in which they stay.

Before 1 the batch is announced with its Firework numbers, after 2 the announcement goes. Of a killed submission's
announced batch the next submission, or a worker, removes the workflows without a Firework
(:func:`aqvolt_launch.repair.lost_runs.undo_killed_batches`), and then it is submitted as if it had never been.
"""

from __future__ import annotations

import logging
import sys
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import batched
from typing import TYPE_CHECKING, Any

from pymongo.errors import BulkWriteError

from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.base import utc_now
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import check_size, job_store
from aqvolt_flows.work import Stream, WorkItem
from aqvolt_launch.launchpad import KEY_FIELD, ensure_launchpad, rerun, workflows_by_key
from aqvolt_launch.processes import worker_name
from aqvolt_launch.submission import window as queue
from aqvolt_launch.submission.adopt import Adopter
from aqvolt_launch.submission.again import run_again
from aqvolt_launch.submission.announced import undo_killed_batches
from aqvolt_launch.submission.blueprint import Blueprint, shape, workflow_of

if TYPE_CHECKING:
    from fireworks import LaunchPad, Workflow

logger = logging.getLogger(__name__)

#: Workflows built and written together: those made one by one, and copies of a template.
BATCH = 200
BULK_BATCH = 500
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
        FIZZLED, or ended for a reason that another run may cure, and left so; ``rerun_failed`` runs them again.
    rerun
        Such ones, ready again by this call.
    left
        Not submitted because of ``limit`` or the budget of core-hours.
    held
        Not submitted because their frame or chemical system is held (``aqvolt hold list``).
    core_hours
        Forecast for the submitted ones, where a budget was given.
    """

    submitted: int = 0
    completed: int = 0
    queued: int = 0
    done: int = 0
    failed: int = 0
    rerun: int = 0
    left: int = 0
    held: int = 0
    core_hours: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """Return the counts as a mapping."""
        return asdict(self)

    def __add__(self, other: SubmitReport) -> SubmitReport:
        """Return the sums."""
        mine, theirs = self.as_dict(), other.as_dict()
        return SubmitReport(**{name: mine[name] + theirs[name] for name in mine})  # type: ignore[arg-type]


@dataclass(frozen=True)
class CoreHours:
    """A budget: submit while the forecast of what is submitted stays within ``hours``; ``of`` forecasts one unit."""

    hours: float
    of: Callable[[WorkItem], float]


def submit(
    items: Collection[WorkItem],
    settings: AqvoltSettings,
    limit: int | None = None,
    rerun_failed: bool = False,
    budget: CoreHours | None = None,
    window: int | None = None,
    campaign: str = "",
) -> SubmitReport:
    """Put units of work into the LaunchPad, each key once.

    Parameters
    ----------
    items
        What a planner returned; of several with one key the first counts. A :class:`Stream` is read in batches
        and never held in memory; with a limit or a budget its highest priorities come first.
    settings
        Which database.
    limit
        Maximum number of new units.
    rerun_failed
        Run them again, FIZZLED ones and those that :attr:`WorkItem.again` gives a reason for, instead of only
        reporting them.
    budget
        Stop before the forecast of the new ones exceeds this many core-hours.
    window
        Maximum number of READY Fireworks, the others PAUSED until workers make them READY
        (:mod:`aqvolt_launch.submission.window`); 0: all READY at once. By default 200 on the
        embedded database and 0 elsewhere. It holds for units with a template; others are few.
    campaign
        To which the units belong; those that another campaign submitted belong to it then, too. Empty: jobs belong
        to the campaign of the settings when they run.

    Raises
    ------
    InputError
        If ``limit``, ``budget`` or ``window`` is negative, or a job would not fit into a MongoDB document.
    DatabaseError
        If no database answers.
    """
    for name, value, what in (
        ("limit", limit, "number of units to submit"),
        ("budget", budget.hours if budget else None, "core-hours to submit"),
        ("window", window, "number of Fireworks to keep ready"),
    ):
        if value is not None and value < 0:
            raise InputError(f"A {name} of {value:g} was given; expected the {what}, 0 or more.")
    if isinstance(items, Stream):
        units = iter(items) if limit is None and budget is None else items.by_priority()
    else:
        unique = {item.key: item for item in reversed(list(items))}
        units = reversed(unique.values())
    submission: _Submission | None = None
    report = SubmitReport()
    adopter = Adopter(settings, campaign) if campaign else None
    for batch in batched(units, BULK_BATCH):
        if adopter:
            adopter.adopt([item.key for item in batch])
        pending = [item for item in batch if not item.done]
        again = [item for item in batch if item.done and item.again]
        report += SubmitReport(done=len(batch) - len(pending) - len(again))
        if not rerun_failed:
            report += SubmitReport(failed=len(again))
            again = []
        if pending or again:
            submission = submission or _Submission(settings, limit, rerun_failed, budget, window, campaign)
            submission.add(pending + submission.rerun_ended(again))
    report = report + submission.finish() if submission else report
    logger.info("Submitted: %s.", ", ".join(f"{k} {v:g}" for k, v in report.as_dict().items() if v) or "nothing")
    return report


class _Submission:
    """One call of :func:`submit` that has something to submit."""

    def __init__(
        self,
        settings: AqvoltSettings,
        limit: int | None,
        rerun_failed: bool,
        budget: CoreHours | None,
        window: int | None,
        campaign: str,
    ) -> None:
        self.campaign = campaign
        self.settings, self.launchpad = settings, ensure_launchpad(settings)
        self.store = job_store()
        self.limit, self.rerun_failed, self.budget, self.window = limit, rerun_failed, budget, window
        self.report = SubmitReport()
        self.full = False
        self.blueprints: dict[tuple[Any, ...], Blueprint] = {}
        self.windows: dict[str, int] = {}
        undo_killed_batches(self.launchpad)
        self.embedded = queue.is_embedded(self.launchpad)
        self.states: dict[str, str] | None = None

    def add(self, items: list[WorkItem]) -> None:
        """Submit those that are new and count the others."""
        for batch in batched([item for item in items if item.template is None], BATCH):
            known = workflows_by_key(self.launchpad, [item.key for item in batch])
            self.report += _report_known(self.launchpad, known.values(), self.rerun_failed)
            new = self._admitted([item for item in batch if item.key not in known])
            won, lost = _insert(self.launchpad, [workflow_of(item, self.store, self.campaign) for item in new])
            self.report += SubmitReport(submitted=won, queued=lost)
        bulk = [item for item in items if item.template is not None]
        self._open_windows(item.category for item in bulk)
        states = self._states([item.key for item in bulk])
        self._count([(item.key, states[item.key]) for item in bulk if item.key in states])
        new = self._admitted([item for item in bulk if item.key not in states])
        if new:
            won, lost = self._insert_copies(new)
            self.report += SubmitReport(submitted=won, queued=lost)

    def rerun_ended(self, items: list[WorkItem]) -> list[WorkItem]:
        """Run ended units again, unless they are held, and return those that have to be submitted anew."""
        free = [item for item in items if not item.held]
        count, new = run_again(self.launchpad, self.settings, free) if free else (0, [])
        lost = len(free) - len(new) - count  # another process runs them already
        self.report += SubmitReport(rerun=count, held=len(items) - len(free), queued=lost)
        return new

    def _states(self, keys: list[str]) -> dict[str, str]:
        """Return key → state of the workflows that are there.

        The embedded database does not use the partial index for a lookup: one look at all keys, about 100 bytes
        each, takes 0.03 ms a workflow and replaces a scan for every batch.
        """
        if not keys:
            return {}
        if self.embedded and self.states is None:
            self.states = dict(_states_of(self.launchpad, {}))
        if self.states is not None:
            return {key: self.states[key] for key in keys if key in self.states}
        return dict(_states_of(self.launchpad, {KEY_FIELD: {"$in": keys}}))

    def _count(self, known: list[tuple[str, str]]) -> None:
        fizzled = [key for key, state in known if state == "FIZZLED"]
        done = sum(state == "COMPLETED" for _, state in known)
        self.report += SubmitReport(done=done, queued=len(known) - done - len(fizzled))
        if fizzled and self.rerun_failed:
            self.report += _report_known(self.launchpad, workflows_by_key(self.launchpad, fizzled).values(), True)
        else:
            self.report += SubmitReport(failed=len(fizzled))

    def _admitted(self, items: list[WorkItem]) -> list[WorkItem]:
        """Return those that limit, budget and holds let through, and count the others."""
        free = [item for item in items if not item.held]
        taken: list[WorkItem] = []
        hours = 0.0
        for item in free:
            cost = self.budget.of(item) if self.budget else 0.0
            self.full = (
                self.full
                or (self.limit is not None and self.report.submitted + len(taken) >= self.limit)
                or (self.budget is not None and self.report.core_hours + hours + cost > self.budget.hours)
            )
            if self.full:
                break
            taken.append(item)
            hours += cost
        counts = SubmitReport(left=len(free) - len(taken), held=len(items) - len(free), core_hours=hours)
        self.report += counts
        return taken

    def _place(self, item: WorkItem) -> str:
        """Return where a unit waits for its turn, empty where there is no window."""
        return queue.waiting_place(item.category, item.priority) if self.windows[item.category] else ""

    def _open_windows(self, categories: Iterable[str]) -> None:
        """Find out which window a category has: the one asked for, else the one it has, else the database's default."""
        for category in set(categories) - set(self.windows):
            present = queue.windows(self.launchpad, category)
            default = queue.EMBEDDED_WINDOW if self.embedded else 0
            size = present.get(category, default) if self.window is None else self.window
            self.windows[category] = size
            if size or present:
                queue.set_window(self.launchpad, category, size)

    def _insert_copies(self, items: list[WorkItem]) -> tuple[int, int]:
        """Write units with a template in the order that the module's docstring gives; return how many won and lost."""
        launchpad = self.launchpad
        first = launchpad.get_new_fw_id(quantity=len(items))
        now = utc_now()
        fireworks, workflows = [], []
        for fw_id, item in enumerate(items, first):
            kind = shape(item)
            if kind not in self.blueprints:
                self.blueprints[kind] = Blueprint(item, self.store, self.campaign)
            place = self._place(item)
            state = "PAUSED" if place else "READY"
            firework, workflow = self.blueprints[kind].documents(item, fw_id, now, state, place)
            fireworks.append(firework)
            workflows.append(workflow)
        announced = {"_id": f"batch:{uuid.uuid4().hex}", "first": first, "last": first + len(items) - 1}
        launchpad.db[queue.COLLECTION].insert_one(announced | {"by": worker_name(), "at": now})
        lost = _insert_workflows(launchpad, workflows)
        _insert_fireworks(launchpad, [f for index, f in enumerate(fireworks) if index not in lost])
        launchpad.db[queue.COLLECTION].delete_one({"_id": announced["_id"]})
        return len(items) - len(lost), len(lost)

    def finish(self) -> SubmitReport:
        """Fill the windows and return the report."""
        for category, size in self.windows.items():
            if size or queue.windows(self.launchpad, category):
                queue.set_window(self.launchpad, category, size)
                queue.top_up(self.launchpad, category)
        return self.report


def _states_of(launchpad: LaunchPad, query: dict[str, Any]) -> Iterator[tuple[str, str]]:
    fields = {KEY_FIELD: 1, "state": 1, "_id": 0}
    for workflow in launchpad.workflows.find(query, fields).batch_size(5000):
        key = workflow.get("metadata", {}).get("aqvolt", {}).get("key")
        if key:
            yield key, sys.intern(workflow["state"])


def _insert_fireworks(launchpad: LaunchPad, fireworks: list[dict[str, Any]]) -> None:
    if fireworks:
        launchpad.fireworks.insert_many(fireworks, ordered=False)


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


def claimed_units(launchpad: LaunchPad, members: Mapping[str, Any] | None = None) -> frozenset[str]:
    """Return the keys of the units inside unfinished workflows; a plan leaves them out of new batches.

    Parameters
    ----------
    launchpad
        Where they are.
    members
        Look only at workflows that match this query.
    """
    unfinished = dict(members or {}) | {
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
