"""Documents of ``candidates``: structures that enter the campaign, and those refused, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from aqvolt_flows.schemas.base import Document
from aqvolt_flows.schemas.provenance import Failure

CandidateSource = Literal["matpes", "stuffed", "substituted", "user"]

#: Query for the accepted structures of a campaign: hosts are only material to lithiate.
ACCEPTED: dict[str, Any] = {"status": "accepted", "role": {"$ne": "host"}}


def explored(only_aimd: Sequence[str]) -> dict[str, Any]:
    """Return the query for the accepted structures that ML molecular dynamics explores.

    Parameters
    ----------
    only_aimd
        Sources whose substituted structures are for ab-initio MD alone.
    """
    if not only_aimd:
        return ACCEPTED
    return {**ACCEPTED, "$nor": [{"source": "substituted", "parent_source": {"$in": list(only_aimd)}}]}


class CandidateDocument(Document):
    """One structure of the pool."""

    candidate_id: str
    name: str = Field(description="What people call it, e.g. LiCl (rock salt).")
    source: CandidateSource
    role: Literal["candidate", "host"] = Field(
        default="candidate", description="A host is material to lithiate; it is never explored or labeled itself."
    )
    status: Literal["accepted", "rejected"]
    rejection: Failure | None = None
    formula: str = Field(description="Reduced formula.")
    chemsys: str = Field(description="Element symbols in alphabetical order joined by '-'.")
    elements: list[str]
    n_atoms: int
    structure: dict[str, Any] = Field(description="pymatgen Structure.as_dict().")
    parent_id: str | None = Field(default=None, description="The candidate it was made from.")
    parent_source: CandidateSource | None = Field(
        default=None, description="Source of that candidate; none also in documents of before."
    )
    provenance: dict[str, Any] = Field(
        default_factory=dict,
        description="Where it was read: database, record_id, file, record, functional, e_above_hull_ev_per_atom, …",
    )
    decisions: dict[str, Any] = Field(default_factory=dict, description="Every number that led to accept or reject.")
    references: list[str] = Field(default_factory=list, description="DOIs or file names the structure comes from.")
