"""Which structures enter the pool, and why the others do not (section 2.1 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pymatgen.core import Element, Lattice, Structure

from aqvolt_flows.chemistry import describe_structure, noble_gases, radioactive, reduced_formula
from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import content_key, structure_hash
from aqvolt_flows.schemas.candidate import CandidateDocument, CandidateSource
from aqvolt_flows.schemas.parameters import CandidateParameters, Prototype
from aqvolt_flows.schemas.provenance import Failure

#: Two atoms closer than this are on top of each other; no bond in a solid is shorter than H–H's 0.74 Å.
MIN_DISTANCE_A = 0.5
#: Å³ per atom. Diamond, the densest in atoms, has 5.7, and cesium, the sparsest crystal, 116 at ambient pressure.
VOLUME_PER_ATOM_A3 = (3.0, 150.0)


def build_structure(prototype: Prototype) -> Structure:
    """Return the crystal that published lattice data describes.

    Parameters
    ----------
    prototype
        Space group, cell (Å, degrees) and the sites of the asymmetric unit.

    Returns
    -------
    Structure
        The conventional cell of the setting, or its primitive cell if asked for.

    Raises
    ------
    InputError
        If pymatgen does not know the space group, or the cell contradicts it.
    """
    unknown = sorted({s.element for s in prototype.sites if not Element.is_valid_symbol(s.element)})
    if unknown:
        raise InputError(f"{prototype.name}: {', '.join(unknown)} is not an element symbol.")
    lattice = Lattice.from_parameters(
        prototype.a,
        prototype.b or prototype.a,
        prototype.c or prototype.a,
        prototype.alpha,
        prototype.beta,
        prototype.gamma,
    )
    try:
        structure = Structure.from_spacegroup(
            prototype.spacegroup, lattice, [s.element for s in prototype.sites], [s.xyz for s in prototype.sites]
        )
    except ValueError as error:
        raise InputError(
            f"{prototype.name}: space group {prototype.spacegroup} and the cell do not make a crystal ({error}); "
            "give the "
            "Hermann-Mauguin symbol of the setting that the cell is in."
        ) from None
    return structure.get_primitive_structure() if prototype.primitive else structure


def judge(structure: Structure, parameters: CandidateParameters) -> tuple[Failure | None, dict[str, Any]]:
    """Return why a structure stays out (or None), and every number that was looked at.

    Parameters
    ----------
    structure
        A periodic structure.
    parameters
        The campaign's rules.
    """
    elements = sorted(e.symbol for e in structure.composition.elements)
    decisions: dict[str, Any] = {"elements": elements, "n_sites": len(structure)}
    missing = [e for e in parameters.require_elements if e not in elements]
    if missing:
        return Failure(reason="missing_element", message=f"no {', '.join(missing)} in {', '.join(elements)}"), decisions
    if parameters.require_any_of and not set(parameters.require_any_of) & set(elements):
        wanted = ", ".join(parameters.require_any_of)
        return Failure(reason="no_halogen", message=f"none of {wanted} in {', '.join(elements)}"), decisions
    excluded = [e for e in parameters.exclude_elements if e in elements]
    if excluded:
        return Failure(reason="excluded_element", message=f"contains {', '.join(excluded)}"), decisions
    if parameters.exclude_radioactive and (found := radioactive(elements)):
        return Failure(reason="radioactive", message=f"contains {', '.join(found)}"), decisions
    if parameters.exclude_noble_gases and (found := noble_gases(elements)):
        return Failure(reason="noble_gas", message=f"contains {', '.join(found)}"), decisions
    return check_geometry(structure, decisions), decisions


def check_geometry(structure: Structure, decisions: dict[str, Any]) -> Failure | None:
    """Return why no simulation can start from a structure (or None); its numbers are added to ``decisions``."""
    if not structure.is_ordered:
        return Failure(reason="disordered", message="has partially occupied sites; order it first")
    decisions |= _geometry(structure)
    closest = decisions["min_distance_a"]
    if closest < MIN_DISTANCE_A:
        return Failure(reason="overlap", message=f"two atoms are {closest:.3f} Å apart; at least {MIN_DISTANCE_A} Å")
    volume, (least, most) = decisions["volume_per_atom_a3"], VOLUME_PER_ATOM_A3
    if not least <= volume <= most:
        said = f"{volume:.2f} Å³ an atom; crystals have {least:g} to {most:g}"
        return Failure(reason="implausible_volume", message=said)
    return None


def _geometry(structure: Structure) -> dict[str, float]:
    """Return the closest pair (periodic images of one atom included) and the volume per atom."""
    distances = np.array(structure.distance_matrix)
    np.fill_diagonal(distances, min(structure.lattice.abc))
    return {
        "min_distance_a": round(float(distances.min()), 6),
        "volume_per_atom_a3": round(structure.volume / len(structure), 6),
    }


def candidate_document(
    structure: Structure,
    parameters: CandidateParameters,
    name: str,
    source: CandidateSource,
    references: list[str],
    parent_id: str | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> CandidateDocument:
    """Return the document of one structure, accepted or rejected with its reason.

    The identity is the structure and the route that made it, not its name: the same crystal offered
    twice is one candidate.
    """
    failure, decisions = judge(structure, parameters)
    key = content_key("candidates/1", structure=structure_hash(structure), source=source, parent_id=parent_id)
    return CandidateDocument(
        candidate_id=f"candidate-{key}",
        key=key,
        name=name,
        source=source,
        status="rejected" if failure else "accepted",
        rejection=failure,
        structure=structure.as_dict(),
        parent_id=parent_id,
        provenance=dict(provenance or {}),
        decisions=decisions,
        references=references,
        **describe_any(structure),
    )


def describe_any(structure: Structure) -> dict[str, Any]:
    """Return formula, chemsys, elements and n_atoms of an ordered or a disordered structure."""
    if structure.is_ordered:
        return describe_structure(structure)
    return {
        "formula": reduced_formula(structure.composition),
        "chemsys": structure.chemical_system,
        "elements": sorted(e.symbol for e in structure.composition.elements),
        "n_atoms": len(structure),
    }
