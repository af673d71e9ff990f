"""The whole chain in miniature: the same commands a campaign uses, one after another, with a clock."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any

from aqvolt_flows.campaign import Campaign
from aqvolt_flows.errors import ResourceError
from aqvolt_flows.releases import latest_release, release_folder
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stages import STAGES, stage_named
from aqvolt_flows.stores import Database
from aqvolt_launch import chain, loop
from aqvolt_launch.embedded import lent
from aqvolt_launch.embedded import server as embedded
from aqvolt_launch.launchpad import get_launchpad
from aqvolt_launch.memory_watch import MemoryWatch
from aqvolt_launch.workers import spawn_worker

POLL_S = 0.5
#: How often the worker is started again before the demo gives up.
MAX_WORKERS = 3


@dataclass
class StageResult:
    """One row of the closing table.

    Attributes
    ----------
    documents
        What the stage's collection holds.
    failures
        Documents or Fireworks that say failed, rejected or unconverged.
    new
        Units of work that this run made.
    seconds
        Wall time of this run.
    """

    stage: str
    documents: int
    failures: int
    new: int
    seconds: float
    note: str = ""


@dataclass
class DemoResult:
    """What a run of the demo gave."""

    stages: list[StageResult] = field(default_factory=list)
    release_id: str | None = None
    content_hash: str | None = None
    release_path: Path | None = None
    report_path: Path | None = None
    rounds: list[dict[str, Any]] | None = None
    seconds: float = 0.0
    peak_memory_gb: float = 0.0

    @property
    def recomputed(self) -> int:
        """Units of work that this run made; 0 for a second run in the same folder."""
        return sum(s.new for s in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON types."""
        return {
            "stages": [vars(s) for s in self.stages],
            "release_id": self.release_id,
            "content_hash": self.content_hash,
            "release_path": str(self.release_path) if self.release_path else None,
            "report_path": str(self.report_path) if self.report_path else None,
            **({"rounds": self.rounds} if self.rounds is not None else {}),
            "recomputed": self.recomputed,
            "seconds": round(self.seconds, 1),
            "peak_memory_gb": round(self.peak_memory_gb, 2),
        }


@contextmanager
def database_for(settings: AqvoltSettings) -> Iterator[list[int]]:
    """Use the configured MongoDB, or run the embedded one meanwhile; yield the PIDs that we started.

    A server that a killed demo left is stopped at the end as its own would have been.
    """
    if settings.mongo_uri:
        Database.connect(settings)
        yield []
        return
    already = embedded.status(settings)
    ours = not already.running or lent.left_behind(settings)
    info = embedded.start(settings)
    if ours:
        lent.lend(settings)
    try:
        yield [info.pid] if info.pid else []
    finally:
        if ours:
            embedded.stop(settings)
            lent.keep(settings)


class _Worker:
    """A worker process that is started again if it dies."""

    def __init__(self, settings: AqvoltSettings) -> None:
        self._settings, self._starts = settings, 1
        self._process: Popen[bytes] = spawn_worker(settings, until_empty=False)

    def ensure(self) -> None:
        """Start the worker again if it is gone; raise after several times."""
        if self._process.poll() is None:
            return
        log = self._settings.path(self._settings.launch_dir) / "workers.log"
        if self._starts >= MAX_WORKERS:
            raise ResourceError(
                f"The worker ended {self._starts} times, last with code {self._process.returncode}; see {log}."
            )
        self._starts += 1
        self._process = spawn_worker(self._settings, until_empty=False)

    def stop(self) -> None:
        """End the worker."""
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except TimeoutExpired:
            self._process.kill()
            self._process.wait()


Watch = Callable[[str, int, int, str], None]


def run(settings: AqvoltSettings, campaign: Campaign, watch: Watch) -> DemoResult:
    """Run every stage as Fireworks, in order, and return what came of it.

    Parameters
    ----------
    settings
        A project folder that exists.
    campaign
        What to run.
    watch
        Called with (stage, done, total, detail) while a stage runs.

    Raises
    ------
    InputError, ResourceError
        If a stage cannot go on; what was finished is kept.
    """
    started = time.monotonic()
    result = DemoResult()
    with database_for(settings) as pids:
        memory = MemoryWatch(pids)
        worker: _Worker | None = None
        try:
            for stage in [s.name for s in STAGES if s.in_demo]:
                begun = time.monotonic()
                watch(stage, 0, 0, "planning")
                found, _ = chain.submit_stage(stage, campaign, settings)
                new = _unfinished(stage, settings)
                if new:
                    worker = worker or _Worker(settings)
                    _wait(stage, settings, worker, watch)
                row = _count(stage, chain.database_of(campaign, settings), settings, new, time.monotonic() - begun)
                result.stages.append(row)
                watch(stage, len(found.items), len(found.items), "finished" if new else "already finished")
        finally:
            if worker:
                worker.stop()
            result.peak_memory_gb = memory.stop()
        _conclude(result, settings, campaign)
    result.seconds = time.monotonic() - started
    return result


def run_loop(settings: AqvoltSettings, campaign: Campaign, watch: Watch) -> DemoResult:
    """Select candidates, run the campaign's loop to its end, and write the report.

    Parameters
    ----------
    settings, campaign, watch
        As :func:`run` takes them; ``watch`` is told each step of each round.

    Raises
    ------
    InputError, ResourceError
        If the loop is held; what was finished is kept.
    """
    started = time.monotonic()
    result = DemoResult(rounds=[])
    with database_for(settings) as pids:
        memory = MemoryWatch(pids)
        worker = _Worker(settings)
        try:
            _stage("candidates", settings, campaign, worker, watch, result)
            loop.start(settings, campaign)
            _rounds(settings, campaign, worker, watch, result)
            _stage("report", settings, campaign, worker, watch, result)
        finally:
            worker.stop()
            result.peak_memory_gb = memory.stop()
        result.rounds = loop.status(settings, campaign)
        newest = campaign.release.model_copy(update={"name": f"{campaign.release.name}-r{len(result.rounds) - 1}"})
        _conclude(result, settings, campaign.model_copy(update={"release": newest}))
    result.seconds = time.monotonic() - started
    return result


def _stage(
    stage: str, settings: AqvoltSettings, campaign: Campaign, worker: _Worker, watch: Watch, result: DemoResult
) -> None:
    """Run one stage and add its row."""
    begun = time.monotonic()
    watch(stage, 0, 0, "planning")
    found, _ = chain.submit_stage(stage, campaign, settings)
    new = _unfinished(stage, settings)
    _wait(stage, settings, worker, watch)
    database = chain.database_of(campaign, settings)
    result.stages.append(_count(stage, database, settings, new, time.monotonic() - begun))
    watch(stage, len(found.items), len(found.items), "finished" if new else "already finished")


def _rounds(settings: AqvoltSettings, campaign: Campaign, worker: _Worker, watch: Watch, result: DemoResult) -> None:
    """Tick until the loop is over; one row a step of a round."""
    begun, before, new = time.monotonic(), "", 0
    while True:
        found = loop.tick(settings, campaign)
        here = f"r{found.round} {found.step}" if found.step else ""
        if before and here != before:
            result.stages.append(StageResult(before, 0, 0, new, round(time.monotonic() - begun, 1)))
            watch(before, new, new, "finished")
        if here != before:
            begun, before, new = time.monotonic(), here, 0
        new += found.submitted
        if found.over:
            break
        watch(here, max(new - found.waiting, 0), new, found.said)
        worker.ensure()
        time.sleep(POLL_S)
    if found.status != "done":
        raise ResourceError(f"The loop is {found.status}: {found.said}")


_FINAL = ("COMPLETED", "FIZZLED", "DEFUSED", "ARCHIVED")


def _unfinished(stage: str, settings: AqvoltSettings) -> int:
    """Return how many workflows of a stage are not at their end, this run's and those of a killed one."""
    query = {"metadata.aqvolt.stage": stage, "state": {"$nin": list(_FINAL)}}
    return int(get_launchpad(settings).workflows.count_documents(query))


def _wait(stage: str, settings: AqvoltSettings, worker: _Worker, watch: Watch) -> None:
    """Wait until no workflow of the stage is waiting, ready or running."""
    launchpad, database = get_launchpad(settings), Database.connect(settings)
    mine = {"metadata.aqvolt.stage": stage}
    while True:
        states = [w["state"] for w in launchpad.workflows.find(mine, {"state": 1})]
        finished = sum(s in _FINAL for s in states)
        watch(stage, finished, len(states), _detail(stage, database))
        if finished == len(states):
            return
        worker.ensure()
        time.sleep(POLL_S)


def _detail(stage: str, database: Database) -> str:
    """Return what is worth seeing while a stage runs."""
    if stage == "explore":
        running = database["trajectories"].find_one({"status": "running"}, {"steps_done": 1, "n_steps": 1})
        return f"MD step {running['steps_done']} of {running['n_steps']}" if running else "loading the potential"
    return ""


def _count(stage: str, database: Database, settings: AqvoltSettings, new: int, seconds: float) -> StageResult:
    about = stage_named(stage)
    collection, every, word = about.collection, dict(about.counted), about.failed_word
    failures = 0 if about.failed is None else database.own(collection).count_documents(every | dict(about.failed))
    fizzled = list(
        get_launchpad(settings).fireworks.find(
            {"spec.aqvolt.stage": stage, "state": "FIZZLED"}, {"fw_id": 1, "name": 1}
        )
    )
    notes = [f"{failures} {word}"] if failures and word else []
    if fizzled:
        notes.append(
            f"{len(fizzled)} Fireworks fizzled, see 'aqvolt status' and 'lpad get_fws -i {fizzled[0]['fw_id']} -d all'"
        )
    return StageResult(
        stage,
        database.own(collection).count_documents(every),
        failures + len(fizzled),
        new,
        round(seconds, 1),
        "; ".join(notes),
    )


def _conclude(result: DemoResult, settings: AqvoltSettings, campaign: Campaign) -> None:
    """Fill in release and report."""
    database = chain.database_of(campaign, settings)
    release = latest_release(database, campaign.release.name)
    if release:
        result.release_id, result.content_hash = release["release_id"], release["content_hash"]
        result.release_path = release_folder(database, release)
    report = database.own("outputs").find_one({"metadata.aqvolt.stage": "report"}, sort=[("completed_at", -1)])
    if report and report.get("output"):
        result.report_path = settings.path(report["output"]["path"])


def check_workdir(folder: Path) -> Path:
    """Return the folder, made if need be, or raise if it cannot be written.

    Raises
    ------
    ResourceError
        If the folder or a file in it cannot be made.
    """
    probe = folder / f".aqvolt-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ResourceError(
            f"The workdir {folder} cannot be written ({error.strerror}); give another with --workdir."
        ) from None
    return folder.resolve()
