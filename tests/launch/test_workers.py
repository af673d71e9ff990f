"""Workers: work runs once, and what a killed worker leaves is put right wherever it was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import trivial_jobs
from waiting import wait_for

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.settings import AqvoltSettings, load_settings
from aqvolt_flows.stores import Database
from aqvolt_flows.work import WorkItem
from aqvolt_launch import processes
from aqvolt_launch.submission.submit import submit
from aqvolt_launch.workers import spawn_worker, work

pytestmark = pytest.mark.usefixtures("quick")


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
