"""Preflight of labeling: can the labeler run here, what is left to do, and what will it cost."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from pymongo.errors import PyMongoError

from aqvolt_flows.campaign import Campaign
from aqvolt_flows.checks import Check, Status
from aqvolt_flows.errors import AqvoltError, InputError
from aqvolt_flows.labelers import LABELERS
from aqvolt_flows.labeling.plan import cost_model
from aqvolt_flows.registries import Registry
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_flows.work import Plan
from aqvolt_launch.launchpad import KEY_FIELD, get_launchpad


def labeler_checks(
    settings: AqvoltSettings, campaign: Campaign, elements: Iterable[str], connect: bool = True
) -> Iterator[Check]:
    """Yield one row for each thing that a labeler needs here, for plug-ins that did not load, and for scratch space.

    What the campaign's labeler needs and does not find is a failure, what the others need a warning. ``connect``
    False: the database is known to be away.
    """
    try:
        database: Database | None = Database.connect(settings) if connect else None
    except (AqvoltError, PyMongoError):
        database = None  # another row says so
    for labeler in LABELERS.values():
        yield from labeler.doctor_rows(campaign.labeling, sorted(set(elements)), database)
    yield from left_out(LABELERS)
    yield _scratch(settings, campaign)


def left_out(*registries: Registry[Any]) -> Iterator[Check]:
    """Yield a warning for each entry of another package that its registry left out."""
    for registry in registries:
        for sentence in registry.problems:
            yield Check("plug-in", "warn", sentence, "Mend or uninstall it; everything else works.")


def _scratch(settings: AqvoltSettings, campaign: Campaign) -> Check:
    """Free space where Fireworks run."""
    folder = settings.path(settings.launch_dir)
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(existing).free / 2**30
    detail = f"{free:.1f} GiB free in {folder}"
    wanted = max(labeler.scratch_gib for labeler in LABELERS.values())
    if free >= wanted:
        return Check("scratch space", "ok", detail)
    needed = LABELERS[campaign.labeling.labeler].scratch_gib > free
    severity: Status = "fail" if needed else "warn"
    return Check("scratch space", severity, f"{detail}, one run may need {wanted:g}", "Set launch_dir.")


def frame_elements(database: Database) -> list[str]:
    """Return the elements of the selected frames."""
    return sorted(str(element) for element in database.own("frames").distinct("elements"))


def label_counts(plan: Plan, campaign: Campaign, database: Database) -> dict[str, Any]:
    """Return what is left to label and what it will cost; changes nothing.

    Parameters
    ----------
    plan
        Of the stage ``label``.
    campaign
        Whose labels.
    database
        As the campaign sees it.

    Returns
    -------
    dict
        ``frames``; ``to_run``; ``labelled`` (outcomes by status); ``again`` (failures that another run may cure, by
        reason); ``in_queue`` (by workflow state); ``held`` (by reason); ``forecast_core_hours`` and
        ``forecast_error`` for what is to run and in the queue; ``forecast_from`` (what it is made from, or why there
        is none).
    """
    from aqvolt_flows.labeling.labelers import protocol_for

    launchpad = get_launchpad(database.settings)
    fields = {KEY_FIELD: 1, "state": 1, "_id": 0}
    query = {"metadata.aqvolt.stage": "label"}
    states = {
        w["metadata"]["aqvolt"]["key"]: sys.intern(w["state"])
        for w in launchpad.workflows.find(query, fields).batch_size(5000)
    }
    queued: Counter[str] = Counter()
    held: Counter[str] = Counter()
    again: Counter[str] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    to_run = 0
    for item in plan.items:
        if item.done:
            if item.again:
                again[item.again] += 1
            continue
        state = states.get(item.key, "")
        if item.held:
            held[item.held] += 1
        elif state:
            queued[state] += 1
        else:
            to_run += 1
        if not item.held and state not in {"COMPLETED", "FIZZLED", "DEFUSED", "ARCHIVED"}:
            sizes[int(item.tags["atoms"]), int(item.tags["electrons"])] += 1
    protocol = protocol_for(campaign.labeling)
    match = {"metadata.aqvolt.stage": "label", "output.protocol.settings_hash": protocol.settings_hash}
    group = {"_id": "$output.status", "n": {"$sum": 1}}
    outcomes = database.own("outputs").aggregate([{"$match": match}, {"$group": group}])
    counts = {
        "frames": len(plan.items),
        "to_run": to_run,
        "labelled": {row["_id"]: row["n"] for row in sorted(outcomes, key=lambda r: str(r["_id"]))},
        "again": dict(sorted(again.items())),
        "in_queue": dict(sorted(queued.items())),
        "held": dict(sorted(held.items())),
    }
    return counts | _forecast(campaign, database, sizes)


def _forecast(campaign: Campaign, database: Database, sizes: Counter[tuple[int, int]]) -> dict[str, Any]:
    try:
        model = cost_model(campaign, database)
    except InputError as error:
        return {"forecast_core_hours": None, "forecast_error": None, "forecast_from": str(error)}
    forecast = model.total(sizes)
    by = " and ".join(model.predictors) or "their mean"
    said = f"{model.runs} finished runs by {by}"
    said += (
        f"; one run is typically off by a factor of {model.factor:.2f}" if model.factor else "; too few for an error"
    )
    return {"forecast_core_hours": forecast.core_hours, "forecast_error": forecast.error, "forecast_from": said}
