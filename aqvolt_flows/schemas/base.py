"""What every document and every group of parameters has in common."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def utc_now() -> datetime:
    """Return the current time in UTC, truncated to MongoDB's millisecond."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def _symbol(value: str) -> str:
    from ase.data import atomic_numbers

    if value not in atomic_numbers or value == "X":
        raise ValueError("the symbol of an element, such as Li")
    return value


#: The symbol of a chemical element.
Element = Annotated[str, AfterValidator(_symbol)]


class Parameters(BaseModel):
    """A frozen group of scientific parameters; an unknown key is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values that monty reads back; a job's maker is written this way, also to a LaunchPad.

        monty asks a maker's fields for ``as_dict`` and leaves those without it as objects, which FireWorks would store
        as their ``str``.
        """
        return {"@module": type(self).__module__, "@class": type(self).__name__, **self.model_dump(mode="json")}


class Document(BaseModel):
    """A document of one collection; unknown fields are refused, so that a typo cannot hide data."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    key: str = Field(description="Content key of the unit of work that made this document.")
    last_updated: datetime = Field(default_factory=utc_now, description="UTC time of the last write; builders read it.")
    campaigns: list[str] = Field(
        default_factory=list, description="Names of the campaigns that this document belongs to; beside its identity."
    )
