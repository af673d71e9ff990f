"""Documents of ``features``: feature shards, one a unit of encoding that a killed job need not repeat."""

from __future__ import annotations

from pydantic import Field

from aqvolt_flows.schemas.base import Document, Parameters
from aqvolt_flows.schemas.provenance import ArtifactRef


class Piece(Parameters):
    """Rows ``start, start + stride, …`` below ``stop`` of one file of configurations."""

    source: str = Field(description="trajectory_id, or the source that is declared covered.")
    file: ArtifactRef
    start: int = Field(ge=0)
    stop: int = Field(ge=0)


class FeatureDocument(Document):
    """One feature shard (Arrow file, format in ``sampling/features.py``) and what was left out of it."""

    shard_id: str
    encoder: str = Field(description="Encoder string.")
    encoder_sha256: str
    layer: str = Field(description="Which layers the vectors are.")
    pieces: list[Piece] = Field(description="What was read, in the order of the shard's rows.")
    stride: int = Field(description="Every stride-th written frame was read.")
    counts: dict[str, int] = Field(description="Funnel: read, left out by reason, encoded.")
    artifact: ArtifactRef | None = Field(default=None, description="The shard; none if no frame was left.")
    n_frames: int = Field(description="Frames in the shard.")
    n_atoms: int = Field(description="Atoms in the shard.")
    d_structure: int
    d_atom: int
    seconds: float | None = None
