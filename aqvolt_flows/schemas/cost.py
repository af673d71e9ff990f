"""Documents of ``costs``: what each stage has taken so far."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from aqvolt_flows.schemas.base import Document


class CostDocument(Document):
    """Sums over one stage's collection; failed units are counted, and what they cost is in the sums."""

    cost_id: str
    stage: str = Field(description="candidates, explore, sample, label, train, benchmark.")
    collection: str
    n_documents: int
    n_failed: int = Field(description="Documents with status failed or rejected.")
    failures: dict[str, int] = Field(default_factory=dict, description="Reason → number.")
    n_atoms: int = Field(description="Atoms in these documents (configurations, not atom-steps).")
    core_hours: float = Field(description="Core-hours of labelers; elsewhere hours of the one device.")
    source_last_updated: datetime | None = Field(default=None, description="Newest document that was counted.")
