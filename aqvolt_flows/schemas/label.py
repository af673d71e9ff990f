"""What labelers return (``outputs``) and documents of ``labels``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from aqvolt_flows.schemas.base import Document, Parameters
from aqvolt_flows.schemas.provenance import ArtifactRef, Failure, Protocol


class FurtherResults(BaseModel):
    """What a calculation may give beside energy, forces and stress; `datasets.columns.RESULTS` are their columns."""

    magmoms: list[float] | None = Field(default=None, description="(n_atoms,), Bohr magnetons.")
    bandgap: float | None = Field(default=None, description="eV.")
    efermi: float | None = Field(default=None, description="Fermi level, eV.")
    vbm: float | None = Field(default=None, description="Valence band maximum, eV.")
    cbm: float | None = Field(default=None, description="Conduction band minimum, eV.")
    charges: list[float] | None = Field(
        default=None, description="(n_atoms,), e; which kind says provenance.charges, where the source says it."
    )


class LabelOutcome(Parameters, FurtherResults):
    """The output of every labeling job, converged or not; the label builder reads these.

    ``energy`` is total, eV; ``forces`` (n_atoms, 3), eV/Å; ``stress`` 6 numbers, eV/Å³, ASE sign,
    order xx yy zz yz xz xy. ``positions`` and ``cell`` (Å) are those that were computed.
    """

    #: A result that is not finite must arrive, to be rejected with its reason.
    model_config = ConfigDict(allow_inf_nan=True)

    frame_id: str
    key: str
    status: Literal["converged", "unconverged", "killed", "bad_output", "failed"]
    protocol: Protocol
    failure: Failure | None = None
    atomic_numbers: list[int] = Field(default_factory=list)
    positions: list[list[float]] = Field(default_factory=list)
    cell: list[list[float]] = Field(default_factory=list)
    energy: float | None = None
    forces: list[list[float]] | None = None
    stress: list[float] | None = None
    cost_core_hours: float = 0.0
    raw: ArtifactRef | None = Field(default=None, description="The code's own files.")
    details: dict[str, Any] = Field(
        default_factory=dict, description="Small facts: wall_s and cores behind the cost, SCF steps, electrons, drift …"
    )


class LabelDocument(Document, FurtherResults):
    """One validated label, or the reason why there is none (``status`` rejected)."""

    label_id: str
    frame_id: str
    trajectory_id: str | None
    candidate_id: str | None
    source: str = Field(description="sampled | aimd | the name of an imported dataset.")
    status: Literal["valid", "rejected"]
    failure: Failure | None = None
    protocol: Protocol
    protocol_id: str
    protocol_name: str
    formula: str
    chemsys: str
    elements: list[str]
    n_atoms: int
    temperature_k: float | None = None
    step: int | None = Field(default=None, description="Ionic step of an AIMD run, from 1.")
    explored_with: str | None = Field(default=None, description="Model string of the potential that made the frame.")
    surrogate_difference_per_atom: float | None = Field(
        default=None, description="(label's energy − exploring potential's energy of the frame)/n_atoms, eV/atom."
    )
    provenance: dict[str, Any] = Field(
        default_factory=dict, description="Imported: database, record_id, file, …; AIMD: stride, n_labels of the run."
    )
    atomic_numbers: list[int] = Field(default_factory=list)
    positions: list[list[float]] = Field(default_factory=list, description="(n_atoms, 3), Å.")
    cell: list[list[float]] = Field(default_factory=list, description="(3, 3), Å, rows are vectors.")
    energy: float | None = Field(default=None, description="Total energy, eV.")
    forces: list[list[float]] | None = Field(default=None, description="(n_atoms, 3), eV/Å.")
    stress: list[float] | None = Field(default=None, description="6, eV/Å³, ASE sign, xx yy zz yz xz xy.")
    cohesive_energy_per_atom: float | None = Field(default=None, description="eV/atom.")
    energy_per_atom: float | None = Field(default=None, description="eV/atom.")
    max_force: float | None = Field(default=None, description="Largest |F|, eV/Å.")
    pressure_gpa: float | None = Field(default=None, description="Compression positive.")
    cost_core_hours: float = 0.0
    builder_version: str
    source_uuid: str | None = Field(default=None, description="Job uuid in outputs.")
    source_completed_at: str | None = Field(default=None, description="When that job ended, as outputs says it.")
    newest_source_at: str | None = Field(
        default=None, description="The latest of source_completed_at and other_sources; the builder's index."
    )
    other_sources: dict[str, str] = Field(
        default_factory=dict, description="Jobs that gave the same label and were passed over: uuid → when they ended."
    )
