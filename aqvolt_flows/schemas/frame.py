"""Documents of ``frames``: configurations that 2DIRECT selected for labeling."""

from __future__ import annotations

from pydantic import Field

from aqvolt_flows.schemas.base import Document
from aqvolt_flows.schemas.provenance import ArtifactRef


class FrameDocument(Document):
    """One selected configuration; its arrays are row ``row`` of the Parquet file ``artifact``."""

    frame_id: str
    trajectory_id: str
    candidate_id: str
    sample_key: str = Field(description="Key of the sampling round that selected it.")
    step: int = Field(description="MD step of the trajectory.")
    formula: str
    chemsys: str
    elements: list[str]
    n_atoms: int
    temperature_k: float = Field(description="Target temperature of the trajectory.")
    artifact: ArtifactRef
    row: int = Field(ge=0)
    surrogate_energy: float = Field(description="Energy of the exploring potential, eV (total).")
    surrogate_max_force: float = Field(description="Largest |F| of the exploring potential, eV/Å.")
    structure_cluster: int = Field(description="Structural cluster.")
    structure_distance: float = Field(description="Distance to that cluster's center, in weighted PC units.")
    atom_clusters: list[int] = Field(description="Atomic clusters that chose this frame.")
    source_row: int | None = Field(default=None, description="Row of the trajectory's own Parquet file.")
    n_atom_clusters: int | None = Field(default=None, description="How many atomic clusters chose it.")
    atom_distances: list[float] = Field(
        default_factory=list,
        description="Distances of the choosing atoms to the centers of atom_clusters, in weighted PC units.",
    )
    encoder_sha256: str | None = Field(default=None, description="Hash of the encoder that the clusters belong to.")
    given_back: list[str] = Field(
        default_factory=list,
        exclude=True,
        description="Campaigns in which a later round gave it back before it was labeled: they plan no label of it.",
    )
