"""SIGTERM: a job that looks ends at its checkpoint, another one is handed back; nobody waits for a dead worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trivial_jobs
from waiting import wait_for

from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stopping import ask_to_stop, forget, stop_wanted
from aqvolt_flows.stores import Database
from aqvolt_flows.training import stages
from aqvolt_flows.work import WorkItem
from aqvolt_launch.launchpad import get_launchpad
from aqvolt_launch.submission.submit import submit
from aqvolt_launch.termination import EXIT_CODE, handing_back
from aqvolt_launch.workers import work

pytestmark = pytest.mark.usefixtures("quick")


def worker(*options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "aqvolt_launch", "work", *options]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_job_that_looks_ends_by_itself_and_no_further_one_is_taken(
    database: Database, settings: AqvoltSettings
) -> None:
    flag = Path.cwd() / "flag"
    asked = WorkItem("explore", "asked", "asked", lambda: trivial_jobs.until_asked(str(flag)), priority=9)
    submit([asked, trivial_jobs.add_item(1)], settings)
    process = worker("--grace", "60")
    wait_for(flag.exists)
    process.send_signal(signal.SIGTERM)
    said, complaint = process.communicate(timeout=40)
    assert process.returncode == 0, complaint
    assert "1 completed" in said
    assert "SIGTERM: the job has 60 s" in complaint
    assert [d["output"] for d in database["outputs"].find()] == ["ended at a checkpoint"]
    states = {f["fw_id"]: f["state"] for f in get_launchpad(settings).fireworks.find()}
    assert states == {1: "COMPLETED", 2: "READY"}


def test_a_job_that_does_not_look_is_handed_back_at_once(database: Database, settings: AqvoltSettings) -> None:
    flag, trace = Path.cwd() / "flag", Path.cwd() / "trace"
    submit([WorkItem("explore", "k", "slow", lambda: trivial_jobs.slow_once(str(flag), str(trace)))], settings)
    process = worker("--grace", "0.5")
    wait_for(flag.exists)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=40)
    assert process.returncode == EXIT_CODE
    launchpad = get_launchpad(settings)
    assert launchpad.fireworks.find_one({})["state"] == "READY", "no worker of this machine has looked yet"
    assert [launch["state"] for launch in launchpad.launches.find()] == ["FIZZLED"]
    assert work(settings, until_empty=True).completed == 1
    assert len(trace.read_text().splitlines()) == 2
    assert [d["output"] for d in database["outputs"].find()] == [7]


def test_an_idle_worker_ends_at_once(database: Database, settings: AqvoltSettings) -> None:
    log = Path.cwd() / ".aqvolt" / "launches"
    process = worker("--grace", "60")
    wait_for(log.exists)
    wait_for(lambda: _handles_sigterm(process.pid))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 0


def _handles_sigterm(pid: int) -> bool:
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def test_the_wish_and_the_handler_end_with_the_block() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with handing_back(lambda: None, 60):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop_wanted()
    assert not stop_wanted()
    assert signal.getsignal(signal.SIGTERM) is before
    ask_to_stop()
    forget()
    assert not stop_wanted()


@pytest.mark.parametrize("asked", [True, False])
def test_a_trainer_that_sigterm_ended_is_no_failed_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    """The worker lives on after the signal, and must not take the end of its trainer for the training's."""
    monkeypatch.setattr(stages, "run_trainer", lambda *_: -15)
    monkeypatch.setattr(stages, "_command", lambda *_: [])
    (tmp_path / stages.LOG).touch()
    if asked:
        ask_to_stop()
    try:
        with pytest.raises(stages.StageStoppedError if asked else stages.TrainingError):
            stages._train({}, tmp_path, 0, {}, None)
    finally:
        forget()
