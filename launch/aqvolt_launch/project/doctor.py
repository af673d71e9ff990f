"""The doctor: is everything there that the configured campaign needs, and if not, what to do."""

from __future__ import annotations

import importlib.util
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import fsspec
from pymongo.errors import PyMongoError

from aqvolt_flows.checks import Check, problem
from aqvolt_flows.errors import AqvoltError, InputError
from aqvolt_flows.quarantine import listed
from aqvolt_flows.schemas.candidate import ACCEPTED
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_launch.launchpad import get_launchpad
from aqvolt_launch.project.preflight import labeler_checks, left_out
from aqvolt_launch.runnable import waiting_refused

if TYPE_CHECKING:
    from aqvolt_flows.campaign import Campaign

MONGODB_VERSION = 7
_SHOWN = 5


#: What a machine may be for; ``submit``: it plans and submits, and runs nothing.
ROLES = ("all", "submit", "cpu", "gpu", "vasp")
_ALWAYS = ("database", "artifact store", "campaign")


def examine(
    settings: AqvoltSettings, campaign_name: str | None = None, all_campaigns: bool = False, role: str = "all"
) -> list[Check]:
    """Return one row per check; never raises for what it finds.

    What the campaign or the machine's role does not use is a warning, what they need and do not find a failure. A
    check that breaks is a failure of its own, and the others are made.

    Parameters
    ----------
    settings
        Where things are.
    campaign_name
        Another campaign than that of the settings: its file, or the name of a shipped one.
    all_campaigns
        Check what the elements of all campaigns' candidates need.
    role
        What the machine is for, one of :data:`ROLES`: a node that only submits needs neither VASP nor a GPU.

    Raises
    ------
    InputError
        If there is no such role.
    """
    if role not in ROLES:
        raise InputError(f"There is no role {role!r} of a machine; expected one of {', '.join(ROLES)}.")
    checks = [_database(settings)]
    if checks[0].status != "fail":  # a database that is away is waited for once
        checks += _whole("documents", lambda: _documents(settings))
    checks += _whole("artifact store", lambda: [_artifacts(settings)])
    campaign, row = _campaign(settings, campaign_name or settings.campaign)
    checks.append(row)
    if campaign is not None:
        up = checks[0].status != "fail"
        elements = campaign_elements(settings, campaign, all_campaigns) if up else prototype_elements(campaign)
        checks += _whole("models", lambda: _potentials(campaign))
        checks += _whole("labelers", lambda: labeler_checks(settings, campaign, elements, connect=up))
    checks += _whole("GPU", lambda: [_gpu(settings)])
    checks += _whole("plug-ins", _plugins)
    return [_for_role(check, role) for check in checks]


def _whole(name: str, look: Callable[[], Iterable[Check]]) -> list[Check]:
    """Return the rows of a look, those before it broke included."""
    rows: list[Check] = []
    try:
        rows.extend(look())
    except Exception as error:  # noqa: BLE001 - whatever is broken here, the other rows are wanted
        said = " ".join(str(error).split())[:300]
        rows.append(Check(name, "fail", f"The check itself failed: {type(error).__name__}: {said}", "Mend that first."))
    return rows


def _for_role(check: Check, role: str) -> Check:
    """Return the row as it counts on a machine of this role."""
    if check.status != "fail" or _needed(check.check, role):
        return check
    return replace(check, status="warn", detail=f"{check.detail} (not needed on a machine for: {role})")


def _needed(name: str, role: str) -> bool:
    model, gpu = name.startswith("model"), name == "GPU"
    if role == "all" or name.startswith(_ALWAYS):
        return True
    if role == "vasp":
        return not model and not gpu
    return model or (role == "gpu" and (gpu or name == "scratch space")) if role != "cpu" else False


def _plugins() -> Iterator[Check]:
    """Yield a warning for each entry that was left out of a registry; labelers are in the preflight's rows."""
    from aqvolt_flows.benchmark_registry import BENCHMARKS
    from aqvolt_flows.potentials.registry import FAMILIES
    from aqvolt_flows.sampling.encoders.registry import ENCODERS

    yield from left_out(FAMILIES, BENCHMARKS, ENCODERS)


def _database(settings: AqvoltSettings) -> Check:
    """Connect, write, read and remove one document, and time a round trip."""
    try:
        database = Database.connect(settings)
        scratch = database.mongo[f"aqvolt_doctor_{uuid.uuid4().hex[:8]}"]
        try:
            scratch.insert_one({"_id": 1, "said": "ä"})
            if (scratch.find_one({"_id": 1}) or {}).get("said") != "ä":
                return Check("database", "fail", "A document was written and did not come back.", "Look at its log.")
        finally:
            scratch.drop()
        version = str(database.mongo.client.server_info()["version"])
        times = []
        for _ in range(5):
            start = time.perf_counter()
            database.mongo.command("ping")
            times.append(time.perf_counter() - start)
    except AqvoltError as error:
        return problem("database", "fail", error)
    except PyMongoError as error:
        return Check("database", "fail", f"It answers but cannot be written: {error}", "Give the user role readWrite.")
    kind = "MongoDB" if settings.mongo_uri else "embedded"
    detail = f"{kind} {version}, {1000 * sorted(times)[2]:.1f} ms a round trip, database {database.mongo.name}"
    if int(version.split(".")[0]) < MONGODB_VERSION:
        return Check("database", "warn", detail, f"Use MongoDB {MONGODB_VERSION} or newer; older ones are not tested.")
    return Check("database", "ok", detail)


def _documents(settings: AqvoltSettings) -> Iterator[Check]:
    """Yield what was set aside because it fits no schema, and waiting jobs that no worker of this machine takes."""
    try:
        database = Database.connect(settings)
        found = listed(database)
        refused = waiting_refused(get_launchpad(settings), settings)
    except (AqvoltError, PyMongoError):
        return  # another row says so
    if found:
        said = "; ".join(f"{e['collection']} {e['what']}: {e['reason']}" for e in found[:_SHOWN])
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        todo = "Mend them and run 'aqvolt db quarantine --restore', or leave them there."
        yield Check("quarantine", "warn", f"{len(found)} documents do not fit their schema: {said}{more}", todo)
    for reason, number in refused.items():
        yield Check("waiting jobs", "warn", f"{number} stay READY, workers of this machine leave them", reason)


def _artifacts(settings: AqvoltSettings) -> Check:
    """Write, read and delete a file in the artifact store."""
    data = uuid.uuid4().bytes
    url = settings.artifact_url
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        made = not filesystem.exists(path)
        name = f"{path}/.doctor-{uuid.uuid4().hex}"
        filesystem.makedirs(path, exist_ok=True)
        try:
            filesystem.pipe_file(name, data)
            same = filesystem.cat_file(name) == data
        finally:
            if filesystem.exists(name):
                filesystem.rm_file(name)
            if made and not filesystem.ls(path):
                filesystem.rmdir(path)
    except (OSError, ValueError, ImportError) as error:
        return Check("artifact store", "fail", f"{url}: {error}", "Set artifact_root to a place that can be written.")
    if not same:
        return Check("artifact store", "fail", f"{url} returned other bytes.", "Do not use this place.")
    return Check("artifact store", "ok", f"{url}: written, read, deleted")


def _campaign(settings: AqvoltSettings, named: str) -> tuple[Campaign | None, Check]:
    from aqvolt_flows.campaign import load_campaign, shipped_campaigns

    if named not in shipped_campaigns():
        named = str(settings.path(named))
    try:
        campaign = load_campaign(named)
    except AqvoltError as error:
        return None, problem("campaign", "fail", error)
    return campaign, Check("campaign", "ok", f"{campaign.name}: labels by {campaign.labeling.labeler}")


def _potentials(campaign: Campaign) -> Iterator[Check]:
    """Weights of every model that the campaign names, by hash."""
    from aqvolt_flows.potentials import check_model, model_hash
    from aqvolt_flows.sampling.encoders.registry import check_encoder, encoder_hash

    wanted: list[tuple[str, str, Callable[[str], None], Callable[[str], str]]] = [
        ("exploration", campaign.exploration.potential, check_model, model_hash)
    ]
    wanted.append(("encoder", campaign.sampling.encoder, check_encoder, encoder_hash))
    for use, model, check, digest in wanted:
        try:
            check(model)
        except AqvoltError as error:
            yield problem(f"model: {use}", "fail", error)
        else:
            yield Check(f"model: {use}", "ok", f"{model}, weights {digest(model)[:12]}…")


def campaign_elements(settings: AqvoltSettings, campaign: Campaign, all_campaigns: bool = False) -> list[str]:
    """Return the elements of the accepted candidates, or of the campaign's prototypes before there are any."""
    elements: list[str] = []
    try:
        database = Database.connect(settings).in_campaign(campaign.name)
        view = database.in_all_campaigns() if all_campaigns else database
        elements = view.own("candidates").distinct("elements", ACCEPTED)
    except (AqvoltError, PyMongoError):
        pass  # another row says so
    return sorted({str(element) for element in elements}) or prototype_elements(campaign)


def prototype_elements(campaign: Campaign) -> list[str]:
    """Return the elements of the campaign's prototypes."""
    return sorted({site.element for prototype in campaign.candidates.prototypes for site in prototype.sites})


def _gpu(settings: AqvoltSettings) -> Check:
    wants = settings.device.startswith("cuda")
    if importlib.util.find_spec("torch") is None:
        return Check(
            "GPU",
            "fail" if wants else "warn",
            "torch is not installed; machine-learning work runs elsewhere",
            "pip install 'aqvolt-flows[mlip]' where workers run.",
        )
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Check("GPU", "ok", names)
    return Check(
        "GPU",
        "fail" if wants else "warn",
        f"torch {torch.__version__} sees none; device is {settings.device!r}",
        "Set device: cpu, or run on a machine with a GPU." if wants else "Work runs on the CPU, tens of times slower.",
    )
