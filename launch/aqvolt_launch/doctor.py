"""The doctor: is everything there that the configured campaign needs, and if not, what to do."""

from __future__ import annotations

import importlib.util
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import fsspec
from pymongo.errors import PyMongoError

from aqvolt_flows.errors import AqvoltError
from aqvolt_flows.schemas.candidate import ACCEPTED
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database

if TYPE_CHECKING:
    from aqvolt_flows.campaign import Campaign

Status = Literal["ok", "warn", "fail"]
MONGODB_VERSION = 7


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


def examine(settings: AqvoltSettings) -> list[Check]:
    """Return one row per check; never raises for what it finds.

    What the campaign does not use is a warning, what it needs and does not find a failure.
    """
    checks = [_database(settings), _artifacts(settings)]
    campaign, row = _campaign(settings)
    checks.append(row)
    if campaign is not None:
        checks += _potentials(campaign)
        checks += _vasp(settings, campaign)
        checks.append(_gpaw(campaign))
    checks.append(_gpu(settings))
    return checks


def _problem(check: str, status: Status, error: AqvoltError) -> Check:
    """Return the row of an error that teaches: up to its last semicolon is what was seen, the rest what to do."""
    detail, _, todo = str(error).rpartition("; ")
    return Check(check, status, detail or str(error), todo if detail else "")


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
        return _problem("database", "fail", error)
    except PyMongoError as error:
        return Check("database", "fail", f"It answers but cannot be written: {error}", "Give the user role readWrite.")
    kind = "MongoDB" if settings.mongo_uri else "embedded"
    detail = f"{kind} {version}, {1000 * sorted(times)[2]:.1f} ms a round trip, database {database.mongo.name}"
    if int(version.split(".")[0]) < MONGODB_VERSION:
        return Check("database", "warn", detail, f"Use MongoDB {MONGODB_VERSION} or newer; older ones are not tested.")
    return Check("database", "ok", detail)


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


def _campaign(settings: AqvoltSettings) -> tuple[Campaign | None, Check]:
    from aqvolt_flows.campaign import load_campaign, shipped_campaigns

    named = settings.campaign
    if named not in shipped_campaigns():
        named = str(settings.path(named))
    try:
        campaign = load_campaign(named)
    except AqvoltError as error:
        return None, _problem("campaign", "fail", error)
    return campaign, Check("campaign", "ok", f"{campaign.name}: labels by {campaign.labeling.labeler}")


def _potentials(campaign: Campaign) -> Iterator[Check]:
    """Weights of every model that the campaign names, by hash."""
    from aqvolt_flows.potentials import check_model, model_hash
    from aqvolt_flows.sampling.encoders import check_encoder, encoder_hash

    wanted: list[tuple[str, str, Callable[[str], None], Callable[[str], str]]] = [
        ("exploration", campaign.exploration.potential, check_model, model_hash)
    ]
    wanted.append(("encoder", campaign.sampling.encoder, check_encoder, encoder_hash))
    if campaign.labeling.labeler == "surrogate":
        wanted.append(("surrogate", campaign.labeling.surrogate, check_model, model_hash))
    for use, model, check, digest in wanted:
        try:
            check(model)
        except AqvoltError as error:
            yield _problem(f"model: {use}", "fail", error)
        else:
            yield Check(f"model: {use}", "ok", f"{model}, weights {digest(model)[:12]}…")


def campaign_elements(settings: AqvoltSettings, campaign: Campaign) -> list[str]:
    """Return the elements of the accepted candidates, or of the campaign's prototypes before there are any."""
    try:
        database = Database.connect(settings)
        elements = database["candidates"].distinct("elements", ACCEPTED)
    except (AqvoltError, PyMongoError):
        elements = []
    if not elements:
        elements = [site.element for prototype in campaign.candidates.prototypes for site in prototype.sites]
    return sorted({str(element) for element in elements})


def _vasp(settings: AqvoltSettings, campaign: Campaign) -> Iterator[Check]:
    """Command, POTCAR folder, and the POTCAR of every element of the candidates."""
    from aqvolt_flows.vasp.inputs import potcar_folder, potcar_hashes, vasp_command
    from aqvolt_flows.vasp.settings import check_installed, potcar_functional

    severity: Status = "fail" if campaign.labeling.labeler == "vasp" else "warn"

    def row(name: str, look: Callable[[], str]) -> Check:
        try:
            return Check(name, "ok", look())
        except AqvoltError as error:
            return _problem(name, severity, error)

    def settings_frozen() -> str:
        check_installed()
        return "the installed MatPES settings are the frozen ones"

    yield row("VASP: command", lambda: f"VASP_CMD {vasp_command()!r}")
    yield row("VASP: theory level", settings_frozen)
    folder = row("VASP: POTCAR folder", lambda: str(potcar_folder()))
    yield folder
    elements = campaign_elements(settings, campaign)
    if folder.status != "ok":
        named = f"needed for {', '.join(elements)}" if elements else "the campaign has no candidates yet"
        todo = "Set PMG_VASP_PSP_DIR first."
        yield Check(f"VASP: POTCARs {potcar_functional()}", severity, f"not looked at; {named}", todo)
        return
    if not elements:
        yield Check("VASP: POTCARs", "warn", "the campaign has no candidates yet", "Select candidates, then ask again.")
    for element in elements:
        yield row(f"VASP: POTCAR {element}", lambda e=element: f"SHA-256 {potcar_hashes([e])[e][:12]}…")  # type: ignore[misc]


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
