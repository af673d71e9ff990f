"""The document of a training outside a campaign: what ``TrainMaker`` returns."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from aqvolt_flows.schemas.provenance import Failure


class TrainDocument(BaseModel):
    """A two-stage training: what each stage reached, and the model."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    status: Literal["trained", "failed"]
    failure: Failure | None = Field(default=None, description="Why there is no model.")
    architecture: str = ""
    n_train: int = 0
    n_val: int = 0
    validated_on: str = Field(default="", description="val, or train where there is no validation set.")
    preflight: dict[str, Any] = Field(
        default_factory=dict, description="What was found in the labels before training, and what was done about it."
    )
    stages: list[dict[str, Any]] = Field(default_factory=list, description="Steps, losses, metrics of each stage.")
    n_parameters: int | None = None
    references: dict[str, float] = Field(default_factory=dict, description="Element → energy taken off, eV.")
    force_rms: float | None = Field(default=None, description="Root mean square of a force component, eV/Å.")
    checkpoint: str | None = Field(default=None, description="Path of the inference checkpoint where the job ran.")
    sha256: str | None = Field(default=None, description="Of the checkpoint.")
    model: str | None = Field(default=None, description="Model string: fairchem:PATH.")
    seconds: float = 0.0
