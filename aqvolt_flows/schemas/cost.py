"""Documents of ``costs``: what each stage has taken so far."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from aqvolt_flows.schemas.base import Document


class SystemCost(BaseModel):
    """What the labels of one chemical system took, beside what was forecast for them."""

    n_runs: int = Field(description="Labels of this system, rejected ones included.")
    n_valid: int
    core_hours: float
    forecast_core_hours: float | None = Field(
        default=None, description="By the cost model fitted to runs of other systems; None where there are too few."
    )


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
    n_valid: int = Field(default=0, description="Documents that are neither failed nor rejected.")
    core_hours_failed: float = Field(default=0.0, description="Of core_hours, what failed and rejected units took.")
    per_valid: float | None = Field(default=None, description="core_hours / n_valid; failed units are in the sum.")
    new_environments: int | None = Field(
        default=None, description="Labels: atomic environments that only the frames of valid labels stand for."
    )
    per_environment: float | None = Field(default=None, description="core_hours / new_environments.")
    forecast_core_hours: float | None = Field(
        default=None, description="Labels: forecast of the runs for which one could be made, see by_chemsys."
    )
    forecast_actual: float | None = Field(default=None, description="What these same runs took, core-hours.")
    by_chemsys: dict[str, SystemCost] = Field(default_factory=dict, description="Labels: chemical system → cost.")
    source_last_updated: datetime | None = Field(default=None, description="Newest document that was counted.")
