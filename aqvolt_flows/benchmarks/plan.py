"""Plan the benchmarks of the exploring potential and of trained models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aqvolt_flows.benchmarks.jobs import EVScanMaker, ForceBinsMaker, ev_scan_key, force_bins_key
from aqvolt_flows.campaign import Campaign
from aqvolt_flows.models import resolve_model
from aqvolt_flows.releases import latest_release
from aqvolt_flows.schemas.candidate import ACCEPTED
from aqvolt_flows.stores import Database
from aqvolt_flows.work import Plan, WorkItem, bind, no_input


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
        items.append(_benchmark(database, "ev_scan", name, key, bind(scan.make, name, candidates, key)))
        if release:
            key = force_bins_key(model, p.force_bins, release["content_hash"])
            items.append(
                _benchmark(database, "force_bins", name, key, bind(bins.make, name, release["release_id"], key))
            )
    missing = no_input(candidates, "accepted candidate", "aqvolt candidates select")
    return Plan("benchmark", items, missing, {"models": models, "release": release["release_id"] if release else None})


def _benchmark(database: Database, name: str, model: str, key: str, make: Callable[[], Any]) -> WorkItem:
    done = database["benchmarks"].find_one({"key": key}) is not None
    return WorkItem("benchmark", key, f"{name} {model}", make, category="gpu", done=done)
