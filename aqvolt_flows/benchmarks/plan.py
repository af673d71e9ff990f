"""Plan the benchmarks of the exploring potential and of trained models."""

from __future__ import annotations

from functools import partial

from aqvolt_flows.benchmark_registry import BENCHMARKS, parameters_of
from aqvolt_flows.benchmarks.base import Wanted
from aqvolt_flows.benchmarks.jobs import BenchmarkMaker
from aqvolt_flows.campaign import Campaign
from aqvolt_flows.models import resolve_model
from aqvolt_flows.releases import latest_release
from aqvolt_flows.schemas.candidate import ACCEPTED
from aqvolt_flows.stores import Database
from aqvolt_flows.work import Plan, WorkItem, bind, no_input


def plan_benchmark(campaign: Campaign, database: Database, _claimed: frozenset[str] = frozenset()) -> Plan:
    """Plan every benchmark of the exploring potential and of the models trained on the newest release.

    The benchmarks are those that the campaign's group names: E–V scan and force bins in any case, and plug-ins.
    """
    release = latest_release(database, campaign.release.name)
    candidates = [d["candidate_id"] for d in database.own("candidates").find(ACCEPTED).sort("candidate_id", 1)]
    models = [campaign.exploration.potential]
    if release:
        wanted_models = {"content_hash": release["content_hash"], "status": "trained"}
        trained = database.own("models").find(wanted_models).sort("model_id", 1)
        models += [d["model_id"] for d in trained]
    named = campaign.benchmarks.named()
    chosen = [(b, parameters_of(b, campaign.benchmarks)) for b in (BENCHMARKS[n].load() for n in named)]
    wanted = Wanted(candidates, release)
    items = []
    for name in models:
        model = resolve_model(database, name)
        for benchmark, parameters in chosen:
            subject = benchmark.subject(wanted)
            if subject is None:
                continue
            key = benchmark.key(model, parameters, subject)
            maker = BenchmarkMaker(benchmark.job_name, benchmark.name, parameters)
            done = database["benchmarks"].find_one({"key": key}) is not None
            make = bind(maker.make, name, subject.argument, key)
            items.append(WorkItem("benchmark", key, f"{benchmark.name} {name}", make, category="gpu", done=done))
    missing = no_input(candidates, "accepted candidate", "aqvolt candidates select")
    facts = {"models": models, "release": release["release_id"] if release else None}
    return Plan(
        "benchmark", items, missing, facts, partial(database.adopt, "benchmarks", [i.key for i in items], "key")
    )
