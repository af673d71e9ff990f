"""A disturbed campaign: a project with its own database, submitters, workers, and strikes at seeded moments."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from aqvolt_flows.settings import AqvoltSettings, load_settings
from aqvolt_launch.embedded import server as embedded
from aqvolt_launch.processes import host_name, start_mark
from aqvolt_launch.runnable import worker_query
from faults.jobs import QUOTA, expected
from faults.proxy import Proxy

TESTS = Path(__file__).parents[1]
DAYS_S = 2 * 86400
LOOK_S = 0.2
PAUSE_S = 2.5
KINDS = ("kill worker", "kill database", "kill submitter", "stop worker", "stop database", "cut", "full disk")


@dataclass(frozen=True)
class Strike:
    """What happens when this share of the units is done."""

    at: float
    kind: str


def strikes(seed: int, number: int) -> list[Strike]:
    """Return strikes of every kind in turn, in a random order, one in each part of the campaign of equal length."""
    draw = random.Random(seed)
    kinds = [KINDS[i % len(KINDS)] for i in range(number)]
    draw.shuffle(kinds)
    return [Strike((i + draw.random()) / number * 0.97, kind) for i, kind in enumerate(kinds)]


@dataclass
class Outcome:
    """What a disturbed campaign gave.

    Attributes
    ----------
    results
        Unit → its results; exactly one is right.
    fireworks
        State → number.
    struck
        Strike → number.
    runs
        How often units ran to their end; more than there are units where one was lost after it had ended.
    """

    results: dict[str, list[str]]
    fireworks: dict[str, int]
    struck: dict[str, int]
    runs: int
    seconds: float
    said: str = ""

    def wrong(self, per_stage: int) -> dict[str, list[str]]:
        """Return the units without exactly the one right result."""
        right = expected(per_stage)
        every = {unit: self.results.get(unit, []) for unit in right | dict.fromkeys(self.results, "")}
        return {unit: found for unit, found in every.items() if found != [right.get(unit)]}

    def content_hash(self) -> str:
        """Return the hash over all results."""
        return hash_of({unit: found[0] for unit, found in self.results.items()})


def hash_of(results: dict[str, str]) -> str:
    """Return the hash over units and results."""
    return hashlib.sha256(repr(sorted(results.items())).encode()).hexdigest()


@dataclass
class Scene:
    """A project folder and the processes that work in it.

    Attributes
    ----------
    folder
        An empty one.
    seed
        Of the moments and victims.
    per_stage
        Units a stage.
    workers, rlaunches, submitters
        How many processes of each kind; of the workers every third has a clock two days ahead, every third one
        two days behind.
    """

    folder: Path
    seed: int
    per_stage: int = 2
    workers: int = 2
    rlaunches: int = 1
    submitters: int = 2
    _alive: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _struck: Counter[str] = field(default_factory=Counter)
    _undo: list[tuple[float, Any]] = field(default_factory=list)

    def run(self, planned: list[Strike], deadline_s: float = 240.0) -> Outcome:
        """Run the campaign to its end and return what it gave."""
        begun = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._server = AqvoltSettings(root=self.folder)
        info = embedded.start(self._server)
        assert info.port is not None
        self._proxy = Proxy(info.port)
        uri = self._server.database_uri()
        self._settings = self._configure(uri.replace(f":{info.port}/", f":{self._proxy.port}/"))
        client: MongoClient[dict[str, Any]] = MongoClient(uri, serverSelectionTimeoutMS=5_000, socketTimeoutMS=5_000)
        self._collections = client.get_default_database()
        try:
            self._disturb(planned, begun + deadline_s)
            return self._outcome(time.monotonic() - begun)
        finally:
            self._end_all()
            client.close()
            self._proxy.close()
            embedded.stop(self._server)

    def _disturb(self, planned: list[Strike], deadline: float) -> None:
        draw = random.Random(self.seed + 1)
        total = len(expected(self.per_stage))
        left = list(planned)
        while time.monotonic() < deadline:
            self._undo_due()
            done = self._done()
            while left and done is not None and done >= left[0].at * total:
                self._strike(left.pop(0).kind, draw)
            ends = [p.poll() for name, p in self._alive.items() if name.startswith("submitter")]
            if ends and set(ends) == {0} and not left and not self._undo:
                return
            self._keep_alive()
            time.sleep(LOOK_S)

    def _done(self) -> int | None:
        try:
            return int(self._collections["outputs"].count_documents({}))
        except PyMongoError:
            return None

    def _strike(self, kind: str, draw: random.Random) -> None:
        what, _, who = kind.partition(" ")
        self._struck[kind] += 1
        if kind == "cut":
            self._proxy.cut()
        elif kind == "full disk":
            (self.folder / QUOTA).touch()
            self._undo.append((time.monotonic() + PAUSE_S, (self.folder / QUOTA).unlink))
        elif who == "database":
            status = embedded.status(self._server)
            if status.pid is None:
                return
            os.kill(status.pid, signal.SIGKILL if what == "kill" else signal.SIGSTOP)
            if what == "kill":
                self._undo.append((time.monotonic() + 1.0, lambda: embedded.start(self._server)))
            else:
                _continue_later(status.pid)
        else:
            chosen = sorted(n for n, p in self._alive.items() if (n[0] == "s") == (who[0] == "s") and p.poll() is None)
            if not chosen:
                return
            victim = self._alive[draw.choice(chosen)]
            victim.send_signal(signal.SIGKILL if what == "kill" else signal.SIGSTOP)
            if what == "stop":
                _continue_later(victim.pid)

    def _undo_due(self, every: bool = False) -> None:
        due = [pair for pair in self._undo if every or pair[0] <= time.monotonic()]
        for pair in due:
            self._undo.remove(pair)
            pair[1]()

    def _keep_alive(self) -> None:
        """Start what is not there or was ended; a submitter that is through stays away."""
        wanted = [f"submitter-{i}" for i in range(self.submitters)]
        wanted += [f"worker-{i}" for i in range(self.workers)] + [f"rlaunch-{i}" for i in range(self.rlaunches)]
        for name in wanted:
            process = self._alive.get(name)
            ended = None if process is None else process.poll()
            if process is None or (ended is not None and not (ended == 0 and name.startswith("submitter"))):
                self._alive[name] = self._start(name)

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        kind, _, number = name.partition("-")
        shift = (0, DAYS_S, -DAYS_S)[int(number) % 3] if kind == "worker" else 0
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AQVOLT_")} | {
            "AQVOLT_CONFIG_FILE": str(self.folder / "aqvolt.yaml"),
            "PYTHONPATH": os.pathsep.join([str(TESTS), *([str(TESTS / "faults" / "shifted")] if shift else [])]),
            "AQVOLT_TEST_CLOCK_S": str(shift),
            "FW_CONFIG_FILE": f"{os.devnull}/FW_config.yaml",
            "PYTHONWARNINGS": "ignore",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "aqvolt_launch", "work"]
        if kind == "submitter":
            command = [sys.executable, "-m", "faults.submitter", str(self.per_stage)]
        if kind == "rlaunch":
            rlaunch = str(Path(sys.executable).with_name("rlaunch"))
            gate = 'read -r worker && exec "$@" -w "$worker" -s rapidfire --nlaunches infinite --sleep 1'
            command = ["sh", "-c", gate, "sh", rlaunch, "-l", str(self.folder / "my_launchpad.yaml")]
        launches = self._settings.path(self._settings.launch_dir)
        launches.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, env=environment, cwd=launches, stdin=subprocess.PIPE, stdout=log, stderr=log
            )
        assert process.stdin is not None
        if kind == "rlaunch":
            process.stdin.write(f"{self._fworker(process.pid)}\n".encode())
        process.stdin.close()
        return process

    def _fworker(self, pid: int) -> Path:
        """Write the file of an rlaunch whose FWorker is named after its process: its runs count as lost with it."""
        path = self.folder / f"fworker-{pid}.yaml"
        query = json.dumps(worker_query(self._settings))
        about = {
            "name": f"aqvolt-{host_name()}-{pid}-{start_mark(pid)}",
            "category": "",
            "query": query,
        }
        path.write_text(yaml.safe_dump(about))
        return path

    def _configure(self, uri: str) -> AqvoltSettings:
        values = {"mongo_uri": uri, "job_packages": ["faults"], "device": "cpu", "timeout_s": 10.0}
        (self.folder / "aqvolt.yaml").write_text(yaml.safe_dump(values))
        launchpad = {"host": uri, "uri_mode": True, "name": "aqvolt", "logdir": None, "strm_lvl": "ERROR"}
        launchpad |= {"user_indices": [], "wf_user_indices": []}
        (self.folder / "my_launchpad.yaml").write_text(yaml.safe_dump(launchpad))
        return load_settings(self.folder / "aqvolt.yaml")

    def _outcome(self, seconds: float) -> Outcome:
        results: dict[str, list[str]] = {}
        for document in self._collections["outputs"].find({}, {"output": 1}):
            results.setdefault(document["output"]["unit"], []).append(document["output"]["digest"])
        states = Counter(f["state"] for f in self._collections["fireworks"].find({}, {"state": 1}))
        log = self.folder / "runs.log"
        runs = len(log.read_text().splitlines()) if log.exists() else 0
        logs = sorted(self.folder.glob("*.log"))
        said = "\n".join(f"--- {p.name}\n{p.read_text(errors='replace')[-1500:]}" for p in logs if p.name != "runs.log")
        return Outcome(results, dict(states), dict(self._struck), runs, seconds, said)

    def _end_all(self) -> None:
        with contextlib.suppress(Exception):
            self._undo_due(every=True)
        for process in self._alive.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        for process in self._alive.values():
            process.wait()


def _continue_later(pid: int) -> None:
    """Let a stopped process go on after a while; by a thread, because this one may wait for it."""

    def go_on() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    threading.Timer(PAUSE_S, go_on).start()
