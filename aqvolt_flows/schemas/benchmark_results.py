"""Documents of benchmarks outside a project: what the makers of benchmarks return."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from aqvolt_flows.schemas.provenance import Failure


class ScanResult(BaseModel):
    """The energy–volume scan of one structure."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    structure_index: int = Field(ge=0, description="Which of the structures given, from 0.")
    formula: str
    n_atoms: int
    volumes: list[float] = Field(description="(n_points,), Å³, sorted.")
    energies: list[float | None] = Field(description="(n_points,), eV; None where the energy is missing.")
    spearman: dict[str, float | None] = Field(description="Compression and tension, of energy and derivative.")
    flips: int | None = Field(default=None, description="Sign changes of the slope; a curve with one minimum has 1.")
    tortuosity: float | None = None
    failure: Failure | None = None


class ErrorResult(BaseModel):
    """The errors of one structure against its reference."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    item_id: str
    formula: str
    n_atoms: int
    max_force: float = Field(description="Largest |F| of the reference, eV/Å.")
    energy_error: float | None = Field(default=None, description="Prediction minus reference, eV/atom.")
    force_mae: float | None = Field(default=None, description="Mean over 3 n_atoms components, eV/Å.")
    stress_mae: float | None = Field(default=None, description="Mean over 6 components, eV/Å³.")
    failure: Failure | None = None


class _BenchmarkResult(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str = Field(description="Model string, or the class of a calculator.")
    model_hash: str | None = Field(default=None, description="SHA-256 of the weights, where they are known.")
    n_items: int = 0
    n_failed: int = 0
    failure: Failure | None = Field(default=None, description="Why nothing could be computed.")
    metrics: dict[str, Any] = Field(default_factory=dict, description="Aggregates; names carry units.")
    seconds: float = 0.0


class EVScanDocument(_BenchmarkResult):
    """Energy–volume scans of some structures with one model; failures count in every denominator."""

    results: list[ScanResult] = Field(default_factory=list)


class ForceBinsDocument(_BenchmarkResult):
    """Errors of one model against references, binned by the largest reference force."""

    results: list[ErrorResult] = Field(default_factory=list)


class StructureBenchmarkDocument(_BenchmarkResult):
    """Any registered benchmark on some structures; ``failed_percent`` and means have the covered ones below."""

    benchmark: str = Field(default="", description="Name in the registry.")
    n_not_covered: int = Field(default=0, description="With an element that the model was not trained on.")
    n_refused: int = Field(default=0, description="No ordered crystal.")
    rows: list[dict[str, Any]] = Field(
        default_factory=list, description="As the benchmark's table has them; numbers that are not finite are None."
    )
