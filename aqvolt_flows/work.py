"""Units of work: what a planner returns, and what a launcher submits once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

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
    template, arguments
        For work of which there is very much: ``template(*arguments)`` is the one job that ``make`` returns, and
        the arguments are strings that the job only hands on. The launcher then serialises one such job and
        fills the others in.
    tags
        Small facts that the Firework and its output carry beside stage and key (``chemsys``).
    held
        Why it must not run now (``"chemsys Cl-Li-Y: 12 of 20 failed"``); empty: it may.
    again
        Of a unit that is ``done``: the reason of its failure (``wall_time``), if another run may end otherwise.
    """

    stage: str
    key: str
    name: str
    make: Callable[[], Job | Flow]
    category: Category = "cpu"
    priority: int = 0
    done: bool = False
    units: tuple[str, ...] = ()
    template: Callable[..., Job] | None = None
    arguments: tuple[str, ...] = ()
    tags: Mapping[str, str | int] = field(default_factory=dict)
    held: str = ""
    again: str = ""


class Stream(Collection[WorkItem]):
    """Units of work that are read from the database when they are asked for, never all at once.

    Parameters
    ----------
    count
        How many there are.
    read
        Called with ``True`` for the most important first, else in any order; yields the units anew.
    """

    def __init__(self, count: int, read: Callable[[bool], Iterator[WorkItem]]) -> None:
        self._count = count
        self._read = read

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[WorkItem]:
        return self._read(False)

    def __contains__(self, item: object) -> bool:
        return any(other == item for other in self)

    def by_priority(self) -> Iterator[WorkItem]:
        """Yield the units, highest priority first."""
        return self._read(True)


@dataclass(frozen=True)
class Plan:
    """What a stage would do now.

    Attributes
    ----------
    items
        All units of work, finished ones included; a :class:`Stream` where there may be very many.
    missing
        Sentences naming what stands in the way (no candidates yet, POTCAR of Y absent …).
    facts
        Numbers worth reading before submitting: systems, atom-steps, frames, core-hours.
    adopt
        Lets finished results that this campaign wants and another one made belong to it too; called on submission.
    queued
        Units inside queued work that this campaign wants; whoever submitted it, it is this campaign's as well.
    """

    stage: str
    items: Collection[WorkItem]
    missing: list[str] = field(default_factory=list)
    facts: Mapping[str, object] = field(default_factory=dict)
    adopt: Callable[[], object] | None = None
    queued: tuple[str, ...] = ()

    @property
    def todo(self) -> list[WorkItem]:
        """The units of work without a result."""
        return [item for item in self.items if not item.done]


def bind(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """Return a function without arguments that calls ``function`` with these."""
    return lambda: function(*arguments)


def no_input(found: Sequence[Any], what: str, command: str) -> list[str]:
    """Return what stands in the way of a stage that has nothing to work on: one sentence, or none."""
    return [] if found else [f"there is no {what} yet; run '{command}' and 'aqvolt work'"]
