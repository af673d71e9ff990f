"""Which candidates get ab-initio MD, and at which temperatures (section 2.2: a subset of the MatPES Li halides).

The choice depends on the candidates and the parameters alone, and candidates whose runs exist or are queued keep their
place, so that a plan made later, of more candidates, wants no run in the place of one that was made.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from aqvolt_flows.errors import InputError
from aqvolt_flows.exploration.aimd_inputs import aimd_keys
from aqvolt_flows.identity import content_hash
from aqvolt_flows.schemas.candidate import ACCEPTED
from aqvolt_flows.schemas.parameters import AIMDParameters, AIMDSystems
from aqvolt_flows.stores import Database, by_ids

_FIELDS = {"_id": 0, "candidate_id": 1, "formula": 1, "source": 1, "parent_id": 1, "parent_source": 1}


def suitable_candidates(database: Database, systems: AIMDSystems) -> list[dict[str, Any]]:
    """Return the campaign's accepted candidates that fit, by identity: candidate_id, formula and source.

    Raises
    ------
    InputError
        If MongoDB does not understand the query.
    """
    from pymongo.errors import OperationFailure

    clauses: list[dict[str, Any]] = [ACCEPTED, systems.query]
    if systems.require_elements:
        clauses.append({"elements": {"$all": systems.require_elements}})
    if systems.exclude_elements:
        clauses.append({"elements": {"$nin": systems.exclude_elements}})
    if systems.max_atoms is not None:
        clauses.append({"n_atoms": {"$lte": systems.max_atoms}})
    chosen = bool(systems.sources or systems.substituted_from)
    if chosen:
        sources = [*systems.sources, *(["substituted"] if systems.substituted_from else [])]
        clauses.append({"source": {"$in": sources}})
    query = {"$and": [c for c in clauses if c]}
    try:
        found = list(database.own("candidates").find(query, _FIELDS).sort("candidate_id", 1))
    except OperationFailure as error:
        said = (error.details or {}).get("errmsg", str(error))
        raise InputError(
            f"MongoDB does not understand aimd.systems.query {systems.query} ({said}); correct the query."
        ) from None
    if not chosen or "substituted" in systems.sources:
        return found
    origin = _sources_of_parents(database, [d for d in found if d["source"] == "substituted"])
    wanted = set(systems.substituted_from)
    return [d for d in found if d["source"] != "substituted" or origin.get(d["candidate_id"]) in wanted]


def _sources_of_parents(database: Database, children: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the source of each child's parent; children written before they told it are looked up."""
    untold = sorted({d["parent_id"] for d in children if not d.get("parent_source") and d.get("parent_id")})
    found = by_ids(database["candidates"], "candidate_id", untold, {"_id": 0, "candidate_id": 1, "source": 1})
    known = {d["candidate_id"]: d["source"] for d in found}
    return {d["candidate_id"]: d.get("parent_source") or known.get(d.get("parent_id"), "") for d in children}


def temperatures_of(candidate_id: str, parameters: AIMDParameters, first: Collection[float] = ()) -> list[float]:
    """Return the temperatures (K) at which a candidate runs, in the order of the parameters.

    With fewer than all, those of ``first`` and then those whose hash with the identity is smallest: every temperature
    gets about the same number of candidates, and none of a candidate's changes when others come.
    """
    every, n = parameters.temperatures_k, parameters.temperatures_per_system
    if n is None or n >= len(every):
        return list(every)
    chosen = sorted(every, key=lambda t: (t not in first, content_hash(["aimd temperature", candidate_id, t])))[:n]
    return [t for t in every if t in chosen]


def chosen_runs(
    candidates: Sequence[Mapping[str, Any]],
    parameters: AIMDParameters,
    incar_updates: Mapping[str, Any],
    begun: Collection[str],
) -> list[tuple[Mapping[str, Any], float, str]]:
    """Return the runs that a campaign wants: candidate, temperature (K) and key.

    Parameters
    ----------
    candidates
        Those that fit.
    parameters
        How many of them, and at which temperatures.
    incar_updates
        Of the statics; part of the key.
    begun
        Keys of runs that exist or are queued; they come first where not all are wanted.
    """
    key_of = aimd_keys(parameters, incar_updates)

    def of(c: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], float, str]]:
        identity = c["candidate_id"]
        keys = {t: key_of(identity, t) for t in parameters.temperatures_k}
        made = [t for t, key in keys.items() if key in begun]
        return [(c, t, keys[t]) for t in temperatures_of(identity, parameters, made)]

    runs = [of(c) for c in candidates]
    if parameters.max_systems is not None and len(runs) > parameters.max_systems:
        places = [
            (all(key not in begun for _, _, key in of_one), content_hash(["aimd system", c["candidate_id"]]), index)
            for index, (c, of_one) in enumerate(zip(candidates, runs, strict=True))
        ]
        kept = sorted(index for _, _, index in sorted(places)[: parameters.max_systems])
        runs = [runs[index] for index in kept]
    return [run for of_one in runs for run in of_one]
