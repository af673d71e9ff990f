"""Documents of 2DIRECT outside a campaign: what ``DirectMaker`` returns."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Structure

#: Keys that monty adds in a JobStore (``@module`` …) are passed over: ``DirectDocument(**store.get_output(uuid))``.
_CONFIG = ConfigDict(extra="ignore", protected_namespaces=())


class SelectedFrame(BaseModel):
    """Where a selected structure is from, and which clusters chose it; one per entry of ``structures``."""

    model_config = _CONFIG

    document_index: int | None = Field(default=None, description="Which MD document of the source; None: no document.")
    trajectory_index: int | None = Field(default=None, description="Which trajectory of that document.")
    structure_index: int = Field(description="Which structure: of the MD's structures, or of the source itself.")
    row: int | None = Field(default=None, description="Row of the trajectory's frames.")
    step: int | None = Field(default=None, description="MD step.")
    temperature_k: float | None = Field(default=None, description="Target temperature of the trajectory, K.")
    energy: float | None = Field(default=None, description="Energy of the exploring potential, eV (total).")
    structure_cluster: int = Field(description="Structural cluster.")
    structure_distance: float = Field(description="Distance to that cluster's center, weighted principal components.")
    atom_clusters: list[int] = Field(description="Atomic clusters that chose it, numbered over all.")
    atom_distances: list[float] = Field(description="Distances of the choosing atoms to those clusters' centers.")


class DirectDocument(BaseModel):
    """A 2DIRECT selection."""

    model_config = _CONFIG

    encoder: str = Field(description="Encoder string.")
    encoder_sha256: str
    layer: str = Field(description="Which layers the vectors are.")
    parameters: dict[str, Any] = Field(description="All choices of the selection, and the identity of the space.")
    n_encoded: int = Field(description="Frames that were encoded: the rows 2DIRECT chose from.")
    funnel: dict[str, int] = Field(
        description="Frames read (generated), left out by each filter, encoded, clusters of both stages, selected."
    )
    coverage: dict[str, float] = Field(
        description="Distance of all encoded frames to the nearest selected one (mean, p99, max; weighted principal "
        "components), and numbers of clusters."
    )
    selected: list[SelectedFrame] = Field(description="In the order of ``structures``.")
    structures: list[Structure] = Field(description="The selected structures, for the maker that follows.")
