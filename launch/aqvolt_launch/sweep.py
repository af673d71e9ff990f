"""The ablation that the paper leaves open: release, training and benchmark for each of several force limits.

Section 2.3 leaves labels above 800 eV/Å out of training and does not test other limits. Here every limit gives a
release of its own, every release a model, and all models meet one test set: that of the release with the highest limit.
A frame's split depends on its identity alone, so that no limit trains on what that set tests. Each call submits what
can be submitted now and returns a row per limit; what is submitted or finished already is not submitted again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aqvolt_flows.benchmark_registry import BENCHMARKS, parameters_of
from aqvolt_flows.benchmarks.base import Wanted
from aqvolt_flows.benchmarks.jobs import BenchmarkMaker
from aqvolt_flows.campaign import Campaign
from aqvolt_flows.errors import InputError
from aqvolt_flows.models import resolve_model
from aqvolt_flows.releases import latest_release
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_flows.work import WorkItem, bind
from aqvolt_launch import chain
from aqvolt_launch.submission.submit import submit

BENCHMARK = "force_bins"


def variants(campaign: Campaign, limits: Sequence[float]) -> dict[float, Campaign]:
    """Return force limit (eV/Å), ascending → the campaign whose release is called ``NAME-fLIMIT``.

    Raises
    ------
    InputError
        If there are fewer than two limits, one is not positive, or the campaign trains on a mixture.
    """
    wanted = sorted(set(limits))
    if len(wanted) < 2 or wanted[0] <= 0:
        raise InputError(f"The force limits are {list(limits)}; give at least two different ones above 0, in eV/Å.")
    if campaign.training.mixture:
        raise InputError(
            f"The campaign {campaign.name} trains on a mixture, whose releases have their own limits; sweep a campaign "
            "with one release."
        )
    found = {}
    for limit in wanted:
        release = campaign.release.model_copy(
            update={
                "name": f"{campaign.release.name}-f{limit:g}",
                "max_force_ev_per_a": limit,
                "exports": sorted({*campaign.release.exports, "aselmdb"}),
            }
        )
        found[limit] = campaign.model_copy(update={"release": release})
    return found


def advance(settings: AqvoltSettings, campaign: Campaign, limits: Sequence[float]) -> list[dict[str, Any]]:
    """Submit what can be submitted now, and return one row per limit.

    Parameters
    ----------
    settings
        The project.
    campaign
        Its release and training parameters, but for the limit and the release's name.
    limits
        ``max_force_ev_per_a`` of the releases, eV/Å.

    Raises
    ------
    InputError
        See :func:`variants`; or if a training cannot be planned.
    """
    chosen = variants(campaign, limits)
    database = chain.database_of(campaign, settings)
    rows = []
    for limit, variant in chosen.items():
        chain.submit_stage("release", variant, settings)
        release = latest_release(database, variant.release.name)
        row: dict[str, Any] = {"max_force_ev_per_a": limit, "release": None, "train": None, "model": None}
        if release is not None:
            chain.submit_stage("train", variant, settings)
            row |= {"release": release["release_id"], "train": release["counts"]["by_split"].get("train")}
            row["model"] = _model(database, release)
        rows.append(row)
    common = latest_release(database, list(chosen.values())[-1].release.name)
    if common is not None:
        _benchmark(settings, campaign, database, common, rows)
    return rows


def _model(database: Database, release: dict[str, Any]) -> str | None:
    query = {"content_hash": release["content_hash"], "status": "trained"}
    found = database.own("models").find_one(query, sort=[("last_updated", -1)])
    return str(found["model_id"]) if found else None


def _benchmark(
    settings: AqvoltSettings,
    campaign: Campaign,
    database: Database,
    common: dict[str, Any],
    rows: Sequence[dict[str, Any]],
) -> None:
    """Submit the force bins of every model on the common test set, and add to the rows what is finished."""
    benchmark = BENCHMARKS[BENCHMARK].load()
    parameters = parameters_of(benchmark, campaign.benchmarks).model_copy(update={"split": "test"})
    subject = benchmark.subject(Wanted([], common))
    if subject is None:
        return
    items = []
    for row in rows:
        if row["model"] is None:
            continue
        key = benchmark.key(resolve_model(database, row["model"]), parameters, subject)
        document = database["benchmarks"].find_one({"key": key})
        maker = BenchmarkMaker(benchmark.job_name, benchmark.name, parameters)
        make = bind(maker.make, row["model"], subject.argument, key)
        name = f"{benchmark.name} {row['model']}"
        items.append(WorkItem("benchmark", key, name, make, category="gpu", done=document is not None))
        if document is not None:
            row |= {"tested_on": document["dataset"], "status": document["status"]}
            row |= {n: v for n, v in benchmark.metrics_of(document["metrics"]).items() if n != "bins"}
    if items:
        submit(items, settings, campaign=campaign.name)
