"""What the Firework of a label says of itself: which frame, which key, which labeler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Module of the maker in a job that version 0.1 stored, which had neither frame nor labeler in its spec → labeler.
_LABELER_OF_0_1 = {
    "aqvolt_flows.labeling.vasp": "vasp",
    "aqvolt_flows.labeling.gpaw": "gpaw",
    "aqvolt_flows.labeling.surrogate": "surrogate",
}


@dataclass(frozen=True)
class LabelSpec:
    """What a label's Firework is about."""

    frame_id: str
    key: str
    labeler: str


def label_spec(spec: Mapping[str, Any]) -> LabelSpec | None:
    """Return what a Firework's spec says of its label; None if it is not a label's, or says nothing that can be used.

    Parameters
    ----------
    spec
        With ``aqvolt``; for a job of version 0.1 also ``_tasks``, whose arguments are then read.
    """
    about = spec.get("aqvolt", {})
    if about.get("stage") != "label" or not isinstance(about.get("key"), str):
        return None
    frame_id, labeler = about.get("frame_id"), about.get("labeler")
    if frame_id is None:
        job = (spec.get("_tasks") or [{}])[0].get("job", {})
        frame_id = next(iter(job.get("function_args") or ()), None)
        bound = job.get("function", {}).get("@bound") or {}
        labeler = _LABELER_OF_0_1.get(bound.get("@module", ""), "")
    return LabelSpec(frame_id, about["key"], labeler or "") if isinstance(frame_id, str) else None
