"""Documents of ``models``: trained potentials and what they were trained on."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from aqvolt_flows.schemas.base import Document
from aqvolt_flows.schemas.provenance import ArtifactRef, Failure
from aqvolt_flows.schemas.publication import Publication


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
    sources: list[dict[str, Any]] = Field(
        default_factory=list, description="Releases of a mixture: release_id, content_hash, name, weight; else empty."
    )
    preflight: dict[str, Any] = Field(
        default_factory=dict, description="What was found in the labels before training, and what was done about it."
    )
    validated_on: str = Field(default="", description="val, or train where there is no validation frame.")
    parameters: dict[str, Any] = Field(default_factory=dict)
    seconds: float | None = None
    publications: list[Publication] = Field(
        default_factory=list,
        exclude_if=lambda value: not value,  # documents of models that were not pushed stay as they are
        description="Where its folder was pushed to, the last push to each place.",
    )
