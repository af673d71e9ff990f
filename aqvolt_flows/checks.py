"""Rows of a check-up: what was looked at, how it stands, what was seen, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

from aqvolt_flows.errors import AqvoltError

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One row: what was checked, how it stands, what was seen, and what to do."""

    check: str
    status: Status
    detail: str
    todo: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the fields as a mapping."""
        return asdict(self)


def problem(check: str, status: Status, error: AqvoltError) -> Check:
    """Return the row of an error that teaches: up to its last semicolon is what was seen, the rest what to do."""
    detail, _, todo = str(error).rpartition("; ")
    return Check(check, status, detail or str(error), todo if detail else "")


def checked(name: str, severity: Status, look: Callable[[], str]) -> Check:
    """Return the row of a look that gives what it saw, or raises an error that teaches."""
    try:
        return Check(name, "ok", look())
    except AqvoltError as error:
        return problem(name, severity, error)
