"""What every document and every group of parameters has in common."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field


def utc_now() -> datetime:
    """Return the current time in UTC, truncated to MongoDB's millisecond."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


class Parameters(BaseModel):
    """A frozen group of scientific parameters; an unknown key is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Document(BaseModel):
    """A document of one collection; unknown fields are refused, so that a typo cannot hide data."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    key: str = Field(description="Content key of the unit of work that made this document.")
    last_updated: datetime = Field(default_factory=utc_now, description="UTC time of the last write; builders read it.")
