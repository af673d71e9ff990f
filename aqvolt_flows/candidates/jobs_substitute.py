"""The maker that replaces halogens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jobflow import Maker
from pymatgen.core import Structure

from aqvolt_flows.candidates.generated import generated_document, write_generated
from aqvolt_flows.candidates.hull import (
    R2SCAN,
    AboveHull,
    Phase,
    Reference,
    energy_above_hull,
    potential_level,
    read_phases,
    reference_from_potential,
)
from aqvolt_flows.candidates.minima import Minimum, Search, search_lowest, together
from aqvolt_flows.candidates.orderings import Orderings, find_orderings
from aqvolt_flows.candidates.substitute import Substitution, framework_change, linear_scale, substitute
from aqvolt_flows.dynamics.relax import Relaxed, Relaxer, torchsim_relaxer
from aqvolt_flows.identity import content_key
from aqvolt_flows.jobs import campaign_job, typed
from aqvolt_flows.potentials import load_potential, model_hash
from aqvolt_flows.schemas.candidate import CandidateDocument
from aqvolt_flows.schemas.generation import SubstitutionParameters
from aqvolt_flows.schemas.parameters import DuplicateParameters
from aqvolt_flows.schemas.provenance import ArtifactRef, Failure
from aqvolt_flows.stores import Database

#: The fields that decide what comes out of one substitution; the others choose which are made.
_IN_KEY: set[str] = {"max_e_above_hull_ev", "reference"}


def substitution_key(
    substitution: Substitution, parameters: SubstitutionParameters, entries: str | None, energies: str | None
) -> str:
    """Return the key of one substitution; ``entries`` and ``energies`` are the SHA-256 of the hull's files."""
    mixed = {"fraction": substitution.fraction, "max_orderings": parameters.max_orderings}
    displaced = {} if parameters.minima.off else {"minima": parameters.minima.model_dump(mode="json")}
    return content_key(
        "substitute/1",
        parent=substitution.parent_id,
        old=substitution.old,
        new=substitution.new,
        parameters=parameters.model_dump(mode="json", include=_IN_KEY),
        relaxation=parameters.relaxation.model_dump(mode="json", exclude={"max_batch_atoms"}),
        weights=model_hash(parameters.relaxation.potential),
        entries=entries,
        energies=energies,
        **(mixed if substitution.fraction != 1 else {}),
        **displaced,
    )


@dataclass
class SubstituteMaker(Maker):
    """Make, relax and judge a batch of substitutions in one Firework.

    Parameters
    ----------
    name
        Name of the job.
    parameters, duplicates
        Of the campaign; dicts of their values are read.
    entries, energies
        Files of the hull's phases, and of r2SCAN energies of substituted structures.
    """

    name: str = "substitute halogens"
    parameters: SubstitutionParameters = field(default_factory=SubstitutionParameters)
    duplicates: DuplicateParameters = field(default_factory=DuplicateParameters)
    entries: ArtifactRef | None = None
    energies: ArtifactRef | None = None

    def __post_init__(self) -> None:
        self.parameters = typed(self.parameters, SubstitutionParameters)
        self.duplicates = typed(self.duplicates, DuplicateParameters)
        self.entries = None if self.entries is None else typed(self.entries, ArtifactRef)
        self.energies = None if self.energies is None else typed(self.energies, ArtifactRef)

    @campaign_job()
    def make(self, database: Database, substitutions: list[dict[str, Any]]) -> dict[str, Any]:
        """Write ``candidates`` of source ``substituted``, refused ones with their reason; return counts.

        Parameters
        ----------
        substitutions
            ``parent_id``, ``old``, ``new`` and ``key`` of each, and ``fraction`` where it is not 1. Those whose key is
            in the collection are skipped.
        """
        p = self.parameters
        database.ensure_indexes()
        keys = [s["key"] for s in substitutions]
        done = {d["key"] for d in database["candidates"].find({"key": {"$in": keys}}, {"key": 1})}
        todo = [s for s in substitutions if s["key"] not in done]
        if not todo:
            return {"new": 0, "accepted": 0, "rejected": {}, "already_done": len(done)}
        parents = database.find_by_ids("candidates", [s["parent_id"] for s in todo])
        potential = load_potential(p.relaxation.potential, database.settings.resolve_device())
        relax = torchsim_relaxer(potential, p.relaxation)
        r2scan = p.reference == "r2scan"
        phases = _phases(database, self.entries, "reference_entries", r2scan)
        labeled = _phases(database, self.energies, "energies", r2scan)
        made = substituted_documents(todo, parents, p, phases, labeled, relax)
        counts = write_generated(database, made, self.duplicates, p.only_aimd)
        flagged = sum(d.status == "accepted" and "flags" in d.decisions for d in made)
        return counts | {"already_done": len(done), "accepted_with_a_flag": flagged}


def _phases(database: Database, ref: ArtifactRef | None, name: str, require_r2scan: bool) -> list[Phase]:
    if ref is None:
        return []
    return read_phases(database.artifacts.local_path(ref).read_bytes(), name, require_r2scan)


@dataclass(frozen=True, eq=False)
class _Attempt:
    """One way to make a substitution: which sites, before relaxation, and the minimum it relaxed to."""

    sites: tuple[int, ...]
    start: Structure
    minimum: Minimum

    @property
    def end(self) -> Relaxed:
        """How the relaxation that is kept ended."""
        return self.minimum.relaxed


def _search(
    ways: Sequence[tuple[int, ...]], starts: Sequence[Structure], parameters: SubstitutionParameters
) -> Search[tuple[list[_Attempt], _Attempt]]:
    """Return every way to make a substitution, and the one that counts: the lowest sound one, else the lowest."""

    def kept(index: int, relaxed: Relaxed) -> bool:
        return framework_change(starts[index], relaxed.structure).kept

    minima, best = yield from search_lowest(starts, kept, parameters.minima)
    attempts = [_Attempt(*each) for each in zip(ways, starts, minima, strict=True)]
    if best is not None:
        return attempts, attempts[best]

    def rank(a: _Attempt) -> tuple[bool, float]:
        return a.end.failure is not None, a.end.energy if math.isfinite(a.end.energy) else math.inf

    return attempts, min(attempts, key=rank)


def substituted_documents(
    wanted: Sequence[dict[str, Any]],
    parents: Sequence[dict[str, Any]],
    parameters: SubstitutionParameters,
    phases: Sequence[Phase],
    labeled: Sequence[Phase],
    relax: Relaxer,
) -> list[CandidateDocument]:
    """Return one document per substitution, in order.

    Parameters
    ----------
    wanted
        ``old``, ``new`` and ``key`` of each, and ``fraction`` where it is not 1.
    parents
        Their parents' documents.
    parameters
        Limits, and which reference.
    phases
        Competing phases; with reference ``potential`` those of the chemical systems at hand are relaxed too.
    labeled
        With reference ``r2scan``: r2SCAN energies of substituted structures.
    relax
        Structures in, relaxed structures out.
    """
    originals = [Structure.from_dict(d["structure"]) for d in parents]
    ways = [
        find_orderings(s, w["old"], w.get("fraction", 1.0), parameters.max_orderings)
        for s, w in zip(originals, wanted, strict=True)
    ]
    starts = [
        [] if isinstance(way, Failure) else [substitute(s, w["old"], w["new"], sites) for sites in way.chosen]
        for s, w, way in zip(originals, wanted, ways, strict=True)
    ]
    flat = [start for own in starts for start in own]
    searches = {
        i: _search(way.chosen, own, parameters)
        for i, (way, own) in enumerate(zip(ways, starts, strict=True))
        if not isinstance(way, Failure)
    }
    numbered = list(searches)
    found = {numbered[k]: result for k, result in together(list(searches.values()), relax)}
    reference, level = _reference(flat, parameters, phases, relax)
    provenance = {
        "potential": parameters.relaxation.potential,
        "weights": model_hash(parameters.relaxation.potential),
        "failed_phases": dict(reference.failed),
    }
    documents = []
    for index, (item, parent, original, way) in enumerate(zip(wanted, parents, originals, ways, strict=True)):
        decisions, share = _facts(item, original)
        name = f"{parent['name']}, {share}{item['old']} → {item['new']}"
        if isinstance(way, Failure):
            failure: Failure | None = way
            structure = original
        else:
            attempts, best = found[index]
            if share:
                decisions |= _ordering_numbers(way, attempts)
            decisions |= best.minimum.as_decisions()
            failure = _judge(best, parameters, reference, level, labeled, decisions)
            structure = best.end.structure
        documents.append(
            generated_document(
                item["key"], "substituted", parent, structure, failure, decisions, dict(provenance), name
            )
        )
    return documents


def _reference(
    starts: Sequence[Structure], parameters: SubstitutionParameters, phases: Sequence[Phase], relax: Relaxer
) -> tuple[Reference, str]:
    """Return the hull's phases, and the level of the relaxing potential."""
    level = potential_level(parameters.relaxation.potential, model_hash(parameters.relaxation.potential))
    if parameters.reference != "potential":
        return Reference(R2SCAN, phases), level
    systems = {frozenset(e.symbol for e in s.composition.elements) for s in starts}
    needed = [p for p in phases if any(p.elements <= system for system in systems)]
    return (reference_from_potential(needed, relax, level) if needed else Reference(level, [])), level


def _facts(item: dict[str, Any], original: Structure) -> tuple[dict[str, Any], str]:
    """Return what a document says of a substitution, and the share in its name."""
    fraction = item.get("fraction", 1.0)
    scale = linear_scale(original.composition, item["old"], item["new"], fraction)
    decisions: dict[str, Any] = {"old": item["old"], "new": item["new"], "linear_scale": round(scale, 6)}
    if fraction == 1:
        return decisions, ""
    return decisions | {"fraction": fraction}, f"{fraction:g} "


def _ordering_numbers(way: Orderings, attempts: Sequence[_Attempt]) -> dict[str, Any]:
    rows = [
        {
            "sites": list(a.sites),
            "energy_ev": round(a.end.energy, 6) if math.isfinite(a.end.energy) else None,
            "failure": a.minimum.failure.reason if a.minimum.failure else None,
        }
        for a in attempts
    ]
    return {"distinct_orderings": way.n_distinct, "orderings": rows}


def _judge(
    attempt: _Attempt,
    parameters: SubstitutionParameters,
    reference: Reference,
    level: str,
    labeled: Sequence[Phase],
    decisions: dict[str, Any],
) -> Failure | None:
    """Return why a substituted structure stays out, or None; every number is added to ``decisions``."""
    start, end = attempt.start, attempt.end
    if end.failure is not None:
        return end.failure
    decisions |= {"energy_ev": round(end.energy, 6), "max_force_ev_per_a": round(end.max_force, 6)}
    change = framework_change(start, end.structure)
    decisions |= change.as_decisions()
    if not change.kept:
        message = f"relaxation changed the framework (volume by {100 * change.volume_change:+.0f} %; {change.limit})"
        return Failure(reason="framework_changed", message=message)
    if attempt.minimum.failure is not None:
        return attempt.minimum.failure
    energy = end.energy
    if parameters.reference == "r2scan":
        level = R2SCAN
        found = labeled_energy(end.structure, labeled)
        if found is None:
            message = "no r2SCAN energy of this structure is among the energies given"
            return Failure(reason="no_r2scan_energy", message=message)
        energy = found
        decisions["r2scan_energy_ev"] = round(energy, 6)
    above = energy_above_hull(end.structure.composition, energy, level, reference)
    decisions |= {"energy_level": level, "max_e_above_hull_ev_per_atom": parameters.max_e_above_hull_ev}
    if isinstance(above, Failure):
        return above
    assert isinstance(above, AboveHull)
    decisions |= above.as_decisions()
    if above.e_above_hull > parameters.max_e_above_hull_ev:
        message = f"{above.e_above_hull:.3f} eV/atom above the hull; at most {parameters.max_e_above_hull_ev:g}"
        return Failure(reason="above_hull", message=message)
    if above.lost:
        names = f"{', '.join(above.lost[:5])}{', …' if len(above.lost) > 5 else ''}"
        message = (
            f"{above.e_above_hull:.3f} eV/atom above a hull without {names}, which did not relax; it may lie lower"
        )
        return Failure(reason="hull_incomplete", message=message)
    return None


def labeled_energy(structure: Structure, labeled: Sequence[Phase]) -> float | None:
    """Return the lowest energy, for the structure's cell, of the given phases that are this structure.

    Sameness is pymatgen's default ``StructureMatcher``.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher()
    energies = [
        p.energy * len(structure) / len(p.structure)
        for p in labeled
        if p.structure is not None
        and p.structure.composition.reduced_formula == structure.composition.reduced_formula
        and matcher.fit(structure, p.structure)
    ]
    return min(energies, default=None)
