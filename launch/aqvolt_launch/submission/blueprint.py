"""One job, serialised once, and copies of its documents for as many units as there are.

jobflow and FireWorks take a millisecond to make, convert and serialise a job, nearly all of it for parts in which
the jobs of one stage do not differ. A :class:`Blueprint` lets them do it once, for a job whose arguments, key, name,
tags and priority are marks, and then copies only the branches of the documents that hold a mark. A copy equals what
``flow_to_workflow`` and ``to_db_dict`` give for that unit (``tests/launch/submission/test_blueprint.py``).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from aqvolt_flows import __version__
from aqvolt_flows.errors import InputError
from aqvolt_flows.stores import check_size
from aqvolt_flows.work import WorkItem

if TYPE_CHECKING:
    from fireworks import Workflow

Values = Mapping[Any, Any]
_Fill = Callable[[Values], Any]
#: No text that people or hashes make holds a NUL character; no priority is so low.
_MARK = "\0{}\0"
_PRIORITY = -(2**52) + 7
#: Longer arguments than this together are checked against MongoDB's limit unit by unit, characters.
_LONG = 100_000


def workflow_of(item: WorkItem, store: Any, campaign: str = "") -> Workflow:
    """Return the FireWorks workflow of one unit of work, named, keyed, with category, priority and campaign."""
    from jobflow import Flow
    from jobflow.managers.fireworks import flow_to_workflow

    made = item.make()
    member = {"campaigns": [campaign]} if campaign else {}
    mark = {"aqvolt": {"stage": item.stage, "key": item.key, "version": __version__, **item.tags, **member}}
    made.update_metadata(mark)  # also for jobs that these jobs make at run time
    for job in [job for job, _ in made.iterflow()] if isinstance(made, Flow) else [made]:
        job.config.manager_config.update({"_category": item.category, "_priority": item.priority})
    units = {"units": list(item.units)} if item.units else {}
    metadata = {"aqvolt": {"stage": item.stage, "key": item.key} | units | member}
    return flow_to_workflow(made, store=store, name=item.name, metadata=metadata)


def shape(item: WorkItem) -> tuple[Any, ...]:
    """Return what two units must have in common to share a blueprint."""
    return item.template, len(item.arguments), item.stage, item.category, tuple(item.tags)


class Blueprint:
    """Documents of a unit of work with one job, with marks where units of its :func:`shape` differ.

    Parameters
    ----------
    item
        One of the units; it has a ``template``.
    store
        The JobStore that the jobs write to.
    campaign
        To which the jobs and what they write belong.

    Raises
    ------
    InputError
        If the template makes something else than one job.
    """

    def __init__(self, item: WorkItem, store: Any, campaign: str = "") -> None:
        template = item.template
        if template is None:
            raise InputError(f"The unit {item.name!r} has no template; submit it through its make.")
        self._arguments = [_MARK.format(f"argument {i}") for i in range(len(item.arguments))]
        self._tags = {name: _MARK.format(f"tag {name}") for name in item.tags}
        self._key, self._name = _MARK.format("key"), _MARK.format("name")
        job = template(*self._arguments)
        unit = WorkItem(item.stage, self._key, self._name, lambda: job, item.category, _PRIORITY, tags=self._tags)
        workflow = workflow_of(unit, store, campaign)
        if len(workflow) != 1:
            raise InputError(f"The template of {item.name!r} makes {len(workflow)} jobs; expected one.")
        (firework,) = workflow
        document = firework.to_db_dict()
        check_size(document, f"Firework {firework.name!r}")
        self._uuid, self._host = job.uuid, job.hosts[-1]
        marks = [*self._arguments, *self._tags.values(), self._key, self._name, self._uuid, self._host, _PRIORITY]
        self._firework = _filler(document, marks)
        self._workflow = _filler(workflow.to_db_dict(), marks)

    def documents(
        self, item: WorkItem, fw_id: int, now: datetime, state: str = "READY", held: str = ""
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the documents of one unit for the collections ``fireworks`` and ``workflows``.

        Parameters
        ----------
        item
            The unit, of the same :func:`shape`.
        fw_id
            Its Firework's number.
        now
            When it was made, UTC.
        state
            READY, or PAUSED for one that waits for its turn.
        held
            What it waits for; see :mod:`aqvolt_launch.submission.window`.

        Raises
        ------
        InputError
            If its arguments are so long that MongoDB would refuse the document.
        """
        values: dict[Any, Any] = dict(zip(self._arguments, item.arguments, strict=True))
        values |= {self._tags[name]: value for name, value in item.tags.items()}
        values[self._key], values[self._name], values[_PRIORITY] = item.key, item.name, item.priority
        values[self._uuid], values[self._host] = str(uuid.uuid4()), str(uuid.uuid4())
        firework = self._firework(values)
        text = now.isoformat()
        firework |= {"fw_id": fw_id, "created_on": text, "updated_on": text, "state": state}
        if held:
            firework["spec"]["aqvolt"]["held"] = held
        if sum(map(len, item.arguments)) > _LONG:
            check_size(firework, f"Firework {item.name!r}")
        workflow = self._workflow(values)
        number = str(fw_id)
        workflow |= {"nodes": [fw_id], "links": {number: []}, "fw_states": {number: state}, "state": state}
        workflow |= {"created_on": now, "updated_on": now}
        return firework, workflow


def _filler(value: Any, marks: Sequence[Any]) -> _Fill:
    """Return a function that copies ``value`` with the marks replaced; parts without marks are shared, not copied."""
    return _fill(value, frozenset(marks)) or (lambda _: value)


def _fill(value: Any, marks: frozenset[Any]) -> _Fill | None:
    if isinstance(value, dict):
        changing = {name: fill for name, part in value.items() if (fill := _fill(part, marks))}
        if not changing:
            return None
        return lambda values: {**value, **{name: fill(values) for name, fill in changing.items()}}
    if isinstance(value, list):
        parts = [(part, _fill(part, marks)) for part in value]
        if not any(fill for _, fill in parts):
            return None
        return lambda values: [fill(values) if fill else part for part, fill in parts]
    if isinstance(value, str | int) and not isinstance(value, bool) and value in marks:
        return lambda values: values[value]
    if isinstance(value, str) and any(isinstance(mark, str) and mark in value for mark in marks):
        return lambda values: _replaced(value, values)
    return None


def _replaced(text: str, values: Values) -> str:
    for mark, value in values.items():
        if isinstance(mark, str):
            text = text.replace(mark, str(value))
    return text
