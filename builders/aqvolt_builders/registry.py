"""Builders by name, and how a process runs one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aqvolt_builders.base import CountingBuilder
from aqvolt_builders.benchmarks import BenchmarkBuilder
from aqvolt_builders.costs import CostBuilder
from aqvolt_builders.labels import LabelBuilder
from aqvolt_flows.errors import InputError
from aqvolt_flows.quarantine import guarded
from aqvolt_flows.stores import Database

#: In the order in which ``all`` runs them.
BUILDERS: dict[str, Callable[..., CountingBuilder]] = {
    "labels": LabelBuilder,
    "benchmarks": BenchmarkBuilder,
    "costs": CostBuilder,
}


def run_builder(name: str, **options: Any) -> dict[str, int]:
    """Run a builder in this process and return its counts.

    Parameters
    ----------
    name
        One of :data:`BUILDERS`.
    **options
        Passed to it, e.g. ``full`` or ``aimd_stride`` of the label builder.

    Raises
    ------
    InputError
        If there is no such builder.
    """
    if name not in BUILDERS:
        raise InputError(f"There is no builder {name!r}; known are {', '.join(BUILDERS)}.")
    return guarded(lambda: _run(name, options), Database.connect)


def _run(name: str, options: dict[str, Any]) -> dict[str, int]:
    builder = BUILDERS[name](**options)
    builder.run()
    return dict(builder.counts)
