"""Documents of ``models``: trained potentials and what they were trained on."""

from __future__ import annotations

from collections.abc import Mapping
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
    model: str | None = Field(
        default=None,
        description="What loads it wherever the project is: its model_id. Documents of version 0.1 hold fairchem:PATH.",
    )
    name: str | None = Field(default=None, description="What people call it: release and training, e.g. demo-sevennet.")
    trainer: str = Field(default="esen", description="Trainer of the registry that made it.")
    family: str = Field(default="fairchem", description="Scheme of the model strings that load its checkpoint.")
    channel: str | None = Field(default=None, description="fairchem's task or SevenNet's modality, where several are.")
    start: str | None = Field(default=None, description="Model that a fine-tuning started from, with its hash.")
    references: dict[str, float] = Field(default_factory=dict, description="Energy per element, eV, taken off labels.")
    force_rms: float | None = Field(default=None, description="What targets are scaled by, eV/Å.")
    held_out: dict[str, Any] = Field(
        default_factory=dict, description="Errors of start and trained model on the test split: eV/atom, eV/Å, eV/Å³."
    )
    versions: dict[str, str] = Field(default_factory=dict, description="Packages that trained it.")
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


def model_name_of(document: Mapping[str, Any]) -> str:
    """Return a model's name; for documents of version 0.1, which have none, release and architecture.

    Examples
    --------
    >>> model_name_of({"release_id": "demo@fd93b4425eee", "architecture": "eSEN-L4"})
    'demo-eSEN-L4'
    """
    name = document.get("name") or f"{str(document['release_id']).partition('@')[0]}-{document['architecture']}"
    return "".join(c if c.isalnum() or c in "._+-" else "-" for c in str(name))
