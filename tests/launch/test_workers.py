"""Workers: work runs once, and what a killed worker leaves is put right wherever it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import trivial_jobs

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.settings import AqvoltSettings, load_settings
from aqvolt_flows.stores import Database
from aqvolt_flows.work import WorkItem
from aqvolt_launch import processes, workers
from aqvolt_launch.launchpad import get_launchpad
from aqvolt_launch.processes import start_mark
from aqvolt_launch.project.status import collect_status
from aqvolt_launch.repair import lost_runs as recovery
from aqvolt_launch.repair.reconcile import reconcile
from aqvolt_launch.submission.submit import submit
from aqvolt_launch.workers import spawn_worker, work


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of tests can be imported by workers, and nobody waits long for the dead."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.setattr(recovery, "GRACE_S", 0.5)
    monkeypatch.setattr(workers, "IDLE_LOOK_S", 0.5)


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_job_runs_once_in_its_folder_with_the_settings(database: Database, settings: AqvoltSettings) -> None:
    trace = Path.cwd() / "trace"
    submit([trivial_jobs.add_item(1, trace=str(trace))], settings)
    here = Path.cwd()
    report = work(settings, until_empty=True)
    assert (report.completed, report.fizzled, report.recovered) == (1, 0, 0)
    assert work(settings, until_empty=True).completed == 0
    assert trace.read_text().splitlines() == [str(os.getpid())]
    assert Path.cwd() == here
    document = database["outputs"].find_one({})
    assert document["output"]["sum"] == 2
    assert document["output"]["root"] == str(here), "a job in a launch folder sees the project's settings"
    folder = Path(document["output"]["folder"])
    assert folder.parent == settings.path(settings.launch_dir)
    assert "adding 1 1" in (folder / "FW_job.out").read_text(), "the folder keeps what the job said"


def test_category_and_priority(database: Database, settings: AqvoltSettings) -> None:
    submit(
        [
            trivial_jobs.add_item(1, priority=1),
            trivial_jobs.add_item(2, priority=5),
            trivial_jobs.add_item(3, category="gpu"),
        ],
        settings,
    )
    assert work(settings, category="cpu", until_empty=True).completed == 2
    names = [d["metadata"]["aqvolt"]["key"] for d in database["outputs"].find().sort("completed_at", 1)]
    assert names == ["key-2", "key-1"], "higher priority first"
    assert work(settings, max_launches=1).completed == 1
    assert database["outputs"].count_documents({}) == 3
    with pytest.raises(InputError, match="no category 'tpu'; expected cpu, gpu, vasp"):
        work(settings, category="tpu")


def test_launch_folder_that_cannot_be_made(database: Database, settings: AqvoltSettings) -> None:
    Path("file").touch()
    with pytest.raises(ResourceError, match="set launch_dir"):
        work(load_settings(launch_dir="file/launches"), until_empty=True)


def test_worker_killed_in_a_job_is_recovered_and_the_job_completes_once(
    database: Database, settings: AqvoltSettings
) -> None:
    flag, trace = Path.cwd() / "flag", Path.cwd() / "trace"
    submit([WorkItem("explore", "slow", "slow", lambda: trivial_jobs.slow_once(str(flag), str(trace)))], settings)
    victim = spawn_worker(settings)
    wait_for(flag.exists)
    assert reconcile(settings, dry_run=True).lost == [], "a live worker's run is not lost"
    assert recovery.recover_dead(settings).total() == 0
    os.kill(victim.pid, signal.SIGKILL)
    wait_for(lambda: psutil.Process(victim.pid).status() == psutil.STATUS_ZOMBIE)  # dead, though not reaped
    assert reconcile(settings, dry_run=True).lost == [1]
    assert get_launchpad(settings).fireworks.find_one({})["state"] == "RUNNING"
    report = work(settings, until_empty=True)
    victim.wait()
    assert (report.completed, report.recovered) == (1, 1)
    assert trace.read_text().splitlines() == [str(victim.pid), str(os.getpid())]
    outputs = list(database["outputs"].find({}))
    assert [d["output"] for d in outputs] == [7]
    launchpad = get_launchpad(settings)
    assert launchpad.workflows.find_one({})["state"] == "COMPLETED"
    assert sorted(launch["state"] for launch in launchpad.launches.find({})) == ["COMPLETED", "FIZZLED"]


WORKER = """
import os, signal, sys
from fireworks.core.launchpad import LaunchPad
from aqvolt_flows.settings import load_settings
from aqvolt_launch.launchpad import ensure_launchpad
from aqvolt_launch.workers import work

name, call, when = sys.argv[1], int(sys.argv[2]), sys.argv[3]
ensure_launchpad(load_settings())
original = getattr(LaunchPad, name)
calls = 0

def deadly(self, *args, **kwargs):
    global calls
    calls += 1
    if calls == call and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(self, *args, **kwargs)
    if calls == call and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(LaunchPad, name, deadly)
work(load_settings(), until_empty=True)
"""


@pytest.mark.parametrize(
    ("name", "call", "when"),
    [
        ("get_new_launch_id", 1, "before"),  # the Firework is reserved, no launch exists
        ("_upsert_fws", 1, "before"),  # the launch exists, the Firework does not know it
        ("_upsert_fws", 1, "after"),  # the Firework runs, the workflow does not know it
        ("_update_wf", 1, "before"),  # the same, with the workflow locked
        ("_update_wf", 1, "after"),  # all know, the lock stays
        ("complete_launch", 1, "before"),  # the job's output is stored, nothing tells of its end
        ("_refresh_wf", 2, "before"),  # the launch has ended, the Firework says it runs
        ("_upsert_fws", 3, "after"),  # the Firework is completed, its workflow does not know it, locked
        ("_update_wf", 2, "after"),  # all is done, the lock stays
    ],
)
def test_worker_killed_between_any_two_writes(
    database: Database, settings: AqvoltSettings, name: str, call: int, when: str
) -> None:
    submit([trivial_jobs.add_item(1)], settings)
    command = [sys.executable, "-c", WORKER, name, str(call), when]
    victim = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert victim.returncode == -signal.SIGKILL, victim.stderr
    time.sleep(0.6)  # older than the grace time
    work(settings, until_empty=True)
    launchpad = get_launchpad(settings)
    workflow = launchpad.workflows.find_one({})
    assert workflow["state"] == "COMPLETED"
    assert workflow["fw_states"] == {"1": "COMPLETED"}
    assert "locked" not in workflow
    assert launchpad.fireworks.find_one({})["state"] == "COMPLETED"
    assert launchpad.launches.count_documents({"state": {"$in": ["RUNNING", "RESERVED"]}}) == 0
    assert database["outputs"].count_documents({}) == 1
    assert recovery.recover_dead(settings).total() == 0


def test_launches_of_other_hosts_and_of_reused_pids(database: Database, settings: AqvoltSettings) -> None:
    own = processes.worker_name()
    host, pid, start = processes.host_name(), os.getpid(), start_mark(os.getpid())
    assert processes.is_dead(own) is False
    assert processes.is_dead(f"aqvolt-{host}-{pid}-{start - 1000}") is True, "another process had this PID"
    assert processes.is_dead(f"aqvolt-elsewhere-{pid}-{start - 1000}") is None
    assert processes.is_dead("my fworker") is None
    assert processes.is_dead(f"aqvolt-{host}-{2**22 + 1}-{start}") is True, "above Linux' largest PID"


def test_worker_ends_with_its_parent(database: Database, settings: AqvoltSettings) -> None:
    flag, trace = Path.cwd() / "flag", Path.cwd() / "trace"
    submit([WorkItem("explore", "slow", "slow", lambda: trivial_jobs.slow_once(str(flag), str(trace)))], settings)
    code = (
        "import time; from aqvolt_flows.settings import load_settings; from aqvolt_launch.workers import spawn_worker\n"
        "print(spawn_worker(load_settings()).pid, flush=True); time.sleep(120)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        wait_for(flag.exists)
        parent.kill()
    wait_for(lambda: processes.is_dead(f"aqvolt-{processes.host_name()}-{worker}-0"), 10)
    wait_for(lambda: not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE, 10)


def test_several_workers_run_each_job_once(database: Database, settings: AqvoltSettings) -> None:
    trace = Path.cwd() / "trace"
    submit([trivial_jobs.add_item(n, trace=str(trace)) for n in range(20)], settings)
    processes = [spawn_worker(settings) for _ in range(3)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert len(trace.read_text().splitlines()) == 20
    assert database["outputs"].count_documents({}) == 20


def test_status_counts_and_names_failures(database: Database, settings: AqvoltSettings) -> None:
    flag = Path.cwd() / "flag"
    flag.touch()
    submit(
        [
            trivial_jobs.add_item(1),
            trivial_jobs.add_item(2, stage="label", category="vasp"),
            WorkItem("explore", "f", "fails", lambda: trivial_jobs.fail_while(str(flag))),
        ],
        settings,
    )
    work(settings, category="cpu", until_empty=True)
    database["labels"].insert_one(
        {"label_id": "l", "key": "k", "status": "rejected", "failure": {"reason": "unconverged", "message": ""}}
    )
    found = collect_status(settings)
    assert found["stages"] == [
        {"stage": "explore", "READY": 0, "RUNNING": 0, "COMPLETED": 1, "FIZZLED": 1},
        {"stage": "label", "READY": 1, "RUNNING": 0, "COMPLETED": 0, "FIZZLED": 0},
    ]
    counts = {row["collection"]: (row["documents"], row["failures"]) for row in found["collections"]}
    assert counts["labels"] == (1, 1)
    assert counts["outputs"] == (1, 0)
    assert found["reasons"] == [{"collection": "labels", "reason": "unconverged", "documents": 1}]
    (failed,) = found["fizzled"]
    assert failed["reason"] == "ValueError: the cell has no volume"
    assert failed["stage"] == "explore"
    assert Path(failed["folder"]).is_dir()


def test_reconcile(database: Database, settings: AqvoltSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    submit([trivial_jobs.add_item(n) for n in range(3)], settings)
    work(settings, until_empty=True)
    launchpad = get_launchpad(settings)
    database["outputs"].delete_one({"metadata.aqvolt.key": "key-0"})
    launchpad.fireworks.delete_one({"spec.aqvolt.key": "key-1"})
    orphan = launchpad.fireworks.find_one({"spec.aqvolt.key": "key-2"}, {"_id": 0}) | {"fw_id": 99, "state": "WAITING"}
    launchpad.fireworks.insert_one(orphan)
    looked = reconcile(settings, dry_run=True)
    assert (looked.without_output, looked.broken) == ([1], ["key-1"])
    assert looked.orphans == [], "a young Firework without a workflow may be of a submission in progress"
    monkeypatch.setattr("aqvolt_launch.repair.reconcile.ORPHAN_AGE", -recovery.timedelta(seconds=5))
    assert reconcile(settings, dry_run=True).orphans == [99]
    assert launchpad.fireworks.count_documents({"fw_id": 99}) == 1
    assert database["outputs"].count_documents({}) == 2
    done = reconcile(settings)
    assert (done.without_output, done.orphans) == ([1], [99])
    assert launchpad.fireworks.count_documents({"fw_id": 99}) == 0
    assert work(settings, until_empty=True).completed == 1
    assert database["outputs"].count_documents({"metadata.aqvolt.key": "key-0"}) == 1
    assert reconcile(settings).without_output == []
