"""A project folder: ``aqvolt.yaml`` and the files of FireWorks, jobflow and atomate2, from templates."""

from __future__ import annotations

import hashlib
import json
import os
import string
import sys
import uuid
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from aqvolt_flows.campaign import load_campaign, shipped_campaigns
from aqvolt_flows.errors import ConfigError, DatabaseError, ResourceError
from aqvolt_flows.settings import CONFIG_NAME, AqvoltSettings, load_settings
from aqvolt_flows.stores import client_for, normalise_uri
from aqvolt_launch.embedded.client_files import launchpad_file, write_launchpad_file
from aqvolt_launch.runnable import worker_query

TEMPLATES = "aqvolt_launch.templates"
FILES = (
    CONFIG_NAME,
    "my_launchpad.yaml",
    "my_fworker_cpu.yaml",
    "my_fworker_gpu.yaml",
    "my_fworker_vasp.yaml",
    "my_qadapter.yaml",
    "my_qadapter_gpu.yaml",
    "workers_laptop.sh",
    "workers_gpu_node.sh",
    "workers_vasp_node.sh",
    "slurm_array.sh",
    "FW_config.yaml",
    "jobflow.yaml",
    "atomate2.yaml",
)
#: What a project folder is for, and which files it then has.
TEMPLATE_FILES = {
    "slurm": FILES,
    "laptop": (
        CONFIG_NAME,
        "my_launchpad.yaml",
        "my_fworker_cpu.yaml",
        "workers_laptop.sh",
        "FW_config.yaml",
        "jobflow.yaml",
    ),
}
QUEUE_LOGS = ".aqvolt/queue"
_NO_DATABASE = "mongodb://127.0.0.1:27017/{database}?directConnection=true"
#: SHA-256 of files as version 0.1 wrote them, with ``${root}`` and ``${python}`` for the folder's and Python's path:
#: they are brought up to date.
_EARLIER = {
    "my_qadapter.yaml": "39cd822a1fa7cb80cb71da24ac2a8e45b41ab06d6f513d444a7eb33c3cd9a942",
    "FW_config.yaml": "2a005444b22ffc7677c3fb5f7bf19db8e50668cc53df160e89516a9edad9e138",
    "my_fworker_cpu.yaml": "50484dfe0b60b8632be66fb5663977d500a1e4581d7c92d9244517528732bc8a",
    "my_fworker_gpu.yaml": "ee4fc26f15b1b74f735aa28cb791c577f5777030d7bb9ed7f55929e6a05632f7",
    "my_fworker_vasp.yaml": "567eb216b29702c2bc1ca4ecec75a54619dec6ae7ea84372c5e0b207c6f46469",
}


def init_project(
    folder: Path,
    force: bool = False,
    campaign: str | None = None,
    template: str | None = None,
    copy_campaign: bool = False,
) -> list[dict[str, str]]:
    """Write the files of a project folder; files that are right already stay as they are.

    Parameters
    ----------
    folder
        Made if it is not there.
    force
        Replace files that differ. Without it, nothing at all is written if one does (but for the address of
        an embedded database in ``my_launchpad.yaml``, which is brought up to date).
    campaign
        Name or path for a new ``aqvolt.yaml``.
    template
        ``slurm`` (all files) or ``laptop`` (no queue); by default what the folder is already, else ``slurm``.
    copy_campaign
        Copy the campaign file into the folder, where a new ``aqvolt.yaml`` then names the copy. A file of this name
        that is there already is never replaced.

    Returns
    -------
    list
        Per file: ``file``, and ``done``: written, unchanged or replaced. An existing ``aqvolt.yaml`` that
        is valid is yours: it is never replaced without ``force``, and never stands in the way.

    Raises
    ------
    ConfigError
        If a file differs and ``force`` is not given, an existing ``aqvolt.yaml`` or the campaign is wrong, or there is
        no such template.
    ResourceError
        If the folder cannot be written.
    """
    if campaign is not None:
        load_campaign(campaign)
    root = folder.resolve()
    copied = campaign_copy(root, campaign) if copy_campaign and campaign else {}
    named = next(iter(copied), campaign)
    config = root / CONFIG_NAME
    settings = _settings(config, root)
    chosen = template or _template_of(root)
    wanted = {name: render(name, settings, named, chosen) for name in _files_of(chosen)}
    actions = {name: _action(root / name, text) for name, text in wanted.items()}
    stale = [name for name, action in actions.items() if action == "differs" and _is_ours(root, name, wanted)]
    actions |= dict.fromkeys(stale, "absent")
    if actions[CONFIG_NAME] == "differs" and not force:
        actions[CONFIG_NAME] = "unchanged"
    wanted |= copied
    actions |= {name: "unchanged" if (root / name).exists() else "absent" for name in copied}
    differing = [name for name, action in actions.items() if action == "differs"]
    if differing and not force:
        raise ConfigError(
            f"{', '.join(differing)} in {root}: not as 'aqvolt init' would write, and nothing was written; move such "
            "files away, or replace them with --force."
        )
    try:
        (root / QUEUE_LOGS).mkdir(parents=True, exist_ok=True)  # qlaunch does not make the folder of its log
        if settings.mongo_uri is None and not launchpad_file(settings).exists():
            launchpad_file(settings).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_launchpad_file(settings, _NO_DATABASE.format(database=settings.database))
        for name, action in actions.items():
            if action != "unchanged":
                _write(root / name, wanted[name])
    except OSError as error:
        raise ResourceError(f"{root} cannot be written ({error.strerror}); choose another folder.") from None
    actions |= dict.fromkeys(stale, "differs")
    words = {"absent": "written", "differs": "replaced", "unchanged": "unchanged"}
    return [{"file": str(root / name), "done": words[action]} for name, action in actions.items()]


def campaign_copy(root: Path, campaign: str) -> dict[str, str]:
    """Return name → text of the campaign file that a project folder gets; empty where the file lies in it already."""
    if campaign in shipped_campaigns():
        text = resources.files("aqvolt_flows").joinpath(f"campaigns/{campaign}.yaml").read_text(encoding="utf-8")
        return {f"{campaign}.yaml": text}
    path = Path(campaign).resolve()
    inside = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    return {inside: path.read_text(encoding="utf-8")}


def _settings(config: Path, root: Path) -> AqvoltSettings:
    """Return the settings of a folder; without a file those of the environment, not of a folder further up."""
    return load_settings(config) if config.is_file() else load_settings(Path(os.devnull), root=root)


def _files_of(template: str) -> tuple[str, ...]:
    if template not in TEMPLATE_FILES:
        raise ConfigError(f"There is no template {template!r}; expected {' or '.join(TEMPLATE_FILES)}.")
    return TEMPLATE_FILES[template]


def _template_of(root: Path) -> str:
    """Return the template that a folder was made from; ``slurm`` where there is none yet."""
    try:
        text = (root / "FW_config.yaml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return "slurm"
    return "slurm" if "QUEUEADAPTER_LOC" in text else "laptop"


def render(name: str, settings: AqvoltSettings, campaign: str | None = None, template: str = "slurm") -> str:
    """Return the text of one file for these settings; no credentials are ever in it."""
    text = resources.files(TEMPLATES).joinpath(name).read_text(encoding="utf-8")
    uri, database, note = _address(settings)
    root = settings.path(".")
    values = {
        "root": str(root),
        "python": sys.executable,
        "database": database,
        "campaign": campaign or settings.campaign,
        "campaigns": ", ".join(shipped_campaigns()),
        "uri": uri,
        "launchpad_note": note,
        "worker_query": json.dumps(worker_query(settings)),
        "launchpad_file": str(root / "my_launchpad.yaml" if settings.mongo_uri else launchpad_file(settings)),
        "fworker": "my_fworker_vasp.yaml" if template == "slurm" else "my_fworker_cpu.yaml",
        "queueadapter": f"QUEUEADAPTER_LOC: {settings.path('my_qadapter.yaml')}\n" if template == "slurm" else "",
    }
    filled = string.Template(text).substitute(values)
    if name.endswith(".yaml"):
        yaml.safe_load(filled)  # a path that breaks YAML is found here, not by FireWorks
    elif "'" in str(root) or "'" in sys.executable:
        raise ConfigError(f"{root} has a quotation mark in its path, which scripts cannot name; choose another folder.")
    return filled


def _address(settings: AqvoltSettings) -> tuple[str, str, str]:
    """Return URI without credentials, database name, and a sentence about where they come from."""
    try:
        _, name = client_for(settings)
        uri = without_credentials(normalise_uri(settings.database_uri()))
    except DatabaseError:
        if settings.mongo_uri:
            raise
        note = (
            "No database runs yet: 'aqvolt db start' writes .aqvolt/db/my_launchpad.yaml, which FW_config.yaml names."
        )
        return _NO_DATABASE.format(database=settings.database), settings.database, note
    if settings.mongo_uri:
        return uri, name, "The database is the configured one."
    private = launchpad_file(settings)
    return (
        uri,
        name,
        f"The database is the embedded one; it wants a password: {private} holds it, FW_config.yaml names it.",
    )


def without_credentials(uri: str) -> str:
    """Return the URI without user and password."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _action(path: Path, text: str) -> str:
    if not path.exists():
        return "absent"
    try:
        return "unchanged" if path.read_text(encoding="utf-8") == text else "differs"
    except (OSError, UnicodeDecodeError):
        return "differs"


def _is_ours(root: Path, name: str, wanted: dict[str, str]) -> bool:
    """Return whether a file that differs is as we once wrote it: of version 0.1, of another place or address."""
    if name == "my_launchpad.yaml":
        return _only_address_differs(root, wanted)
    if _moved(root, name, wanted[name]):
        return True
    try:
        text = (root / name).read_text(encoding="utf-8").replace(sys.executable, "${python}")
        text = text.replace(str(root), "${root}")
    except (OSError, UnicodeDecodeError):
        return False
    return hashlib.sha256(text.encode()).hexdigest() == _EARLIER.get(name)


def _moved(root: Path, name: str, wanted: str) -> bool:
    """Return whether a file is ours but for the place of the folder, which was moved or copied."""
    try:
        before = yaml.safe_load((root / "FW_config.yaml").read_text(encoding="utf-8"))["CONFIG_FILE_DIR"]
        text = (root / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return False
    return str(before) != str(root) and text.replace(str(before), str(root)) == wanted


def _only_address_differs(root: Path, wanted: dict[str, str]) -> bool:
    """Return whether the LaunchPad file is ours but for the address of an embedded server, which may move."""

    def rest(text: str) -> list[str]:
        changing = ("host: ", "# The database", "# No database", "# FireWorks' LaunchPad")
        return [line for line in text.splitlines() if not line.startswith(changing)]

    found = (root / "my_launchpad.yaml").read_text(encoding="utf-8", errors="replace")
    embedded = any(line.startswith('host: "mongodb://127.0.0.1:') for line in found.splitlines())
    return embedded and rest(found) == rest(wanted["my_launchpad.yaml"])


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def summary(rows: list[dict[str, str]]) -> dict[str, Any]:
    """Return how many files were written, replaced and left unchanged."""
    return {word: sum(row["done"] == word for row in rows) for word in ("written", "replaced", "unchanged")}
