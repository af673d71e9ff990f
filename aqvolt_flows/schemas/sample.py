"""Documents of ``samples``: rounds of sampling, what they saw, chose and covered."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from aqvolt_flows.schemas.base import Document, Parameters
from aqvolt_flows.schemas.provenance import ArtifactRef


class CoveredSource(Parameters):
    """A set of configurations that was declared covered: nothing like it is chosen again."""

    source: str = Field(description="labels:SOURCE, release:NAME or the name of a file.")
    fingerprint: str = Field(description="Hash of what the set held.")
    n_frames: int = Field(description="Configurations encoded.")
    shards: list[str] = Field(description="shard_id of its feature shards.")


class SampleDocument(Document):
    """One round: 2DIRECT over new trajectories, given what earlier rounds and imported sets cover."""

    sample_id: str
    encoder: str
    encoder_sha256: str
    layer: str
    space_key: str = Field(
        description="Rounds with the same one share a state: encoder, layer, thresholds and choices."
    )
    offer_key: str = Field(description="Thinning and filters: what of a trajectory was offered.")
    parameters: dict[str, Any] = Field(description="All choices of the selection.")
    trajectory_ids: list[str] = Field(description="Trajectories that this round saw for the first time.")
    shards: list[str] = Field(description="shard_id of the feature shards it read.")
    previous: list[str] = Field(
        default_factory=list, description="sample_id of the rounds whose frames it chose jointly with its own."
    )
    covered: list[CoveredSource] = Field(default_factory=list)
    shape: list[CoveredSource] = Field(
        default_factory=list, description="Sets that the space was fitted to besides the frames of all rounds."
    )
    given_back: list[str] = Field(
        default_factory=list,
        description="frame_id of unlabeled frames of earlier rounds that are not needed any more.",
    )
    funnel: dict[str, int] = Field(description="Frames left after each step, and left out by each filter.")
    new_frames: int = Field(description="Documents of frames that this round wrote first.")
    coverage: dict[str, float] = Field(
        default_factory=dict, description="Distances to the nearest chosen, weighted PCs."
    )
    comparison: dict[str, dict[str, float]] = Field(
        default_factory=dict,
        description="How well chosen, as many random frames, and what was covered before cover this round's frames.",
    )
    frames: ArtifactRef | None = Field(default=None, description="Parquet of the chosen configurations.")
    state: ArtifactRef | None = Field(
        default=None, description="Scaler, PCA and clusters over all rounds so far, and what is chosen."
    )
    picture: ArtifactRef | None = Field(default=None, description="Density of all and places of the chosen.")
    seconds: float | None = None
