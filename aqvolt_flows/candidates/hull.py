"""Energy above the convex hull, against one consistent reference or not at all.

A potential's energy against a hull of DFT energies measures the potential's offset, not stability. So an energy
carries the name of what computed it, a reference carries its own, and the two must agree.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Composition, Structure

from aqvolt_flows.chemistry import HALOGENS
from aqvolt_flows.dynamics.relax import Relaxer
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.provenance import Failure

#: eV/atom; our choice: a structure this far below a hull shows that the hull lacks phases, not that it is so stable.
SUSPICIOUS_EV = -0.1
#: Level of entries whose energies are r2SCAN calculations (the Materials Project's run type R2SCAN).
R2SCAN = "r2SCAN"


@dataclass(frozen=True, eq=False)
class Phase:
    """One competing phase: total energy in eV of the composition as written, and its structure if known."""

    entry_id: str
    composition: Composition
    energy: float
    structure: Structure | None = None

    @property
    def elements(self) -> frozenset[str]:
        """Its element symbols."""
        return frozenset(e.symbol for e in self.composition.elements)


@dataclass(frozen=True, eq=False)
class Reference:
    """Phases whose energies all come from one level of theory.

    Attributes
    ----------
    level
        ``r2SCAN``, or ``potential:NAME@HASH``.
    phases
        Every phase known at this level.
    failed
        Phases that have no energy at this level, with the reason.
    lost
        Those of them that may have been on the hull: no phase of the same formula that the given entries call at least
        as stable has an energy at this level.
    """

    level: str
    phases: Sequence[Phase]
    failed: Mapping[str, str] = field(default_factory=dict)
    lost: Sequence[Phase] = ()

    def within(self, elements: Iterable[str]) -> list[Phase]:
        """Return the phases of a chemical system and its subsystems."""
        system = frozenset(elements)
        return [p for p in self.phases if p.elements <= system]

    def lost_within(self, elements: Iterable[str]) -> list[Phase]:
        """Return the lost phases of a chemical system and its subsystems."""
        system = frozenset(elements)
        return [p for p in self.lost if p.elements <= system]

    def gaps(self, elements: Iterable[str]) -> list[str]:
        """Return the pairs of a halogen and another element of a system of which no compound is known, e.g. Br-Ti."""
        system = sorted(elements)
        known = {p.elements for p in self.phases}
        pairs = [(a, b) for i, a in enumerate(system) for b in system[i + 1 :]]
        return [f"{a}-{b}" for a, b in pairs if (a in HALOGENS) != (b in HALOGENS) and frozenset((a, b)) not in known]


@dataclass(frozen=True)
class AboveHull:
    """Where an energy lies.

    Attributes
    ----------
    e_above_hull
        eV/atom; negative where the structure is below the hull of the reference.
    decomposition
        What it would decompose into: reduced formula → atomic fraction.
    level, n_phases
        Of the reference, and how many of its phases lie in the chemical system.
    lost
        Entries of the chemical system that may be on the hull and have no energy at this level.
    gaps
        Pairs of a halogen and another element of which the reference has no compound.
    """

    e_above_hull: float
    decomposition: Mapping[str, float]
    level: str
    n_phases: int
    lost: Sequence[str] = ()
    gaps: Sequence[str] = ()

    @property
    def flag(self) -> str:
        """What to be wary of, or an empty string."""
        if self.e_above_hull >= SUSPICIOUS_EV:
            return ""
        without = f": no compound of {', '.join(self.gaps)}" if self.gaps else ""
        return f"{self.e_above_hull:.3f} eV/atom against the hull; its reference seems to lack phases{without}"

    def as_decisions(self) -> dict[str, Any]:
        """Return the numbers for a document."""
        numbers: dict[str, Any] = {
            "e_above_hull_ev_per_atom": round(self.e_above_hull, 6),
            "hull_reference": self.level,
            "hull_phases": self.n_phases,
            "decomposition": {k: round(v, 6) for k, v in sorted(self.decomposition.items())},
        }
        if self.lost:
            numbers["hull_lost_phases"] = list(self.lost)
        if self.flag:
            numbers["flags"] = [self.flag]
        return numbers


def potential_level(model: str, weights: str) -> str:
    """Return the level of energies from a potential, named with its weights' hash."""
    return f"potential:{model}@{weights[:12]}"


def energy_above_hull(composition: Composition, energy: float, level: str, reference: Reference) -> AboveHull | Failure:
    """Return the energy above the hull of the composition's chemical system.

    Parameters
    ----------
    composition
        Of the structure whose energy is given.
    energy
        Total energy, eV.
    level
        What computed it.
    reference
        Phases of the same level.

    Returns
    -------
    AboveHull or Failure
        ``no_reference`` if an element of the system has no phase of its own: there is no hull then.

    Raises
    ------
    InputError
        If the levels differ.
    """
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram

    if level != reference.level:
        raise InputError(
            f"An energy of {level} was compared with a hull of {reference.level}; give both from one level of theory."
        )
    elements = sorted(e.symbol for e in composition.elements)
    phases = reference.within(elements)
    terminal = {next(iter(p.elements)) for p in phases if len(p.elements) == 1}
    missing = [e for e in elements if e not in terminal]
    if missing:
        return Failure(
            reason="no_reference",
            message=f"the {reference.level} entries have no phase of the element {', '.join(missing)}",
        )
    diagram = PhaseDiagram([PDEntry(p.composition, p.energy, name=p.entry_id) for p in phases])
    entry = PDEntry(composition, energy)
    decomposition, above = diagram.get_decomp_and_e_above_hull(entry, allow_negative=True)
    if above is None or decomposition is None:
        return Failure(reason="no_reference", message=f"no decomposition of {composition.reduced_formula} was found")
    shares: dict[str, float] = {}
    for product, share in decomposition.items():
        formula = product.composition.reduced_formula
        shares[formula] = shares.get(formula, 0.0) + float(share)
    lost = [f"{p.entry_id} ({p.composition.reduced_formula})" for p in reference.lost_within(elements)]
    return AboveHull(float(above), shares, reference.level, len(phases), lost, reference.gaps(elements))


def read_phases(data: bytes, name: str, require_r2scan: bool = False) -> list[Phase]:
    """Return the phases of a JSON file (gzipped or not) of pymatgen computed entries.

    Parameters
    ----------
    data
        The file's bytes: a list of ``ComputedEntry``/``ComputedStructureEntry`` dictionaries, as
        ``get_entries_in_chemsys`` of mp-api gives them and ``monty`` writes them.
    name
        For messages.
    require_r2scan
        Refuse entries that do not say ``run_type: R2SCAN``: a hull of mixed functionals is none.

    Raises
    ------
    InputError
        If it is not such a file, or an entry is of another functional.
    """
    try:
        entries = json.loads(gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data)
        phases = [_phase(e, i) for i, e in enumerate(entries)]
    except (ValueError, KeyError, TypeError, OSError, EOFError) as error:
        raise InputError(
            f"{name} is not a list of computed entries ({type(error).__name__}: {error}); expected the JSON of "
            "mp-api's get_entries_in_chemsys."
        ) from None
    if require_r2scan:
        for phase, entry in zip(phases, entries, strict=True):
            run_type = str((entry.get("parameters") or {}).get("run_type", "unknown"))
            if run_type.upper() != "R2SCAN":
                raise InputError(
                    f"{name}: entry {phase.entry_id} is of run type {run_type}; an r2SCAN hull takes R2SCAN only."
                )
    return phases


def read_phases_file(path: Path, require_r2scan: bool = False) -> list[Phase]:
    """Return :func:`read_phases` of a file."""
    if not path.is_file():
        raise InputError(f"There is no file {path}; write the entries of mp-api's get_entries_in_chemsys as JSON.")
    return read_phases(path.read_bytes(), path.name, require_r2scan)


def _phase(entry: Mapping[str, Any], index: int) -> Phase:
    """Return one phase with the energy as calculated: corrections mix levels of theory, which this module forbids."""
    structure = Structure.from_dict(entry["structure"]) if entry.get("structure") else None
    composition = structure.composition if structure is not None else Composition(entry["composition"])
    name = str(entry.get("entry_id") or index)
    return Phase(name, composition.element_composition, float(entry["energy"]), structure)


def reference_from_potential(phases: Iterable[Phase], relax: Relaxer, level: str) -> Reference:
    """Return the phases relaxed with a potential: the hull of that potential.

    Phases without a structure, or whose relaxation fails, are left out and named in ``failed``. Without one, another
    looks more stable, so those that may be on the hull are ``lost``, and a structure that passes is refused for them.
    """
    given, found = list(phases), []
    known = [p for p in given if p.structure is not None]
    without: list[tuple[Phase, str]] = [(p, "no structure") for p in given if p.structure is None]
    kept: list[Phase] = []
    for phase, relaxed in zip(known, relax([p.structure for p in known if p.structure is not None]), strict=True):
        if not relaxed.converged or not np.isfinite(relaxed.energy):
            without.append((phase, relaxed.failure.reason if relaxed.failure else "not finite"))
            continue
        kept.append(phase)
        found.append(Phase(phase.entry_id, relaxed.structure.composition, relaxed.energy, relaxed.structure))
    lost = [p for p, _ in without if not any(_at_least_as_stable(k, p) for k in kept)]
    return Reference(level, found, {p.entry_id: reason for p, reason in without}, lost)


def _at_least_as_stable(phase: Phase, other: Phase) -> bool:
    """Return whether a phase is a polymorph of another with, per atom, no more of the energy that the entries give."""
    if phase.composition.reduced_formula != other.composition.reduced_formula:
        return False
    return phase.energy / phase.composition.num_atoms <= other.energy / other.composition.num_atoms
