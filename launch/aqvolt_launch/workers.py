"""Workers: FireWorks' rapidfire in the launch folder; lost runs are recovered before it and while it runs."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from pymongo.errors import PyMongoError

from aqvolt_flows.errors import DatabaseError, InputError, ResourceError
from aqvolt_flows.settings import CONFIG_NAME, CONFIG_VARIABLE, AqvoltSettings
from aqvolt_flows.stopping import stop_wanted
from aqvolt_flows.stores import redact
from aqvolt_launch import logs
from aqvolt_launch.launchpad import ensure_launchpad, quiet_fireworks
from aqvolt_launch.open_project import Project
from aqvolt_launch.patience import Patience
from aqvolt_launch.processes import host_name, worker_name
from aqvolt_launch.repair.elsewhere import HEARTBEAT_S
from aqvolt_launch.repair.lost_runs import RecoveryReport, recover_dead
from aqvolt_launch.submission import holds
from aqvolt_launch.submission import window as queue
from aqvolt_launch.termination import GRACE_S, handing_back
from aqvolt_launch.watched import WatchedLaunchPad

if TYPE_CHECKING:
    from fireworks import LaunchPad

logger = logging.getLogger(__name__)

CATEGORIES = ("cpu", "gpu", "vasp")
#: Seconds between looks at an empty queue, and between looks for lost runs: while idle, while busy.
SLEEP_S = 1.0
IDLE_LOOK_S = 10.0
BUSY_LOOK_S = 60
_PARENT_VARIABLE = "AQVOLT_WORKER_PARENT"
_NOT_EXPORTED = {"root"}
#: Left to themselves these libraries use fewer threads on a busy machine, and the last digits of a run change.
_STEADY = {"MKL_DYNAMIC": "FALSE", "OMP_DYNAMIC": "FALSE"}


@dataclass(frozen=True)
class WorkReport:
    """What a worker did: Fireworks that it completed, fizzled or left (``refused``), lost runs recovered, seconds."""

    name: str
    completed: int
    fizzled: int
    recovered: int
    seconds: float
    refused: int = 0

    def as_dict(self) -> dict[str, object]:
        """Return the fields as a mapping."""
        return asdict(self)


def work(
    settings: AqvoltSettings,
    category: str | None = None,
    until_empty: bool = False,
    exit_with_parent: bool = False,
    sleep_s: float = SLEEP_S,
    max_launches: int | None = None,
    grace_s: float = GRACE_S,
) -> WorkReport:
    """Run Fireworks one after another until told to stop.

    Parameters
    ----------
    settings
        Database and launch folder; jobs in this process and its children see the same settings.
    category
        Run only Fireworks of this category (cpu, gpu, vasp); by default all.
    until_empty
        Return when no Firework of the category is ready and none runs on this host; otherwise wait
        for more.
    exit_with_parent
        End this process, children included, when the process that started it is gone.
    sleep_s
        Seconds between looks at an empty queue.
    max_launches
        Return after this many Fireworks.
    grace_s
        Seconds that a job has after SIGTERM to write a checkpoint before it is handed back; see
        :mod:`aqvolt_launch.termination`.

    Raises
    ------
    InputError
        If there is no such category.
    ResourceError
        If the launch folder cannot be written.
    DatabaseError
        If no database answers.
    """
    from fireworks import FWorker
    from fireworks.core.rocket_launcher import rapidfire
    from jobflow import CURRENT_JOB

    if category is not None and category not in CATEGORIES:
        raise InputError(f"There is no category {category!r}; expected {', '.join(CATEGORIES)}, or none for all.")
    if exit_with_parent:
        _follow_parent()
    project = Project(settings).prepare()
    launchpad = project.launchpad
    folder = _launch_folder(settings)
    name = worker_name()
    started = time.monotonic()
    _say_hello(name, settings, category)
    recovered = recover_dead(settings).total()
    last_look = time.monotonic()
    before = _launch_counts(launchpad, name)
    hand_back = partial(recover_dead, settings, [name])
    with exported(settings), _working_directory(), handing_back(hand_back, grace_s):
        quiet_fireworks()
        _beat()
        worker = FWorker(name=name, category=category or "")
        watched = WatchedLaunchPad(launchpad, settings)
        patience = Patience(settings)
        while not stop_wanted():
            try:
                holds.enforce(project, at_most_every=holds.LOOK)
                queue.top_up(launchpad, category)
                left = 0 if max_launches is None else max_launches - _launched(launchpad, name, before)
                if max_launches is not None and left <= 0:
                    break
                if patience.wait_for_space():
                    continue
                rapidfire(
                    watched,
                    worker,
                    m_dir=str(folder),
                    nlaunches=left,
                    max_loops=1,
                    sleep_time=sleep_s,
                    timeout=BUSY_LOOK_S,
                    strm_lvl="ERROR",
                    local_redirect=_has_terminal_files(),
                )
                CURRENT_JOB.reset()  # a job that raised stays the current one: what follows is not of its campaigns
                if time.monotonic() - last_look > IDLE_LOOK_S or patience.lost:
                    recovered += recover_dead(settings, gone=[name] if patience.lost else []).total()
                    last_look = time.monotonic()
                patience.all_is_well()
                if watched.run_exists(worker):
                    continue
                if until_empty and not _unfinished(launchpad, category, list(watched.refused)):
                    break
            except (PyMongoError, DatabaseError) as error:
                CURRENT_JOB.reset()
                patience.wait_for_database(error)
                continue
            time.sleep(sleep_s)
    after = _launch_counts(launchpad, name)
    done = {state: after.get(state, 0) - before.get(state, 0) for state in ("COMPLETED", "FIZZLED")}
    seconds = time.monotonic() - started
    report = WorkReport(name, done["COMPLETED"], done["FIZZLED"], recovered, seconds, len(watched.refused))
    logger.info("Worker %s ends: %d completed, %d fizzled, %.1f s.", name, *done.values(), report.seconds)
    return report


def _say_hello(name: str, settings: AqvoltSettings, category: str | None) -> None:
    """Log who works where, with the versions that decide what it can run."""
    if not logger.isEnabledFor(logging.INFO):
        return
    packages = ("aqvolt-flows", "jobflow", "fireworks", "atomate2", "pymatgen-core", "torch")
    known = {p: _version(p) for p in packages}
    said = ", ".join(f"{p} {v}" for p, v in known.items() if v)
    logger.info("Worker %s starts: %s; %s.", name, f"category {category}" if category else "all categories", said)
    logger.info("Database %s, launch folder %s.", redact(settings.database_uri()), settings.path(settings.launch_dir))


def _beat() -> None:
    """Let launches of this process say more often than once an hour that they live."""
    from fireworks.core import rocket

    rocket.PING_TIME_SECS = HEARTBEAT_S


def _version(package: str) -> str:
    with contextlib.suppress(PackageNotFoundError):
        return version(package)
    return ""


def _launch_folder(settings: AqvoltSettings) -> Path:
    folder = settings.path(settings.launch_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"The launch folder {folder} cannot be made ({error.strerror}); set launch_dir to a place that can."
        ) from None
    return folder


def recover(settings: AqvoltSettings) -> RecoveryReport:
    """Put right what killed workers of this host left, without working."""
    ensure_launchpad(settings)
    return recover_dead(settings)


def spawn_worker(
    settings: AqvoltSettings, category: str | None = None, until_empty: bool = True, exit_with_parent: bool = True
) -> subprocess.Popen[bytes]:
    """Start ``aqvolt work`` as a child process and return it; its output goes to ``workers.log`` in the launch folder.

    By default it ends when this process does, however that ends.
    """
    folder = _launch_folder(settings)
    level = os.environ.get(logs.VARIABLE) or "info"
    command = [sys.executable, "-m", "aqvolt_launch", "--log-level", level, "work"]
    command += ["--category", category] if category else []
    command += ["--until-empty"] if until_empty else []
    command += ["--exit-with-parent"] if exit_with_parent else []
    environment = os.environ | environment_of(settings) | {_PARENT_VARIABLE: str(os.getpid())}
    with (folder / "workers.log").open("ab") as log:
        return subprocess.Popen(
            command, env=environment, cwd=settings.path("."), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


def environment_of(settings: AqvoltSettings) -> dict[str, str]:
    """Return the ``AQVOLT_…`` variables with which another process, in any folder, gets the same settings."""
    values = {
        f"AQVOLT_{field.upper()}": ",".join(value) if isinstance(value, tuple) else str(value)
        for field, value in settings.model_dump().items()
        if value not in (None, ()) and field not in _NOT_EXPORTED
    }
    values["AQVOLT_ROOT"] = str(settings.path("."))
    config = settings.path(CONFIG_NAME)
    if config.is_file():
        values[CONFIG_VARIABLE] = str(config)
    return values


@contextlib.contextmanager
def exported(settings: AqvoltSettings) -> Iterator[None]:
    """Let jobs that run in this process, in other folders, find these settings."""
    new = {k: v for k, v in _STEADY.items() if k not in os.environ} | environment_of(settings)
    old = {name: os.environ.get(name) for name in new}
    os.environ.update(new)
    try:
        yield
    finally:
        for name, value in old.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _has_terminal_files() -> bool:
    """Return whether standard output and error are real files that can be redirected (not so in notebooks)."""
    try:
        return sys.stdout.fileno() >= 0 and sys.stderr.fileno() >= 0
    except (AttributeError, OSError, ValueError):
        return False


@contextlib.contextmanager
def _working_directory() -> Iterator[None]:
    here = os.getcwd()  # noqa: PTH109 - rapidfire changes folders with os.chdir
    try:
        yield
    finally:
        os.chdir(here)


def _launch_counts(launchpad: LaunchPad, name: str) -> dict[str, int]:
    pipeline = [{"$match": {"fworker.name": name}}, {"$group": {"_id": "$state", "n": {"$sum": 1}}}]
    return {row["_id"]: row["n"] for row in launchpad.launches.aggregate(pipeline)}


def _launched(launchpad: LaunchPad, name: str, before: dict[str, int]) -> int:
    return sum(_launch_counts(launchpad, name).values()) - sum(before.values())


def _unfinished(launchpad: LaunchPad, category: str | None, refused: Sequence[int] = ()) -> bool:
    """Return whether something is ready that was not refused, or runs on this host (and may have to be recovered)."""
    if queue.behind_window(launchpad, category):
        return True
    mine = {"spec._category": category} if category else {}
    waiting = {"$or": [{"state": "READY"}, {"state": "RESERVED", "launches": []}]}
    if launchpad.fireworks.find_one(mine | waiting | {"fw_id": {"$nin": list(refused)}}, {"_id": 1}):
        return True
    running = {"state": "RUNNING", "fworker.name": {"$regex": f"^aqvolt-{re.escape(host_name())}-"}}
    fw_ids = [launch["fw_id"] for launch in launchpad.launches.find(running, {"fw_id": 1})]
    here = {"fw_id": {"$in": fw_ids}, "state": {"$in": ["RUNNING", "RESERVED"]}}
    return bool(fw_ids and launchpad.fireworks.find_one(mine | here, {"_id": 1}))


def _follow_parent() -> None:
    """End this process within a second after its parent ended, whatever this process computes."""
    parent = int(os.environ.get(_PARENT_VARIABLE) or os.getppid())

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
        os._exit(1)

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()
