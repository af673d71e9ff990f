"""Documents of ``builds``: up to where a builder has read its sources."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from aqvolt_flows.schemas.base import Document


class BuildDocument(Document):
    """What the last complete run of the label builder had seen; it only saves reading, never decides a label."""

    build_id: str
    builder: str
    builder_version: str
    settings: dict[str, float | int | str | None] = Field(
        default_factory=dict,
        description="What the builder was told; with other settings everything is looked at again.",
    )
    cut: str = Field(description="completed_at, as outputs write it; jobs from here on are compared one by one.")
    n_before_cut: int = Field(description="Documents in outputs that ended before the cut.")
    n_labels: int = Field(description="Documents in labels after the run; fewer later means that some were removed.")
    trajectories_cut: datetime = Field(description="last_updated of trajectories; runs from here on are compared.")
