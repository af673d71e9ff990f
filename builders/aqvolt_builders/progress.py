"""How far the label builder has read, so that a run with nothing new need not read everything again.

The embedded server counts and sorts by reading every document (tens of µs each), but answers a range query on an index
by reading only what is in the range. So a complete run leaves one document in ``builds``: the time from which on jobs
are compared one by one (the ``cut``, a margin before the run, wider than any two machines' clocks and time zones
differ), how many documents ``outputs`` held from before it, and how many labels there were. As long as those numbers
hold, nothing before the cut can be new: a job that ends or runs again now is dated after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from aqvolt_flows.identity import content_key
from aqvolt_flows.schemas.base import utc_now
from aqvolt_flows.schemas.build import BuildDocument
from aqvolt_flows.stores import Database

#: Jobflow dates jobs in the local time of the machine that ran them; no two zones differ by more than 26 hours.
MARGIN = timedelta(hours=27)
#: Trajectories are dated in UTC; this covers clocks that are wrong.
CLOCK_MARGIN = timedelta(hours=1)
#: A cut is moved on although nothing was built once this many jobs lie behind it.
MOVE_AFTER = 5_000

STAGE = "metadata.aqvolt.stage"


@dataclass(frozen=True)
class Progress:
    """What a run found when it began.

    Attributes
    ----------
    cut
        Jobs from here on must be compared; None: all.
    trajectories_cut
        The same for trajectories.
    next_document
        What to store if the run is complete.
    recent
        Documents of outputs after the cut.
    """

    cut: str | None
    trajectories_cut: datetime | None
    next_document: BuildDocument
    recent: int

    @property
    def worth_moving(self) -> bool:
        """Whether to store the next cut even if nothing was built."""
        return self.cut is None or self.recent > MOVE_AFTER


def look(database: Database, name: str, version: str, settings: dict[str, Any], full: bool = False) -> Progress:
    """Return how far a builder has read, judged before it reads anything.

    Parameters
    ----------
    database
        Where ``outputs``, ``labels`` and ``builds`` are; with several campaigns, as one of them sees it.
    name, version, settings
        The builder, its rules and what it was told; with others everything is looked at again.
    full
        Look at everything whatever ``builds`` says.
    """
    now = utc_now()
    build_id = f"build-{name}"
    stored = None if full else database["builds"].find_one({"build_id": build_id}, {"_id": 0})
    total = database.own("outputs").estimated_document_count()
    n_labels = database["labels"].estimated_document_count()
    next_cut = (datetime.now(UTC) - MARGIN).replace(tzinfo=None).isoformat()
    following = BuildDocument(
        key=content_key("build/1", builder=name),
        build_id=build_id,
        builder=name,
        builder_version=version,
        settings=settings,
        cut=next_cut,
        n_before_cut=total - _since(database, next_cut),
        n_labels=n_labels,
        trajectories_cut=now - CLOCK_MARGIN,
    )
    if stored is None:
        return Progress(None, None, following, total)
    before = BuildDocument(**stored)
    recent = _since(database, before.cut)
    same = (before.builder_version, before.settings) == (version, settings)
    if not same or total - recent != before.n_before_cut or n_labels < before.n_labels:
        return Progress(None, None, following, recent)
    return Progress(before.cut, before.trajectories_cut, following, recent)


def _since(database: Database, cut: str) -> int:
    return int(database.own("outputs").count_documents({"completed_at": {"$gte": cut}}))
