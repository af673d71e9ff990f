"""Plan NpT runs and AIMD: what the campaign wants and the collections lack."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from pymatgen.core import Structure

from aqvolt_flows.campaign import Campaign
from aqvolt_flows.exploration.aimd import AIMDMaker, AIMDRunMaker
from aqvolt_flows.exploration.aimd_choice import chosen_runs, suitable_candidates
from aqvolt_flows.exploration.mlmd import MLMDMaker
from aqvolt_flows.exploration.schedules import Run, group_runs, plan_runs
from aqvolt_flows.identity import content_key
from aqvolt_flows.potentials import model_hash
from aqvolt_flows.schemas.candidate import ACCEPTED, explored
from aqvolt_flows.schemas.parameters import AIMDSystems
from aqvolt_flows.schemas.trajectory import ENDED
from aqvolt_flows.stores import Database
from aqvolt_flows.work import Plan, WorkItem, bind, no_input


def wanted_runs(campaign: Campaign, database: Database) -> list[Run]:
    """Return the NpT runs that a campaign wants of the accepted candidates."""
    query = explored(campaign.substitution.only_aimd)
    accepted = database.own("candidates").find(query, {"candidate_id": 1, "structure": 1}).sort("candidate_id", 1)
    pairs = [(d["candidate_id"], Structure.from_dict(d["structure"])) for d in accepted]
    return plan_runs(pairs, campaign.exploration, model_hash(campaign.exploration.potential))


def finished_runs(database: Database, runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Return trajectory_id → document of the runs that have ended."""
    query = {"trajectory_id": {"$in": [r.trajectory_id for r in runs]}, "status": {"$in": list(ENDED)}}
    return {d["trajectory_id"]: d for d in database["trajectories"].find(query, {"_id": 0})}


def plan_explore(campaign: Campaign, database: Database, claimed: frozenset[str] = frozenset()) -> Plan:
    """Return the batches of NpT runs that are neither finished nor queued."""
    p = campaign.exploration
    runs = wanted_runs(campaign, database)
    finished = finished_runs(database, runs)
    queued = [r for r in runs if r.key in claimed and r.trajectory_id not in finished]
    todo = [r for r in runs if r.trajectory_id not in finished and r.key not in claimed]
    maker = MLMDMaker(parameters=p)
    items = [
        WorkItem(
            "explore",
            content_key("explore-batch/1", runs=sorted(r.key for r in group)),
            f"NpT of {len(group)} systems, {sum(r.n_atoms for r in group)} atoms",
            bind(maker.make, _plain_runs(group)),
            category="gpu",
            units=tuple(r.key for r in group),
        )
        for group in group_runs(todo, p.max_job_atoms or p.max_batch_atoms)
    ]
    facts = {
        "runs": len(runs),
        "finished": len(finished),
        "queued": len(queued),
        "to_run": len(todo),
        "atom_steps": sum(r.n_atoms for r in todo) * p.n_steps,
        "frames": len(todo) * (p.n_steps // p.stride + 1),
        "small_cells": sum(r.small for r in todo),
    }
    missing = no_input(runs, "accepted candidate", "aqvolt candidates select")
    adopt = partial(database.adopt, "trajectories", list(finished))
    return Plan("explore", items, missing, facts, adopt, tuple(r.key for r in queued))


def _plain_runs(runs: Iterable[Run]) -> list[dict[str, Any]]:
    return [{k: getattr(r, k) for k in ("trajectory_id", "key", "candidate_id", "temperature_k", "seed")} for r in runs]


def plan_aimd(campaign: Campaign, database: Database, claimed: frozenset[str] = frozenset()) -> Plan:
    """Return the r2SCAN NpT runs of the candidates that the campaign chooses for ab-initio MD."""
    p = campaign.aimd
    updates = campaign.labeling.incar_updates  # of the statics, too: labels of both are of one protocol
    maker = AIMDRunMaker(aimd_maker=AIMDMaker(parameters=p, incar_updates=updates))
    accepted = database.own("candidates").count_documents(ACCEPTED)
    suitable = suitable_candidates(database, p.systems)
    begun = database["trajectories"].distinct("key", {"engine": "aimd"})
    runs = chosen_runs(suitable, p, updates, claimed.union(begun))
    done = set(database["trajectories"].distinct("key", {"engine": "aimd", "status": {"$in": list(ENDED)}}))
    items = [
        WorkItem(
            "aimd",
            key,
            f"AIMD {c['formula']} {t:g} K",
            bind(maker.make, c["candidate_id"], t, key),
            "vasp",
            done=key in done,
        )
        for c, t, key in runs
    ]
    stride = campaign.labeling.aimd_label_stride
    facts = {
        "accepted": accepted,
        "suitable": len(suitable),
        "systems": len({c["candidate_id"] for c, _, _ in runs}),
        "runs": len(items),
        "finished": sum(i.done for i in items),
        "steps_each": p.n_steps,
        "labels": len(items) * -(-p.n_steps // stride),
    }
    adopt = partial(database.adopt, "trajectories", [key for _, _, key in runs if key in done], "key")
    missing = no_input(range(accepted), "accepted candidate", "aqvolt candidates select")
    if accepted and not suitable:
        missing = [f"none of {accepted} accepted candidates fits aimd.systems ({_asked(p.systems)}); change it"]
    return Plan("aimd", items, missing, facts, adopt)


def _asked(systems: AIMDSystems) -> str:
    return ", ".join(f"{name}: {value}" for name, value in systems.model_dump(exclude_defaults=True).items())
