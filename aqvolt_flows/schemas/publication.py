"""Where a release or a model was published, beside the document of it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from aqvolt_flows.schemas.base import Parameters, utc_now


class Publication(Parameters):
    """One place where a folder was pushed to, after what arrived was compared by hashes."""

    target: str = Field(description="As it was named: hf:ORG/NAME, zenodo:ID, or a folder.")
    kind: Literal["hub", "zenodo", "folder"]
    version: str = Field(description="Commit on the Hub, record on Zenodo, content hash in a folder.")
    state: Literal["public", "private", "draft"]
    url: str | None = None
    doi: str | None = Field(default=None, description="Of Zenodo; reserved while the state is draft.")
    files: int = Field(ge=0, description="Number of files.")
    bytes: int = Field(ge=0, description="Size of all files.")
    at: datetime = Field(default_factory=utc_now, description="UTC time of the push.")
