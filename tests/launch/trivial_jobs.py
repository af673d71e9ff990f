"""Jobs for tests: they leave a trace in a file, so that a test can count how often they ran."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from jobflow import Flow, Job, job

from aqvolt_flows.settings import load_settings
from aqvolt_flows.stopping import stop_wanted
from aqvolt_flows.work import Stream, WorkItem


@job
def add(a: int, b: int, trace: str = "") -> dict[str, object]:
    """Return the sum, where it was computed, and which settings the job saw."""
    if trace:
        with Path(trace).open("a") as handle:
            handle.write(f"{os.getpid()}\n")
    print("adding", a, b)
    return {"sum": a + b, "folder": str(Path.cwd()), "root": str(load_settings().path("."))}


@job
def slow_once(flag: str, trace: str) -> int:
    """Hang on the first run, after saying so in ``flag``; return at once when run again."""
    first = not Path(flag).exists()
    with Path(trace).open("a") as handle:
        handle.write(f"{os.getpid()}\n")
    if first:
        Path(flag).write_text(str(os.getpid()))
        time.sleep(120)
    return 7


@job
def until_asked(flag: str) -> str:
    """Work until this process is asked to stop, as a batch with checkpoints does."""
    Path(flag).touch()
    for _ in range(1200):
        if stop_wanted():
            return "ended at a checkpoint"
        time.sleep(0.1)
    return "was never asked"


@job
def fail_while(flag: str) -> int:
    """Fail as long as the file exists."""
    if Path(flag).exists():
        raise ValueError("the cell has no volume")
    return 1


@job
def total(values: list[int]) -> int:
    """Return the sum of values that other jobs returned."""
    return sum(values)


@job
def mark(number: str, trace: str = "") -> str:
    """Write the number into a file and return it."""
    if trace:
        with Path(trace).open("a") as handle:
            handle.write(f"{number}\n")
    return number


def add_item(n: int, stage: str = "explore", trace: str = "", **kwargs: object) -> WorkItem:
    return WorkItem(stage=stage, key=f"key-{n}", name=f"add {n}", make=lambda: add(n, 1, trace), **kwargs)  # type: ignore[arg-type]


def flow_item() -> WorkItem:
    def make() -> Flow:
        first: Job = add(1, 2)
        second: Job = add(3, 4)
        return Flow([first, second, total([first.output["sum"], second.output["sum"]])], name="flow")

    return WorkItem(stage="sample", key="flow", name="a flow", make=make, category="gpu", priority=3)


def bulk_item(n: int, trace: str = "", **kwargs: object) -> WorkItem:
    """Return an item with a template, as labels have one: it is copied, not made."""

    def unused() -> Job:
        raise AssertionError("a unit with a template must not be made one by one")

    return WorkItem("label", f"bulk-{n}", f"mark {n}", unused, template=mark, arguments=(str(n), trace), **kwargs)  # type: ignore[arg-type]


def bulk(n: int, **kwargs: object) -> Stream:
    """Return a stream of ``n`` bulk items with priorities 0, 10, 20 …; the most important are the last."""

    def read(by_priority: bool) -> Iterator[WorkItem]:
        numbers = range(n - 1, -1, -1) if by_priority else range(n)
        yield from (bulk_item(i, priority=10 * i, **kwargs) for i in numbers)  # type: ignore[arg-type]

    return Stream(n, read)


def submit_many(n: int) -> dict[str, int]:
    """Submit items 0 … n−1 with the settings of the environment; run in processes by tests."""
    from aqvolt_launch.submission.submit import submit

    return submit([add_item(i) for i in range(n)], load_settings()).as_dict()
