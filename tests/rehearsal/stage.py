"""One rehearsal: a project with frames, rlaunch processes that are killed at random, and what came of it."""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from fake_vasp.fixtures import store_frames_in
from fake_vasp.potcars import write_potcars

from aqvolt_builders.labels import LabelBuilder
from aqvolt_flows.campaign import load_campaign
from aqvolt_flows.frames import Frame
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.settings import AqvoltSettings, load_settings
from aqvolt_flows.stores import Database
from aqvolt_flows.vasp.processes import end_leftovers
from aqvolt_launch import chain
from aqvolt_launch.launchpad import get_launchpad
from aqvolt_launch.processes import host_name, start_mark
from aqvolt_launch.repair.lost_runs import recover_dead
from aqvolt_launch.repair.reconcile import reconcile
from aqvolt_launch.workers import environment_of, exported
from rehearsal.script import POTCARS, Kind, assigned, frame_for, stand_in_plan

STAND_IN = Path(__file__).parents[1] / "fake_vasp" / "vasp_std.py"
CAMPAIGN = {
    "name": "rehearsal",
    "description": "Statics by the stand-in VASP.",
    "labeling": {"labeler": "vasp", "max_errors": 2},
}
FINAL = {"COMPLETED", "FIZZLED", "DEFUSED", "ARCHIVED"}
LOOK_S = 0.1
MAX_ROUNDS = 60
#: Of labels: what differs between two runs of one campaign without its labels being other ones.
VOLATILE = {
    "_id",
    "source_uuid",
    "source_completed_at",
    "newest_source_at",
    "other_sources",
    "last_updated",
    "cost_core_hours",
}


@dataclass
class Result:
    """What a rehearsal gave.

    Attributes
    ----------
    kinds
        Frame → how it was to end.
    outcomes
        Frame → its outcome's ``output``; a list, because there must be exactly one and that is to be checked.
    labels
        ``label_id`` → label without :data:`VOLATILE`.
    """

    kinds: dict[str, Kind]
    outcomes: dict[str, list[dict[str, Any]]]
    labels: dict[str, dict[str, Any]]
    fireworks: dict[str, int]
    kills: int
    recovered: int
    ghosts: int
    seconds: float
    launch_seconds: list[float] = field(default_factory=list)

    @property
    def repeated(self) -> list[str]:
        """Frames without exactly one outcome."""
        return sorted(frame for frame, found in self.outcomes.items() if len(found) != 1)

    def unexpected(self) -> dict[str, str]:
        """Return frame → what was expected and seen, for each that ended otherwise than scripted."""
        wrong = {}
        for frame, kind in self.kinds.items():
            seen = [(o["status"], (o["failure"] or {}).get("reason")) for o in self.outcomes[frame]]
            if seen != [(kind.status, kind.reason)]:
                wrong[frame] = f"{kind.name}: expected {kind.status} {kind.reason}, seen {seen}"
        return wrong

    def table(self) -> list[dict[str, Any]]:
        """Return one row per kind: scripted, seen with that end, and the two totals."""
        rows = []
        for kind in {kind.name: kind for kind in self.kinds.values()}.values():
            frames = [frame for frame, k in self.kinds.items() if k.name == kind.name]
            end = (kind.status, kind.reason)
            seen = sum(
                [(o["status"], (o["failure"] or {}).get("reason")) for o in self.outcomes[f]] == [end] for f in frames
            )
            rows.append(
                {"kind": kind.name, "status": kind.status, "reason": kind.reason, "frames": len(frames), "seen": seen}
            )
        return sorted(rows, key=lambda row: (row["status"] != "converged", -row["frames"], row["kind"]))

    def statuses(self) -> dict[str, int]:
        """Return the number of outcomes per status."""
        return dict(Counter(o["status"] for found in self.outcomes.values() for o in found))

    def seconds_per_launch(self) -> float:
        """Return the median time of a launch, s, from check-out to completion as FireWorks wrote it."""
        return statistics.median(self.launch_seconds) if self.launch_seconds else 0.0


class Rehearsal:
    """A project folder with frames to label and a script of failures.

    Parameters
    ----------
    folder
        An empty folder.
    mongo_uri, database
        Where the collections are; the database must be new.
    n_frames, share, seed
        How many frames, which part of them fails, and the seed of the script.
    """

    def __init__(
        self, folder: Path, mongo_uri: str, database: str, n_frames: int = 200, share: float = 0.21, seed: int = 0
    ) -> None:
        self.folder, self.seed = folder, seed
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "campaign.yaml").write_text(yaml.safe_dump(CAMPAIGN))
        config = {"mongo_uri": mongo_uri, "database": database, "device": "cpu", "campaign": "campaign.yaml"}
        (folder / "aqvolt.yaml").write_text(yaml.safe_dump(config))
        self.settings: AqvoltSettings = load_settings(folder / "aqvolt.yaml")
        self.launches = self.settings.path(self.settings.launch_dir)
        self.launches.mkdir(parents=True, exist_ok=True)
        kinds = assigned(n_frames, share, seed)
        frames = [frame_for(index, kind) for index, kind in enumerate(kinds)]
        potcars = write_potcars(folder / "potcars", POTCARS)
        plan = folder / "fake_vasp_plan.json"
        plan.write_text(json.dumps(stand_in_plan(frames, kinds)))
        self.environment = environment_of(self.settings) | {
            "VASP_CMD": f"{sys.executable} {STAND_IN}",
            "PMG_VASP_PSP_DIR": str(potcars),
            "FAKE_VASP_PLAN": str(plan),
            "FW_CONFIG_FILE": f"{os.devnull}/FW_config.yaml",
            "PYTHONWARNINGS": "ignore",
            "OMP_NUM_THREADS": "1",
        }
        self.database = Database.connect(self.settings)
        self.database.ensure_indexes()
        self.kinds = self._store(frames, kinds)

    def _store(self, frames: Sequence[Frame], kinds: Sequence[Kind]) -> dict[str, Kind]:
        """Write the frames; those of the kind "artifact lost" lose theirs. Return frame → kind."""
        found = {}
        lost = [kind.reason == "missing_artifact" for kind in kinds]
        for gone in (False, True):
            chosen = [i for i, is_lost in enumerate(lost) if is_lost == gone]
            if not chosen:
                continue
            ids = store_frames_in(self.database, self.folder, [frames[i] for i in chosen])
            found |= {identity: kinds[i] for identity, i in zip(ids, chosen, strict=True)}
            if gone:
                document = self.database["frames"].find_one({"frame_id": ids[0]})
                assert document is not None
                self.database.artifacts.local_path(ArtifactRef(**document["artifact"])).unlink()
        return found

    def submit(self) -> int:
        """Plan and submit; return how many Fireworks are new."""
        _, report = chain.submit_stage("label", load_campaign(self.folder / "campaign.yaml"), self.settings)
        return report.submitted

    def run(self, workers: int = 2, kills: int = 0) -> Result:
        """Label every frame with ``rlaunch`` processes, ``kills`` of which are ended by SIGKILL, and return the result.

        A kill strikes when so many outcomes are there as the seed says, at a worker that the seed picks of those that
        are at work; another worker takes its place. Lost runs are put right as ``aqvolt work`` and ``aqvolt reconcile``
        do.
        """
        begun = time.monotonic()
        alive: list[subprocess.Popen[bytes]] = []
        try:
            killed, recovered = self._disturbed(alive, workers, kills)
        finally:
            for worker in alive:
                worker.kill()
                worker.wait()
        return self.result(killed, recovered, time.monotonic() - begun)

    def _disturbed(self, alive: list[subprocess.Popen[bytes]], workers: int, kills: int) -> tuple[int, int]:
        """Work until nothing is left; ``alive`` holds the workers at any time. Return kills and recoveries."""
        rng = random.Random(self.seed)
        thresholds = sorted(rng.randrange(len(self.kinds)) for _ in range(kills))
        killed = recovered = rounds = 0
        while rounds < MAX_ROUNDS:
            alive[:] = [worker for worker in alive if worker.poll() is None]
            done = self.database["outputs"].count_documents({})
            if killed < kills and done >= thresholds[killed]:
                victim = self._at_work(alive, rng)
                if victim is not None:
                    victim.send_signal(signal.SIGKILL)
                    victim.wait()
                    killed += 1
                    recovered += recover_dead(self.settings).total()
                    continue
            if not alive and not self._unfinished():
                report = reconcile(self.settings)
                recovered += sum(report.recovered.values())
                if not self._unfinished():
                    break
            if len(alive) < workers and self._waiting():
                alive.append(self._start())
                rounds += 1
            elif not alive:
                recovered += recover_dead(self.settings).total()
                rounds += 1
            time.sleep(LOOK_S)
        return killed, recovered

    def result(self, kills: int = 0, recovered: int = 0, seconds: float = 0.0) -> Result:
        """Build the labels and return what the database and the folders say now."""
        outcomes: dict[str, list[dict[str, Any]]] = {frame: [] for frame in self.kinds}
        for document in self.database["outputs"].find({"metadata.aqvolt.stage": "label"}, {"output": 1}):
            outcomes[document["output"]["frame_id"]].append(document["output"])
        with exported(self.settings):
            LabelBuilder().run()
        labels = {
            label["label_id"]: self._plain({k: v for k, v in label.items() if k not in VOLATILE})
            for label in self.database["labels"].find()
        }
        launchpad = get_launchpad(self.settings)
        states = Counter(f["state"] for f in launchpad.fireworks.find({}, {"state": 1}))
        query = {"state": "COMPLETED", "runtime_secs": {"$exists": True}}
        times = [float(launch["runtime_secs"]) for launch in launchpad.launches.find(query, {"runtime_secs": 1})]
        ghosts = sum(len(end_leftovers(folder)) for folder in self.launches.glob("*/launcher_*/vasp-*"))
        ghosts += sum(len(end_leftovers(folder)) for folder in self.launches.glob("launcher_*/vasp-*"))
        return Result(
            dict(self.kinds), outcomes, labels, dict(states), kills, recovered, ghosts, seconds, launch_seconds=times
        )

    def _plain(self, label: dict[str, Any]) -> dict[str, Any]:
        """Return a label whose messages do not name this rehearsal's folder."""
        return dict(json.loads(json.dumps(label).replace(str(self.folder), "PROJECT")))

    def _start(self) -> subprocess.Popen[bytes]:
        """Start an rlaunch whose FWorker is named after its process, so that its runs count as lost when it dies."""
        gate = 'read -r worker && exec "$@" -w "$worker" -s rapidfire'
        rlaunch = str(Path(sys.executable).with_name("rlaunch"))
        with (self.folder / "rlaunch.log").open("ab") as log:
            process = subprocess.Popen(
                ["sh", "-c", gate, "sh", rlaunch, "-l", str(self._launchpad_file())],
                env=os.environ | self.environment,
                cwd=self.launches,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        worker = self.folder / f"fworker-{process.pid}.yaml"
        name = f"aqvolt-{host_name()}-{process.pid}-{start_mark(process.pid)}"
        worker.write_text(yaml.safe_dump({"name": name, "category": "vasp", "query": "{}"}))
        assert process.stdin is not None
        process.stdin.write(f"{worker}\n".encode())
        process.stdin.close()
        return process

    def _launchpad_file(self) -> Path:
        path = self.folder / "my_launchpad.yaml"
        if not path.is_file():
            uri, name = self.settings.database_uri(), self.settings.database
            plain = {"host": uri, "uri_mode": True, "name": name, "logdir": None, "strm_lvl": "ERROR"}
            path.write_text(yaml.safe_dump(plain | {"user_indices": [], "wf_user_indices": []}))
        return path

    def _at_work(self, alive: list[subprocess.Popen[bytes]], rng: random.Random) -> subprocess.Popen[bytes] | None:
        """Return a worker that has a launch running, as the generator picks."""
        launches = get_launchpad(self.settings).launches.find({"state": "RUNNING"}, {"fworker.name": 1})
        pids = {int(launch["fworker"]["name"].split("-")[-2]) for launch in launches}
        busy = sorted((worker for worker in alive if worker.pid in pids), key=lambda worker: worker.pid)
        return rng.choice(busy) if busy else None

    def _unfinished(self) -> int:
        return int(get_launchpad(self.settings).fireworks.count_documents({"state": {"$nin": sorted(FINAL)}}))

    def _waiting(self) -> bool:
        return get_launchpad(self.settings).fireworks.find_one({"state": "READY"}, {"_id": 1}) is not None
