"""Documents of ``benchmarks``: one row for one benchmark of one model on one set."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from aqvolt_flows.schemas.base import Document
from aqvolt_flows.schemas.provenance import ArtifactRef, Failure


class BenchmarkDocument(Document):
    """Aggregates over a set; failed items count in every denominator and are listed with reasons."""

    benchmark_id: str
    benchmark: str = Field(description="ev_scan, force_bins, relaxation, heating, conductivity.")
    model: str = Field(description="Model string.")
    model_id: str | None = None
    model_hash: str
    dataset: str = Field(description="What it ran on: a release split or a list of candidates.")
    release_id: str | None = None
    status: Literal["completed", "failed"]
    failure: Failure | None = None
    n_items: int
    n_failed: int
    metrics: dict[str, Any] = Field(description="Aggregates, names carry units.")
    failures: list[dict[str, Any]] = Field(default_factory=list)
    details: ArtifactRef | None = Field(default=None, description="Per-item results (Parquet).")
    seconds: float | None = None
