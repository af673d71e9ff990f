"""Which structures are empty hosts for Li, and why the others are not (section 2.1 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymatgen.core import Structure

from aqvolt_flows.candidates.select import check_geometry, describe_any
from aqvolt_flows.chemistry import noble_gases, radioactive
from aqvolt_flows.identity import content_key, structure_hash
from aqvolt_flows.schemas.candidate import CandidateDocument, CandidateSource
from aqvolt_flows.schemas.parameters import HostParameters
from aqvolt_flows.schemas.provenance import Failure


def judge_host(
    structure: Structure, parameters: HostParameters, provenance: Mapping[str, Any]
) -> tuple[Failure | None, dict[str, Any]]:
    """Return why a structure is no host (or None), and every number that was looked at.

    Parameters
    ----------
    structure
        A periodic structure.
    parameters
        The campaign's rules for hosts.
    provenance
        Its ``e_above_hull_ev_per_atom`` decides with the rest; where its ``possible_species`` are known
        (the Materials Project's guess of oxidation states), the halogen must be an anion there, so
        that a perchlorate is no halide.
    """
    elements = sorted(e.symbol for e in structure.composition.elements)
    metals = [m for m in parameters.redox_metals if m in elements]
    hull = provenance.get("e_above_hull_ev_per_atom")
    decisions: dict[str, Any] = {
        "elements": elements,
        "n_sites": len(structure),
        "redox_metals": metals,
        "e_above_hull_ev_per_atom": hull,
        "max_e_above_hull_ev_per_atom": parameters.max_e_above_hull_ev,
    }
    said = ", ".join(elements)
    if found := [e for e in parameters.exclude_elements if e in elements]:
        return Failure(reason="excluded_element", message=f"contains {', '.join(found)}"), decisions
    if failure := _halide(elements, parameters, provenance, decisions):
        return failure, decisions
    if not metals:
        return Failure(reason="no_redox_metal", message=f"none of the redox-active metals in {said}"), decisions
    if parameters.exclude_radioactive and (found := radioactive(elements)):
        return Failure(reason="radioactive", message=f"contains {', '.join(found)}"), decisions
    if parameters.exclude_noble_gases and (found := noble_gases(elements)):
        return Failure(reason="noble_gas", message=f"contains {', '.join(found)}"), decisions
    if hull is None and parameters.unknown_hull == "reject":
        said = (
            "its source gives no energy above the hull; give it in a table (--hull-energies), or set "
            "candidates.hosts.unknown_hull to accept"
        )
        return Failure(reason="unknown_hull", message=said), decisions
    if hull is not None and not hull < parameters.max_e_above_hull_ev:
        limit = f"{parameters.max_e_above_hull_ev:g} eV/atom"
        return Failure(reason="above_hull", message=f"{hull:.4f} eV/atom above the hull; below {limit}"), decisions
    return check_geometry(structure, decisions), decisions


def _halide(
    elements: list[str], parameters: HostParameters, provenance: Mapping[str, Any], decisions: dict[str, Any]
) -> Failure | None:
    halogens = [x for x in parameters.require_any_of if x in elements]
    if not halogens:
        wanted = ", ".join(parameters.require_any_of)
        return Failure(reason="no_halogen", message=f"none of {wanted} in {', '.join(elements)}")
    species = provenance.get("possible_species")
    decisions["halide_anion_by"] = "possible_species" if species else "presence"
    if species:
        anions = [x for x in halogens if any(s.rstrip("-0123456789.") == x and s.endswith("-") for s in species)]
        if not anions:
            return Failure(reason="no_halide_anion", message=f"no halogen is an anion in {', '.join(species)}")
    return None


def host_document(
    structure: Structure,
    parameters: HostParameters,
    name: str,
    source: CandidateSource,
    references: list[str],
    provenance: Mapping[str, Any],
) -> CandidateDocument:
    """Return the document of one host, accepted or rejected with its reason.

    It carries ``role: host``: something to lithiate, never explored or labeled itself.
    """
    failure, decisions = judge_host(structure, parameters, provenance)
    key = content_key("hosts/1", structure=structure_hash(structure), source=source)
    return CandidateDocument(
        candidate_id=f"host-{key}",
        key=key,
        name=name,
        source=source,
        role="host",
        status="rejected" if failure else "accepted",
        rejection=failure,
        structure=structure.as_dict(),
        provenance=dict(provenance),
        decisions=decisions,
        references=references,
        **describe_any(structure),
    )
