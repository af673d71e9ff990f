"""Preflight of labeling: can the labeler run here, what is left to do, and what will it cost."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pymongo.errors import PyMongoError

from aqvolt_flows.campaign import Campaign
from aqvolt_flows.errors import AqvoltError, InputError
from aqvolt_flows.labeling.plan import cost_model, plan_label
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_launch.launchpad import KEY_FIELD, ensure_launchpad

Status = Literal["ok", "warn", "fail"]
#: WAVECAR and CHGCAR of one large static, while it runs, GiB; the paper's cells have up to some hundred atoms.
SCRATCH_GIB = 5.0


@dataclass(frozen=True)
class Check:
    """One row: what was checked, how it stands, what was seen, and what to do."""

    check: str
    status: Status
    detail: str
    todo: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the fields as a mapping."""
        return asdict(self)


def problem(check: str, status: Status, error: AqvoltError) -> Check:
    """Return the row of an error that teaches: up to its last semicolon is what was seen, the rest what to do."""
    detail, _, todo = str(error).rpartition("; ")
    return Check(check, status, detail or str(error), todo if detail else "")


def labeler_checks(settings: AqvoltSettings, campaign: Campaign, elements: Iterable[str]) -> Iterator[Check]:
    """Yield one row for each thing that VASP and GPAW need here, and for scratch space.

    What the campaign's labeler needs and does not find is a failure, what the other needs a warning.
    """
    yield from _vasp(campaign, sorted(set(elements)))
    yield from _potcars_of_earlier_labels(settings, campaign, sorted(set(elements)))
    yield _gpaw(campaign)
    yield _scratch(settings, campaign)


def _vasp(campaign: Campaign, elements: list[str]) -> Iterator[Check]:
    """Command, theory level, POTCAR folder, and the POTCAR of every element."""
    from aqvolt_flows.vasp.drift import check_installed
    from aqvolt_flows.vasp.inputs import vasp_command
    from aqvolt_flows.vasp.potcars import potcar_folder, potcar_report
    from aqvolt_flows.vasp.settings import potcar_functional

    severity: Status = "fail" if campaign.labeling.labeler == "vasp" else "warn"

    def row(name: str, look: Callable[[], str]) -> Check:
        try:
            return Check(name, "ok", look())
        except AqvoltError as error:
            return problem(name, severity, error)

    def settings_frozen() -> str:
        check_installed()
        return "the installed MatPES settings are the frozen ones"

    yield row("VASP: command", lambda: f"VASP_CMD {vasp_command()!r}")
    yield row("VASP: theory level", settings_frozen)
    folder = row("VASP: POTCAR folder", lambda: str(potcar_folder()))
    yield folder
    if folder.status != "ok":
        named = f"needed for {', '.join(elements)}" if elements else "the campaign has no candidates yet"
        todo = "Set PMG_VASP_PSP_DIR first."
        yield Check(f"VASP: POTCARs {potcar_functional()}", severity, f"not looked at; {named}", todo)
        return
    if not elements:
        yield Check("VASP: POTCARs", "warn", "the campaign has no candidates yet", "Select candidates, then ask again.")
    for found in potcar_report(elements, expected=campaign.labeling.potcar_hashes):
        name = f"VASP: POTCAR {found.element}"
        if found.status == "ok":
            yield Check(name, "ok", f"{found.symbol}, SHA-256 {found.sha256[:12]}…")
        else:
            todo = f"Put {found.symbol or 'it'} of {potcar_functional()} into the folder of POTCARs."
            yield Check(name, severity, f"{found.status}: {found.detail}", todo)


def _potcars_of_earlier_labels(settings: AqvoltSettings, campaign: Campaign, elements: list[str]) -> Iterator[Check]:
    """Yield a row if labels of this database were made with other POTCAR texts than this machine has."""
    from aqvolt_flows.vasp.potcars import potcar_drift, potcar_report

    query = {"metadata.aqvolt.stage": "label", "output.protocol.code": "vasp"}
    try:
        now = {row.element: row.sha256 for row in potcar_report(elements) if row.status == "ok"}
        used = Database.connect(settings)["outputs"].distinct("output.protocol.potcar_hashes", query)
    except (AqvoltError, PyMongoError):
        return  # other rows say that there are no POTCARs, or no database
    for element, (earlier, here) in potcar_drift(used, now).items():
        yield Check(
            f"VASP: POTCAR {element} of earlier labels",
            "fail" if campaign.labeling.labeler == "vasp" else "warn",
            f"labels were made with SHA-256 {earlier[:12]}…, here it is {here[:12]}…",
            "Use one file for all labels, and name it in labeling.potcar_hashes.",
        )


def _gpaw(campaign: Campaign) -> Check:
    if importlib.util.find_spec("gpaw") is not None:
        return Check("GPAW", "ok", "importable")
    needed = campaign.labeling.labeler == "gpaw"
    return Check(
        "GPAW",
        "fail" if needed else "warn",
        "not installed" + ("" if needed else "; only labeler gpaw needs it"),
        "pip install 'aqvolt-flows[gpaw]'.",
    )


def _scratch(settings: AqvoltSettings, campaign: Campaign) -> Check:
    """Free space where Fireworks run."""
    folder = settings.path(settings.launch_dir)
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(existing).free / 2**30
    detail = f"{free:.1f} GiB free in {folder}"
    if free >= SCRATCH_GIB:
        return Check("scratch space", "ok", detail)
    severity: Status = "fail" if campaign.labeling.labeler == "vasp" else "warn"
    return Check("scratch space", severity, f"{detail}, one VASP run may need {SCRATCH_GIB:g}", "Set launch_dir.")


def frame_elements(database: Database) -> list[str]:
    """Return the elements of the selected frames."""
    return sorted(str(element) for element in database["frames"].distinct("elements"))


def label_counts(campaign: Campaign, settings: AqvoltSettings) -> dict[str, Any]:
    """Return what is left to label and what it will cost; changes nothing.

    Returns
    -------
    dict
        ``frames``; ``to_run``; ``labelled`` (outcomes by status); ``again`` (failures that another run may cure, by
        reason); ``in_queue`` (by workflow state); ``held`` (by reason); ``forecast_core_hours`` and
        ``forecast_error`` for what is to run and in the queue; ``forecast_from`` (what it is made from, or why there
        is none).
    """
    from aqvolt_flows.labeling.protocols import protocol_for

    database = Database.connect(settings)
    launchpad = ensure_launchpad(settings)
    fields = {KEY_FIELD: 1, "state": 1, "_id": 0}
    query = {"metadata.aqvolt.stage": "label"}
    states = {
        w["metadata"]["aqvolt"]["key"]: sys.intern(w["state"])
        for w in launchpad.workflows.find(query, fields).batch_size(5000)
    }
    plan = plan_label(campaign, database)
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
    outcomes = database["outputs"].aggregate([{"$match": match}, {"$group": group}])
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
