"""The document of a static outside a campaign: what the makers of statics return."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field
from pymatgen.core import Structure

from aqvolt_flows.schemas.label import FurtherResults
from aqvolt_flows.schemas.provenance import Failure, Protocol


class StaticDocument(FurtherResults):
    """Energy, forces and stress of one structure at one theory level, or why there are none."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    status: Literal["converged", "unconverged", "killed", "bad_output", "failed"]
    failure: Failure | None = Field(default=None, description="Why there is no result: reason and sentence.")
    structure: Structure = Field(description="What was computed; forces are in the order of its sites.")
    formula: str = Field(description="Reduced formula.")
    chemsys: str = Field(description="Element symbols in alphabetical order joined by '-'.")
    n_atoms: int
    protocol: Protocol | None = Field(default=None, description="Code, version, functional, hash of the settings.")
    protocol_name: str = Field(default="", description="What people read of it, e.g. surrogate:MODEL@HASH.")
    energy: float | None = Field(default=None, description="Total energy, eV.")
    energy_per_atom: float | None = Field(default=None, description="eV/atom.")
    forces: list[list[float]] | None = Field(default=None, description="(n_atoms, 3), eV/Å.")
    stress: list[float] | None = Field(default=None, description="6, eV/Å³, ASE sign, order xx yy zz yz xz xy.")
    cost_core_hours: float = 0.0
    dir_name: str | None = Field(default=None, description="Folder of the code's own files, where it writes any.")
    details: dict[str, Any] = Field(default_factory=dict, description="Small facts: wall_s, cores, SCF steps …")
