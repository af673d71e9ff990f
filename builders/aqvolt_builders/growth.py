"""Labels belong to the campaigns of their frames and AIMD runs, also when those join another campaign later."""

from __future__ import annotations

from collections.abc import Iterable

from aqvolt_flows.stores import Database


def adopt_labels(database: Database) -> int:
    """Let the labels of the campaign's frames and AIMD runs belong to it; return how many did not yet.

    Which labels there are, and which belong already, is read once; no date is asked for.

    Parameters
    ----------
    database
        As the campaign sees it.
    """
    if database.is_alone():
        return 0
    frames, runs = _labeled_elsewhere(database)
    own_frames = _among(frames, (d["frame_id"] for d in database.own("frames").find({}, {"frame_id": 1})))
    found = database.own("trajectories").find({"engine": "aimd"}, {"trajectory_id": 1})
    own_runs = _among(runs, (d["trajectory_id"] for d in found))
    grown = database.adopt("labels", own_frames, "frame_id")
    return grown + database.adopt("labels", own_runs, "trajectory_id", {"source": "aimd"})


def _labeled_elsewhere(database: Database) -> tuple[set[str], set[str]]:
    """Return the frames and AIMD runs with labels that do not all belong to the campaign."""
    frames: set[str] = set()
    runs: set[str] = set()
    fields = {"frame_id": 1, "trajectory_id": 1, "source": 1, "campaigns": 1}
    for label in database["labels"].find({}, fields):
        if database.campaign in database.members_of(label):
            continue
        if label.get("frame_id"):
            frames.add(label["frame_id"])
        if label.get("source") == "aimd" and label.get("trajectory_id"):
            runs.add(label["trajectory_id"])
    return frames, runs


def _among(wanted: set[str], found: Iterable[str]) -> list[str]:
    return sorted(wanted.intersection(found)) if wanted else []


def adopt_all_labels(database: Database) -> int:
    """Do so for every campaign of the database."""
    if database.is_alone():
        return 0
    names = {*database.known_campaigns(), database.default_campaign}
    return sum(adopt_labels(database.in_campaign(name)) for name in sorted(names))
