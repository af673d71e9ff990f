"""Planning of made structures: which hosts to lithiate, which halogens to replace, and what is left of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import batched, groupby
from typing import Any

from aqvolt_flows.campaign import Campaign
from aqvolt_flows.candidates.host_density import DENSITY_REASONS, density_fingerprint
from aqvolt_flows.candidates.jobs_lithiate import LithiateMaker, lithiation_key
from aqvolt_flows.candidates.jobs_substitute import SubstituteMaker, substitution_key
from aqvolt_flows.candidates.reducibility import Reduction, assess_formula
from aqvolt_flows.candidates.substitute import (
    Substitution,
    choose_substitutions,
    halogen_counts,
    possible_substitutions,
)
from aqvolt_flows.identity import content_key, file_sha256
from aqvolt_flows.schemas.candidate import ACCEPTED, explored
from aqvolt_flows.schemas.generation import LithiationParameters, SubstitutionParameters
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.stores import Database
from aqvolt_flows.work import Plan, WorkItem


def plan_lithiate(campaign: Campaign, database: Database, claimed: frozenset[str] = frozenset()) -> Plan:
    """Return the batches of accepted hosts that are neither lithiated nor queued.

    A host that was refused for its density is planned again once its AECCAR files are others.
    """
    p, metals = campaign.lithiation, tuple(campaign.candidates.hosts.redox_metals)
    query = {"status": "accepted", "role": "host"}
    fields = {"candidate_id": 1, "name": 1, "formula": 1, "n_atoms": 1, "provenance.record_id": 1}
    hosts = {
        lithiation_key(d["candidate_id"], p, metals): d
        for d in database.own("candidates").find(query, fields).sort("candidate_id", 1)
    }
    repaired = _repaired(database, hosts, p)
    done = _present(database, list(hosts)) - set(repaired)
    todo = [key for key in hosts if key not in done and key not in claimed]
    maker = LithiateMaker(
        parameters=p,
        duplicates=campaign.candidates.duplicates,
        metals=list(metals),
    )
    items = [
        WorkItem(
            "lithiate",
            _batch_key(group, repaired),
            f"lithiate {len(group)} hosts",
            partial(maker.make, [{"candidate_id": hosts[key]["candidate_id"], "key": key} for key in group]),
            category="gpu",
            units=tuple(group),
        )
        for group in batched(todo, p.hosts_per_job)
    ]
    missing = [] if hosts else ["there is no accepted host yet; run 'aqvolt candidates import FILE --as hosts'"]
    if p.densities == ["files"] and p.aeccar_folder and not database.settings.path(p.aeccar_folder).is_dir():
        missing.append(f"there is no folder {p.aeccar_folder}; set lithiation.aeccar_folder to that of the AECCARs")
    facts: dict[str, Any] = {"hosts": len(hosts), "finished": len(done), "to_run": len(todo)}
    facts |= _reducible([hosts[key] for key in todo], metals)
    facts |= {"with_a_repaired_density": len(repaired)} if repaired else {}
    facts["densities"] = ", ".join(p.densities)
    made = [hosts[key]["candidate_id"] for key in hosts if key in done]
    adopt = partial(database.adopt, "candidates", made, "parent_id", {"source": "stuffed"})
    queued = tuple(key for key in hosts if key in claimed)
    return Plan("lithiate", items, missing, facts, adopt, queued)


def _batch_key(units: Sequence[str], repaired: Mapping[str, str | None]) -> str:
    """Return the key of a job; that of a second attempt names the files that changed."""
    again = {key: repaired[key] for key in units if key in repaired}
    return content_key("lithiate-batch/1", units=sorted(units), **({"again": again} if again else {}))


def _repaired(
    database: Database, hosts: Mapping[str, dict[str, Any]], p: LithiationParameters
) -> dict[str, str | None]:
    """Return key → hash of the density files now, of hosts that were refused for their density as it was."""
    query = {"key": {"$in": list(hosts)}, "rejection.reason": {"$in": list(DENSITY_REASONS)}}
    refused = database["candidates"].find(query, {"key": 1, "provenance.density_files": 1})
    seen = {d["key"]: (d.get("provenance") or {}).get("density_files") for d in refused}
    now = {key: density_fingerprint(hosts[key], p, database.settings) for key in seen}
    return {key: found for key, found in now.items() if found != seen[key]}


def _reducible(hosts: Sequence[dict[str, Any]], metals: tuple[str, ...]) -> dict[str, int]:
    """Return how many hosts can pay for Li by the oxidation states of their formulas, and how many cannot."""
    found = [assess_formula(d["formula"], d["n_atoms"], metals) for d in hosts]
    counts = {
        "reducible": sum(isinstance(f, Reduction) for f in found),
        "not_reducible": sum(isinstance(f, Failure) for f in found),
    }
    unknown = sum(f is None for f in found)
    return counts | ({"decided_by_bond_valences": unknown} if unknown else {})


def plan_substitute(campaign: Campaign, database: Database, claimed: frozenset[str] = frozenset()) -> Plan:
    """Return the batches of substitutions that are neither made nor queued."""
    p = campaign.substitution
    groups = [(sources, _parents(database, p, sources)) for sources in (p.parents, p.only_aimd) if sources]
    parents = [parent for _, of_sources in groups for parent in of_sources]
    hashes: dict[str, str | None] = {}
    sources = ", ".join([*p.parents, *p.only_aimd])
    missing = [] if parents else [f"there is no accepted candidate of source {sources} yet"]
    for name in ("reference_entries", "energies"):
        given = getattr(p, name)
        path = database.settings.path(given) if given else None
        hashes[name] = file_sha256(path) if path is not None and path.is_file() else None
        needed = name == "reference_entries" or p.reference == "r2scan"
        if needed and hashes[name] is None:
            seen = f"there is no file {given}" if given else "it is not set"
            missing.append(f"substitution.{name} must name a JSON file of computed entries, {seen}")

    def key_of(substitution: Substitution) -> str:
        return substitution_key(substitution, p, hashes["reference_entries"], hashes["energies"])

    chosen = [
        s
        for sources, of_sources in groups
        for s in _choose(database, of_sources, p, _pool(p, sources), lambda s: key_of(s) in claimed)
    ]
    keys = {key_of(s): s for s in chosen}
    done = _present(database, list(keys))
    todo = [(key, s) for key, s in keys.items() if key not in done and key not in claimed]
    elements = {i: sorted(e) for i, e in parents}
    todo.sort(key=lambda pair: (elements[pair[1].parent_id], pair[1].parent_id, pair[1].new))
    by_parent = [list(own) for _, own in groupby(todo, key=lambda pair: pair[1].parent_id)]
    items = [
        WorkItem(
            "substitute",
            content_key("substitute-batch/1", units=sorted(key for own in group for key, _ in own)),
            f"substitute in {len(group)} structures",
            partial(_make_substitutions, campaign, database, [pair for own in group for pair in own]),
            category="gpu",
            units=tuple(key for own in group for key, _ in own),
        )
        for group in batched(by_parent, p.parents_per_job)
    ]
    facts = {"parents": len(parents), "substitutions": len(keys), "finished": len(done), "to_run": len(todo)}
    facts |= {f"{old} → {new}": n for (old, new), n in sorted(_count(chosen).items())}
    flagged = {"source": "substituted", "status": "accepted", "decisions.flags": {"$exists": True}}
    facts["accepted_with_a_flag"] = database.own("candidates").count_documents(flagged)
    adopt = partial(database.adopt, "candidates", sorted(done), "key")
    queued = tuple(key for key in keys if key in claimed)
    return Plan("substitute", items if not missing else [], missing, facts, adopt, queued)


def _make_substitutions(campaign: Campaign, database: Database, group: Sequence[tuple[str, Substitution]]) -> Any:
    """Return the job; the hull's files go into the artifact store, where every worker finds them."""
    p = campaign.substitution
    refs = {}
    for name, given in (("entries", p.reference_entries), ("energies", p.energies)):
        if given:
            path = database.settings.path(given)
            refs[name] = database.artifacts.put_file(path, "json.gz" if path.suffix == ".gz" else "json")
    maker = SubstituteMaker(
        parameters=p,
        duplicates=campaign.candidates.duplicates,
        entries=refs.get("entries"),
        energies=refs.get("energies"),
    )
    wanted: list[dict[str, Any]] = [
        {"parent_id": s.parent_id, "old": s.old, "new": s.new, "key": key}
        | ({} if s.fraction == 1 else {"fraction": s.fraction})
        for key, s in group
    ]
    return maker.make(wanted)


def _pool(p: SubstitutionParameters, sources: Sequence[str]) -> dict[str, Any]:
    """Return the query for the structures that substitutions of some sources are to balance."""
    if list(sources) != p.only_aimd:
        return explored(p.only_aimd)
    made = {"source": "substituted", "parent_source": {"$in": list(sources)}}
    return {**ACCEPTED, "$or": [{"source": {"$in": list(sources)}}, made]}


def _parents(database: Database, p: SubstitutionParameters, sources: Sequence[str]) -> list[tuple[str, list[str]]]:
    query = {**ACCEPTED, "source": {"$in": list(sources)}, "elements": {"$in": list(p.from_halogens)}}
    found = database.own("candidates").find(query, {"candidate_id": 1, "elements": 1}).sort("candidate_id", 1)
    return [(d["candidate_id"], d["elements"]) for d in found]


def _choose(
    database: Database,
    parents: Sequence[tuple[str, list[str]]],
    p: SubstitutionParameters,
    balanced: dict[str, Any],
    is_queued: Callable[[Substitution], bool],
) -> list[Substitution]:
    """Return the substitutions of all parents; one that is made or queued stays chosen, whatever the pool is now."""
    made: dict[str, set[tuple[str, str]]] = defaultdict(set)
    query = {"source": "substituted", "parent_id": {"$in": [i for i, _ in parents]}}
    for d in database.own("candidates").find(query, {"parent_id": 1, "decisions.old": 1, "decisions.new": 1}):
        made[d["parent_id"]].add((d["decisions"]["old"], d["decisions"]["new"]))
    kept = []
    for parent_id, elements in parents:
        possible = possible_substitutions(elements, p)
        own = [
            pair
            for pair in possible
            if pair in made[parent_id] or any(is_queued(Substitution(parent_id, *pair, f)) for f in p.fractions)
        ][: p.per_parent]
        made[parent_id] = set(own)
        kept += [Substitution(parent_id, *pair, fraction) for pair in own for fraction in p.fractions]
    pool = database.own("candidates").find(balanced, {"elements": 1})
    counts = halogen_counts([d["elements"] for d in pool])
    return kept + choose_substitutions(parents, counts, p, made)


def _present(database: Database, keys: Sequence[str]) -> set[str]:
    return {d["key"] for d in database["candidates"].find({"key": {"$in": list(keys)}}, {"key": 1})}


def _count(chosen: Sequence[Substitution]) -> dict[tuple[str, str], int]:
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for s in chosen:
        counts[s.old, s.new] += 1
    return counts
