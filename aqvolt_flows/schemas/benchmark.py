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
    n_not_covered: int = Field(default=0, description="With an element that the model does not know; no failures.")
    n_refused: int = Field(default=0, description="Unreadable, no ordered crystal, or without reference; no failures.")
    n_structures: int | None = Field(
        default=None, description="Where it is not n_items: rows may be several a structure."
    )
    predictions: list[ArtifactRef] = Field(default_factory=list, description="Predicted arrays per row (Parquet).")
    atom_steps: int | None = Field(default=None, description="Atoms times energy-and-force evaluations, all items.")


class BenchmarkPartDocument(Document):
    """The rows of some of a benchmark's structures; the benchmark's document follows when all parts are there."""

    part_id: str
    benchmark_key: str
    benchmark: str
    index: int = Field(ge=0, description="From 0.")
    n_parts: int = Field(ge=1)
    model: str
    model_id: str | None = None
    model_hash: str
    parameters: dict[str, Any]
    dataset: str
    release_id: str | None = None
    n_structures: int
    rows: ArtifactRef
    predictions: ArtifactRef | None = None
    seconds: float
