"""Units of work: what a planner returns, and what a launcher submits once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from jobflow import Flow, Job

Category = Literal["cpu", "gpu", "vasp"]


@dataclass(frozen=True)
class WorkItem:
    """One unit of work with a key.

    Attributes
    ----------
    stage
        candidates, explore, sample, label, aimd, build, release, train, benchmark, report.
    key
        Content key; a unit with a key already submitted or finished is never submitted again.
    name
        What people see in ``lpad`` and ``aqvolt status``.
    make
        Returns the Jobflow job or flow; called only when the unit is really submitted.
    category
        FireWorks category: which kind of worker may run it.
    priority
        Higher runs first.
    done
        The result already stands in its collection.
    units
        Keys of the smaller units inside (the runs of a batch); while this item is queued, a later plan
        leaves them out.
    """

    stage: str
    key: str
    name: str
    make: Callable[[], Job | Flow]
    category: Category = "cpu"
    priority: int = 0
    done: bool = False
    units: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a stage would do now.

    Attributes
    ----------
    items
        All units of work, finished ones included.
    missing
        Sentences naming what stands in the way (no candidates yet, POTCAR of Y absent …).
    facts
        Numbers worth reading before submitting: systems, atom-steps, frames, core-hours.
    """

    @property
    def todo(self) -> list[WorkItem]:
        """The units of work without a result."""
        return [item for item in self.items if not item.done]

    stage: str
    items: list[WorkItem]
    missing: list[str] = field(default_factory=list)
    facts: Mapping[str, object] = field(default_factory=dict)
