"""The disturbed campaign's units: every stage, each unit a hash over what the stage before has left in the database.

A unit that ran on half of its inputs, or twice with another result, changes every hash after it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobflow import Flow, Job, job

from aqvolt_flows.errors import InputError
from aqvolt_flows.settings import load_settings
from aqvolt_flows.stages import STAGES
from aqvolt_flows.stores import Database
from aqvolt_flows.work import WorkItem

NAMES = tuple(stage.name for stage in STAGES)
#: Stages whose unit is a flow of two jobs, the second waiting for the first.
FLOWS = ("sample", "train")
#: While this file is in the project folder, nothing can be written: the fake of a full disk.
QUOTA = "disk-is-full"
_BLOCK = 4096


def units_of(stage: str, per_stage: int) -> list[str]:
    """Return the names of a stage's units; there are twice as many labels, as there are more of them."""
    parts = ["a", "b"] if stage in FLOWS else ["a"]
    number = 2 * per_stage if stage == "label" else per_stage
    return [f"{stage}-{i}-{part}" for i in range(number) for part in parts]


def digest_of(unit: str, before: dict[str, str]) -> str:
    """Return the result of a unit: the hash of its name and of the results that it read."""
    return hashlib.sha256(repr((unit, sorted(before.items()))).encode()).hexdigest()


def expected(per_stage: int) -> dict[str, str]:
    """Return unit → result of a campaign that nothing disturbed, without a database."""
    found: dict[str, str] = {}
    before: dict[str, str] = {}
    for stage in NAMES:
        mine: dict[str, str] = {}
        for unit in units_of(stage, per_stage):
            first = f"{unit[:-1]}a"
            mine[unit] = digest_of(unit, before if unit == first else {first: mine[first]})
        found |= mine
        before = mine
    return found


@job
def step(unit: str, needs: str, after: str = "") -> dict[str, str]:
    """Read what the stage before left, store a file, and return the hash.

    Parameters
    ----------
    unit
        Its name.
    needs
        Names of the units that it reads, with commas.
    after
        Output of the job before it in its flow; only makes it wait.
    """
    database = Database.connect()
    wanted = [name for name in needs.split(",") if name]
    found: dict[str, str] = {}
    for document in database["outputs"].find({"output.unit": {"$in": wanted}}, {"output": 1}):
        found[document["output"]["unit"]] = document["output"]["digest"]
    if missing := sorted(set(wanted) - set(found)):
        raise InputError(f"{unit} was started before {missing[0]} had ended.")
    time.sleep(0.1)
    digest = digest_of(unit, found)
    root = load_settings().path(".")
    if (root / QUOTA).exists():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(root))
    artifact = database.artifacts.put_bytes(digest.encode() * _BLOCK, "bin")
    with Path(root / "runs.log").open("a") as log:
        log.write(f"{unit} {os.getpid()}\n")
    return {"unit": unit, "digest": digest, "sha256": artifact.sha256}


def label(unit: str, needs: str) -> Job:
    """Return the one job of a label, as a template makes it."""
    return step(unit, needs)


def items(stage: str, per_stage: int) -> Iterator[WorkItem]:
    """Yield the units of work of a stage."""
    place = NAMES.index(stage)
    needs = ",".join(units_of(NAMES[place - 1], per_stage)) if place else ""
    categories: tuple[Any, ...] = ("cpu", "gpu", "vasp")
    for unit in units_of(stage, per_stage):
        if not unit.endswith("-a"):
            continue
        common: dict[str, Any] = {"category": categories[place % 3], "priority": place}
        if stage == "label":
            yield WorkItem(
                stage, unit, unit, lambda u=unit: label(u, needs), template=label, arguments=(unit, needs), **common
            )
        elif stage in FLOWS:
            yield WorkItem(stage, unit, unit, lambda u=unit: _two(u, needs), **common)
        else:
            yield WorkItem(stage, unit, unit, lambda u=unit: step(u, needs), **common)


def _two(unit: str, needs: str) -> Flow:
    first = step(unit, needs)
    second = step(f"{unit[:-1]}b", unit, first.output["digest"])
    return Flow([first, second], name=unit)
