"""From a campaign and what the collections hold to the work that is left; the other module that joins stages.

Planning reads, counts and hashes; it changes nothing. What it returns is submitted by
``aqvolt_launch.submit`` at most once per key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pymatgen.core import Structure

from aqvolt_flows.benchmarks.jobs import EVScanMaker, ForceBinsMaker, ev_scan_key, force_bins_key
from aqvolt_flows.campaign import Campaign
from aqvolt_flows.candidates.jobs import SelectMaker
from aqvolt_flows.candidates.pool import Intake, pool_counts, prototype_records
from aqvolt_flows.datasets.jobs import ReleaseMaker
from aqvolt_flows.datasets.release import labels_fingerprint
from aqvolt_flows.exploration.aimd import AIMDMaker, aimd_key
from aqvolt_flows.exploration.mlmd import MLMDMaker
from aqvolt_flows.exploration.schedules import Run, group_runs, plan_runs
from aqvolt_flows.figures.jobs import ReportMaker
from aqvolt_flows.identity import content_key
from aqvolt_flows.models import resolve_model
from aqvolt_flows.planning_generation import plan_lithiate, plan_substitute
from aqvolt_flows.planning_labeling import plan_label
from aqvolt_flows.planning_sampling import plan_rounds
from aqvolt_flows.potentials import model_hash
from aqvolt_flows.schemas.candidate import ACCEPTED
from aqvolt_flows.stores import Database
from aqvolt_flows.training.jobs import TwoStageTrainMaker, train_key
from aqvolt_flows.work import Plan, WorkItem

Planner = Callable[[Campaign, Database, frozenset[str]], Plan]


#: What decides a selection, and so its key; rules of other routes may change without selecting again.
_SELECTION = (
    "prototypes",
    "require_elements",
    "require_any_of",
    "exclude_elements",
    "exclude_radioactive",
    "exclude_noble_gases",
)


def plan_candidates(campaign: Campaign, database: Database, _claimed: frozenset[str] = frozenset()) -> Plan:
    """Return the selection of the campaign's structures."""
    p = campaign.candidates
    intake = Intake(p, source="user")
    documents = [intake.document(r) for r in prototype_records(p)]
    ids = sorted({d.candidate_id for d in documents})
    present = database["candidates"].count_documents({"candidate_id": {"$in": ids}})
    key = content_key("select/1", parameters=p.model_dump(mode="json", include=set(_SELECTION)))
    accepted = sum(d.status == "accepted" for d in documents)
    missing = (
        []
        if documents
        else ["the campaign names no structure; add candidates.prototypes or run 'aqvolt candidates import FILE'"]
    )
    item = WorkItem(
        "candidates",
        key,
        f"select {len(documents)} candidates",
        lambda: SelectMaker(parameters=p.model_dump(mode="json")).make(key),
        done=bool(ids) and present == len(ids),
    )
    facts: dict[str, Any] = {
        "offered": len(documents),
        "accepted": accepted,
        "rejected": len(documents) - accepted,
        "known": present,
    }
    facts |= _pool_facts(database)
    return Plan("candidates", [item] if documents else [], missing, facts)


def _pool_facts(database: Database) -> dict[str, Any]:
    """Return what the pool holds already: candidates and hosts by source, what was left out by reason."""
    facts: dict[str, Any] = {}
    for row in pool_counts(database):
        what = "hosts" if row["role"] == "host" else "candidates"
        name, part = (
            (f"pool_{what}", row["source"]) if row["status"] == "accepted" else (f"left_out_{what}", row["reason"])
        )
        by = facts.setdefault(name, {})
        by[part] = by.get(part, 0) + row["n"]
    return facts


def _wanted_runs(campaign: Campaign, database: Database) -> list[Run]:
    accepted = database["candidates"].find(ACCEPTED, {"candidate_id": 1, "structure": 1}).sort("candidate_id", 1)
    pairs = [(d["candidate_id"], Structure.from_dict(d["structure"])) for d in accepted]
    return plan_runs(pairs, campaign.exploration, model_hash(campaign.exploration.potential))


def _finished(database: Database, runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    query = {"trajectory_id": {"$in": [r.trajectory_id for r in runs]}, "status": {"$in": ["completed", "failed"]}}
    return {d["trajectory_id"]: d for d in database["trajectories"].find(query, {"_id": 0})}


def plan_explore(campaign: Campaign, database: Database, claimed: frozenset[str] = frozenset()) -> Plan:
    """Return the batches of NpT runs that are neither finished nor queued."""
    p = campaign.exploration
    runs = _wanted_runs(campaign, database)
    finished = _finished(database, runs)
    queued = [r for r in runs if r.key in claimed and r.trajectory_id not in finished]
    todo = [r for r in runs if r.trajectory_id not in finished and r.key not in claimed]
    maker = MLMDMaker(parameters=p.model_dump(mode="json"))
    items = [
        WorkItem(
            "explore",
            content_key("explore-batch/1", runs=sorted(r.key for r in group)),
            f"NpT of {len(group)} systems, {sum(r.n_atoms for r in group)} atoms",
            _bind(maker.make, _plain_runs(group)),
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
    }
    return Plan("explore", items, _no_input(runs, "accepted candidate", "aqvolt candidates select"), facts)


def _plain_runs(runs: Iterable[Run]) -> list[dict[str, Any]]:
    return [{k: getattr(r, k) for k in ("trajectory_id", "key", "candidate_id", "temperature_k", "seed")} for r in runs]


def _bind(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return lambda: function(*arguments)


def _no_input(found: Sequence[Any], what: str, command: str) -> list[str]:
    return [] if found else [f"there is no {what} yet; run '{command}' and 'aqvolt work'"]


def plan_sample(campaign: Campaign, database: Database, claimed: frozenset[str] = frozenset()) -> Plan:
    """Return one round of encoding and choosing over those finished trajectories that no earlier round saw."""
    runs = _wanted_runs(campaign, database)
    finished = _finished(database, runs)
    missing = _no_input(runs, "trajectory", "aqvolt submit explore")
    if len(finished) < len(runs):
        missing = [
            f"{len(runs) - len(finished)} of {len(runs)} trajectories are not finished; run 'aqvolt submit "
            "explore' and 'aqvolt work'"
        ]
    return plan_rounds(campaign.sampling, database, finished, missing, claimed)


def plan_aimd(campaign: Campaign, database: Database, _claimed: frozenset[str] = frozenset()) -> Plan:
    """Return one r2SCAN NpT run per accepted candidate and temperature."""
    p = campaign.aimd
    updates = campaign.labeling.incar_updates  # of the statics, too: labels of both are of one protocol
    maker = AIMDMaker(parameters=p.model_dump(mode="json"), incar_updates=updates)
    candidates = list(database["candidates"].find(ACCEPTED, {"candidate_id": 1, "formula": 1}).sort("candidate_id", 1))
    pairs = [(c, t, aimd_key(c["candidate_id"], t, p, updates)) for c in candidates for t in p.temperatures_k]
    done = set(database["trajectories"].distinct("key", {"engine": "aimd", "status": {"$in": ["completed", "failed"]}}))
    items = [
        WorkItem(
            "aimd",
            key,
            f"AIMD {c['formula']} {t:g} K",
            _bind(maker.make, c["candidate_id"], t, key),
            "vasp",
            done=key in done,
        )
        for c, t, key in pairs
    ]
    facts = {"runs": len(items), "finished": sum(i.done for i in items), "steps_each": p.n_steps}
    return Plan("aimd", items, _no_input(candidates, "accepted candidate", "aqvolt candidates select"), facts)


def plan_release(campaign: Campaign, database: Database, _claimed: frozenset[str] = frozenset()) -> Plan:
    """Return the release that the labels of now make."""
    p = campaign.release
    labels = database["labels"].count_documents({"status": "valid"})
    missing = (
        []
        if labels
        else ["there is no valid label yet; run 'aqvolt submit label', 'aqvolt work' and 'aqvolt build labels'"]
    )
    if missing:
        return Plan("release", [], missing, {"labels": 0})
    key = content_key("release/1", labels=labels_fingerprint(database, p), parameters=p)
    item = WorkItem(
        "release",
        key,
        f"release {p.name}",
        _bind(ReleaseMaker(parameters=p.model_dump(mode="json")).make, key),
        done=database["releases"].find_one({"key": key}) is not None,
    )
    return Plan("release", [item], missing, {"labels": labels})


def latest_release(database: Database, name: str) -> dict[str, Any] | None:
    """Return the newest release of a name, or None."""
    return database["releases"].find_one({"name": name}, {"_id": 0}, sort=[("last_updated", -1)])


def plan_train(campaign: Campaign, database: Database, _claimed: frozenset[str] = frozenset()) -> Plan:
    """Return the two-stage training on the newest release."""
    p = campaign.training
    release = latest_release(database, campaign.release.name)
    if release is None:
        return Plan(
            "train",
            [],
            [f"there is no release {campaign.release.name!r} yet; run 'aqvolt release create {campaign.release.name}'"],
        )
    key = train_key(p, release["content_hash"])
    maker = TwoStageTrainMaker(parameters=p.model_dump(mode="json"))
    item = WorkItem(
        "train",
        key,
        f"{p.architecture} on {release['release_id']}",
        _bind(maker.make, release["release_id"], release["content_hash"], key),
        category="gpu",
        done=database["models"].find_one({"key": key}) is not None,
    )
    return Plan("train", [item], [], {"release": release["release_id"], "counts": release["counts"]})


def plan_benchmark(campaign: Campaign, database: Database, _claimed: frozenset[str] = frozenset()) -> Plan:
    """Return every benchmark of the exploring potential and of the models trained on the newest release."""
    p = campaign.benchmarks
    release = latest_release(database, campaign.release.name)
    candidates = [d["candidate_id"] for d in database["candidates"].find(ACCEPTED).sort("candidate_id", 1)]
    models = [campaign.exploration.potential]
    if release:
        trained = (
            database["models"].find({"content_hash": release["content_hash"], "status": "trained"}).sort("model_id", 1)
        )
        models += [d["model_id"] for d in trained]
    items = []
    scan, bins = (
        EVScanMaker(parameters=p.ev_scan.model_dump(mode="json")),
        ForceBinsMaker(parameters=p.force_bins.model_dump(mode="json")),
    )
    for name in models:
        model = resolve_model(database, name)
        key = ev_scan_key(model, p.ev_scan, candidates)
        items.append(_benchmark(database, "ev_scan", name, key, _bind(scan.make, name, candidates, key)))
        if release:
            key = force_bins_key(model, p.force_bins, release["content_hash"])
            items.append(
                _benchmark(database, "force_bins", name, key, _bind(bins.make, name, release["release_id"], key))
            )
    missing = _no_input(candidates, "accepted candidate", "aqvolt candidates select")
    return Plan("benchmark", items, missing, {"models": models, "release": release["release_id"] if release else None})


def _benchmark(database: Database, name: str, model: str, key: str, make: Callable[[], Any]) -> WorkItem:
    done = database["benchmarks"].find_one({"key": key}) is not None
    return WorkItem("benchmark", key, f"{name} {model}", make, category="gpu", done=done)


def plan_report(campaign: Campaign, database: Database, _claimed: frozenset[str] = frozenset()) -> Plan:
    """Return the report on what the collections hold now."""
    state = {
        name: sorted(database[name].distinct(identity))
        for name, identity in (
            ("candidates", "candidate_id"),
            ("trajectories", "trajectory_id"),
            ("frames", "frame_id"),
            ("labels", "label_id"),
            ("releases", "release_id"),
            ("models", "model_id"),
            ("benchmarks", "benchmark_id"),
        )
    }
    key = content_key("report/1", campaign=campaign.name, state=state)
    done = database["outputs"].find_one({"metadata.aqvolt.key": key}) is not None
    item = WorkItem("report", key, "report", _bind(ReportMaker().make, key), done=done)
    return Plan("report", [item], [], {name: len(ids) for name, ids in state.items()})


PLANNERS: dict[str, Planner] = {
    "candidates": plan_candidates,
    "lithiate": plan_lithiate,
    "substitute": plan_substitute,
    "explore": plan_explore,
    "sample": plan_sample,
    "label": plan_label,
    "aimd": plan_aimd,
    "release": plan_release,
    "train": plan_train,
    "benchmark": plan_benchmark,
    "report": plan_report,
}
