"""Documents of ``releases``: what ``manifest.json`` says, and where the folder is."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from aqvolt_flows.schemas.base import Document, Parameters
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.schemas.publication import Publication


class ReleaseFile(Parameters):
    """One file of a release in the artifact store."""

    name: str = Field(description="Path in the release's folder.")
    artifact: ArtifactRef


class ReleaseDocument(Document):
    """A versioned training set; ``release_id`` is ``NAME@<first 12 digits of content_hash>``."""

    release_id: str
    name: str
    content_hash: str = Field(description="Over frames, labels and splits; not over dates, paths or versions.")
    counts: dict[str, Any] = Field(description="Total, by split, by source, by protocol.")
    protocols: dict[str, int]
    path: str = Field(description="Folder, relative to the release root of aqvolt.yaml.")
    manifest: dict[str, Any]
    publications: list[Publication] = Field(
        default_factory=list,
        exclude_if=lambda value: not value,  # documents of releases that were not pushed stay as they are
        description="Where it was pushed to, the last push to each place.",
    )
    files: list[ReleaseFile] = Field(default_factory=list, description="The folder in the artifact store.")
