"""Documents of ``models``: trained potentials and what they were trained on."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from aqvolt_flows.schemas.base import Document
from aqvolt_flows.schemas.provenance import ArtifactRef, Failure


class ModelDocument(Document):
    """One trained potential, or the reason why the training gave none."""

    model_id: str
    status: Literal["trained", "failed"]
    failure: Failure | None = None
    release_id: str
    content_hash: str = Field(description="content_hash of the release it was trained on.")
    architecture: str = Field(description="e.g. eSEN-L4.")
    n_parameters: int | None = None
    checkpoint: ArtifactRef | None = Field(default=None, description="Inference checkpoint of the last stage.")
    model: str | None = Field(default=None, description="Model string that loads it, fairchem:PATH.")
    stages: list[dict[str, Any]] = Field(default_factory=list, description="Per stage: steps, seconds, metrics.")
    parameters: dict[str, Any] = Field(default_factory=dict)
    seconds: float | None = None
