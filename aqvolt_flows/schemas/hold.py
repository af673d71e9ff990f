"""Documents of ``holds``: what must not run, or must be looked at, until somebody lifts the hold."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Self

from pydantic import Field

from aqvolt_flows.identity import content_key
from aqvolt_flows.schemas.base import Document, utc_now
from aqvolt_flows.schemas.provenance import Failure

HoldKind = Literal["chemsys", "frame", "firework", "output"]


class HoldDocument(Document):
    """One thing that is held; plans leave it out, ``aqvolt status`` and ``aqvolt hold list`` show it."""

    hold_id: str
    kind: HoldKind
    what: str = Field(description="The chemical system, frame_id, Firework number or job uuid.")
    status: Literal["held", "lifted"] = "held"
    reason: Failure
    since: datetime = Field(default_factory=utc_now)
    outcomes: int = Field(default=0, description="chemsys: outcomes when it was held.")
    failed: int = Field(default=0, description="chemsys: how many of them failed.")
    lifted_outcomes: int = Field(default=0, description="chemsys: outcomes that were forgiven when it was lifted.")
    lifted_failed: int = Field(default=0, description="chemsys: failures that were forgiven when it was lifted.")

    @classmethod
    def of(cls, kind: HoldKind, what: str, reason: str, message: str, **further: int) -> Self:
        """Return the hold on a thing; the same thing has the same hold."""
        key = content_key("hold/1", kind=kind, what=what)
        failure = Failure(reason=reason, message=message)
        return cls.model_validate(
            {"key": key, "hold_id": f"hold-{key}", "kind": kind, "what": what, "reason": failure} | further
        )
