"""What every document and every group of parameters has in common."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field


def utc_now() -> datetime:
    """Return the current time in UTC, truncated to MongoDB's millisecond."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


class Parameters(BaseModel):
    """A frozen group of scientific parameters; an unknown key is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def as_dict(self) -> dict[str, Any]:
        """Return the values with module and class, as monty writes fields of makers into stored jobs."""
        return {"@module": type(self).__module__, "@class": type(self).__name__, **self.model_dump(mode="json")}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """Return the group that :meth:`as_dict` described."""
        return cls(**{k: v for k, v in d.items() if not k.startswith("@")})


class Document(BaseModel):
    """A document of one collection; unknown fields are refused, so that a typo cannot hide data."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    key: str = Field(description="Content key of the unit of work that made this document.")
    last_updated: datetime = Field(default_factory=utc_now, description="UTC time of the last write; builders read it.")
