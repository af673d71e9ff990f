"""Labels belong to the campaigns of their frames and AIMD runs, also when those join another campaign later."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from aqvolt_flows.stores import Database


def adopt_labels(database: Database, since: datetime | None = None) -> int:
    """Let the labels of the campaign's frames and AIMD runs belong to it; return how many did not yet.

    Parameters
    ----------
    database
        As the campaign sees it.
    since
        Look only at frames and runs that changed from then on.
    """
    if database.is_alone():
        return 0
    recent: dict[str, Any] = {} if since is None else {"last_updated": {"$gte": since}}
    frames = (d["frame_id"] for d in database.own("frames").find(recent, {"frame_id": 1}))
    runs = database.own("trajectories").find(recent | {"engine": "aimd"}, {"trajectory_id": 1})
    grown = database.adopt("labels", frames, "frame_id")
    return grown + database.adopt("labels", (d["trajectory_id"] for d in runs), "trajectory_id", {"source": "aimd"})


def adopt_all_labels(database: Database, since: datetime | None = None) -> int:
    """Do so for every campaign of the database."""
    if database.is_alone():
        return 0
    names = {*database.known_campaigns(), database.default_campaign}
    return sum(adopt_labels(database.in_campaign(name), since) for name in sorted(names))
