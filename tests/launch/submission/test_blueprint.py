"""A copy from a blueprint is what jobflow and FireWorks would have written for that unit."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest
import trivial_jobs

from aqvolt_flows import __version__
from aqvolt_flows.errors import InputError
from aqvolt_flows.labeling.gpaw import GpawStaticMaker
from aqvolt_flows.labeling.surrogate import SurrogateStaticMaker
from aqvolt_flows.labeling.vasp import R2scanStaticMaker
from aqvolt_flows.stores import job_store
from aqvolt_flows.work import WorkItem
from aqvolt_launch.submission.blueprint import Blueprint, shape, workflow_of

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
MAKERS = [SurrogateStaticMaker(), R2scanStaticMaker(incar_updates={"ENAUG": 1360}), GpawStaticMaker()]


def unit(maker: object, frame_id: str, key: str, **kwargs: object) -> WorkItem:
    make = maker.make  # type: ignore[attr-defined]
    arguments = (frame_id, key)
    return WorkItem(
        "label",
        key,
        f"label {frame_id}",
        lambda: make(*arguments),
        "vasp",
        template=make,
        arguments=arguments,
        **kwargs,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("maker", MAKERS, ids=lambda m: m.name)
def test_copy_equals_what_flow_to_workflow_gives(maker: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Independent: jobflow's ``flow_to_workflow``, FireWorks' ``to_db_dict``, of a job of the unit's own."""
    tags = {"chemsys": "Cl-Li-Y", "atoms": 40, "electrons": 248}
    first = unit(maker, "frame-a", "1" * 24, priority=3, tags=tags | {"chemsys": "F-Li"})
    item = unit(maker, "frame-b", "2" * 24, priority=417, tags=tags)
    assert shape(first) == shape(item)
    blueprint = Blueprint(first, job_store())
    for number in (7, 8):  # a second copy is not touched by the first
        firework, workflow = blueprint.documents(item, number, NOW)
        job = firework["spec"]["_tasks"][0]["job"]
        assert len({job["uuid"], job["hosts"][0]}) == 2
        made = workflow_of(item, job_store())
        (stock,) = made
        expected = stock.to_db_dict()
        theirs = expected["spec"]["_tasks"][0]["job"]
        assert uuid.UUID(job["uuid"]) != uuid.UUID(theirs["uuid"])
        theirs |= {"uuid": job["uuid"], "hosts": job["hosts"]}
        own = {"fw_id": number, "created_on": NOW.isoformat(), "updated_on": NOW.isoformat(), "state": "READY"}
        assert firework == expected | own
        of_workflow = {"nodes": [number], "links": {str(number): []}, "fw_states": {str(number): "READY"}}
        assert workflow == made.to_db_dict() | of_workflow | {"state": "READY", "created_on": NOW, "updated_on": NOW}
    assert list(firework) == list(expected)
    assert "\0" not in repr(firework) + repr(workflow)


def test_marks_inside_longer_text_and_held_units() -> None:
    def template(frame_id: str) -> object:
        made = trivial_jobs.add(1, 2, trace=f"folder/{frame_id}.txt")
        made.name = f"add for {frame_id}"
        return made

    item = WorkItem("label", "k", "n", lambda: None, template=template, arguments=("frame-9",))  # type: ignore[arg-type, return-value]
    firework, workflow = Blueprint(item, job_store()).documents(item, 1, NOW, "PAUSED", "window:cpu:000")
    assert firework["name"] == "add for frame-9"
    assert firework["spec"]["_tasks"][0]["job"]["function_args"][-1:] != ["folder/\0argument 0\0.txt"]
    assert "folder/frame-9.txt" in repr(firework)
    assert firework["spec"]["aqvolt"]["held"] == "window:cpu:000"
    assert firework["spec"]["_tasks"][0]["job"]["metadata"] == {
        "aqvolt": {"stage": "label", "key": "k", "version": __version__}
    }
    assert (firework["state"], workflow["state"]) == ("PAUSED", "PAUSED")


def test_what_cannot_be_copied() -> None:
    flow = WorkItem("label", "k", "flow", lambda: None, template=lambda: trivial_jobs.flow_item().make())  # type: ignore[arg-type, return-value]
    with pytest.raises(InputError, match="makes 3 jobs; expected one"):
        Blueprint(flow, job_store())
    with pytest.raises(InputError, match="no template"):
        Blueprint(trivial_jobs.add_item(1), job_store())
    long = WorkItem(
        "label", "k", "n", lambda: None, template=lambda text: trivial_jobs.add(1, 2, text), arguments=("x",)
    )  # type: ignore[arg-type, return-value]
    blueprint = Blueprint(long, job_store())
    huge = WorkItem("label", "k", "n", long.make, template=long.template, arguments=("x" * 2**24,))
    with pytest.raises(InputError, match="above the 15 MiB limit"):
        blueprint.documents(huge, 1, NOW)
