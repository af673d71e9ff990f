"""The scripts and the queue adapter of a project folder, run with stand-ins for Python, nvidia-smi and Slurm."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trivial_jobs
from waiting import wait_for

from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_launch.project.folder import init_project
from aqvolt_launch.submission.submit import submit

#: Writes what it was called with, and waits for SIGTERM where told to.
STAND_IN = f"""#!{sys.executable}
import json, os, signal, sys, time
names = ("CUDA_VISIBLE_DEVICES", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "OMP_NUM_THREADS", "VASP_CMD", "SLURM_NTASKS")
def write(word):
    about = {{"argv": sys.argv[1:], "word": word}} | {{n: os.environ.get(n) for n in names}}
    with open(os.environ["CALLS"], "a") as log:
        log.write(json.dumps(about) + "\\n")
def ended(*_):
    write("terminated")
    time.sleep(0.3)
    sys.exit(7)
signal.signal(signal.SIGTERM, ended)
write("called")
if os.environ.get("STAY"):
    time.sleep(30)
"""


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def environment(project: Path) -> dict[str, str]:
    """A project folder, and stand-ins first on PATH."""
    init_project(project)
    tools = project / "bin"
    tools.mkdir()
    python = executable(tools / "python", STAND_IN)
    executable(tools / "nvidia-smi", "#!/bin/sh\nprintf '0\\n1\\n'\n")
    executable(
        tools / "nvidia-cuda-mps-control", f'#!/bin/sh\necho "$@" >> {project}/mps\ncat >> {project}/mps < /dev/stdin\n'
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "CUDA", "OMP"))}
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    return clean | {"PATH": path, "PYTHON": str(python), "CALLS": str(project / "calls")}


def calls(environment: dict[str, str]) -> list[dict]:
    return [json.loads(line) for line in Path(environment["CALLS"]).read_text().splitlines()]


def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_laptop_runs_everything_or_one_category(environment: dict[str, str]) -> None:
    assert run(environment, "sh", "workers_laptop.sh").returncode == 0
    run(environment, "sh", "workers_laptop.sh", "gpu")
    work = ["-m", "aqvolt_launch", "work", "--until-empty"]
    assert [call["argv"] for call in calls(environment)] == [work, [*work, "--category", "gpu"]]


def test_each_gpu_has_a_worker_that_sees_only_it(environment: dict[str, str]) -> None:
    assert run(environment, "bash", "workers_gpu_node.sh").returncode == 0
    found = calls(environment)
    assert sorted(call["CUDA_VISIBLE_DEVICES"] for call in found) == ["0", "1"]
    assert all(call["argv"][3:5] == ["--category", "gpu"] for call in found)
    assert not Path("mps").exists()
    Path(environment["CALLS"]).unlink()
    given = {"CUDA_VISIBLE_DEVICES": "5,7", "WORKERS_PER_GPU": "3", "SLURM_CPUS_ON_NODE": "24", "SLURM_NTASKS": "24"}
    assert run(environment | given, "bash", "workers_gpu_node.sh").returncode == 0
    found = calls(environment)
    assert sorted(call["CUDA_VISIBLE_DEVICES"] for call in found) == ["5", "5", "5", "7", "7", "7"]
    assert {(c["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"], c["OMP_NUM_THREADS"], c["SLURM_NTASKS"]) for c in found} == {
        ("33", "4", None)
    }
    assert Path("mps").read_text().split() == ["-d", "quit"], "MPS is started, and ended when all are done"


def test_without_a_gpu_one_sentence(environment: dict[str, str]) -> None:
    executable(Path("bin/nvidia-smi"), "#!/bin/sh\nexit 9\n")
    done = run(environment, "bash", "workers_gpu_node.sh")
    assert done.returncode == 2
    assert "No GPU is visible" in done.stderr


def test_several_vasps_share_an_allocation(environment: dict[str, str]) -> None:
    slurm = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "32", "RUNS": "4", "VASP": "vasp_gam"}
    assert run(environment | slurm, "bash", "workers_vasp_node.sh").returncode == 0
    found = calls(environment)
    assert len(found) == 4
    assert {call["VASP_CMD"] for call in found} == {"srun --exact --ntasks=8 vasp_gam"}
    assert {call["SLURM_NTASKS"] for call in found} == {"8"}
    done = run(environment | slurm | {"RUNS": "64"}, "bash", "workers_vasp_node.sh")
    assert (done.returncode, "RUNS=64 is more than there are tasks" in done.stderr) == (2, True)
    Path(environment["CALLS"]).unlink()
    run(environment | {"RUNS": "1", "MPIRUN": "mpiexec"}, "bash", "workers_vasp_node.sh")
    assert calls(environment)[0]["VASP_CMD"].startswith("mpiexec -np ")


@pytest.mark.parametrize("category", ["gpu", "vasp"])
def test_an_array_task_passes_sigterm_on_to_all_workers(environment: dict[str, str], category: str) -> None:
    given = environment | {"STAY": "1", "RUNS": "2"}
    process = subprocess.Popen(["bash", "slurm_array.sh", category], env=given, stdin=subprocess.DEVNULL)
    wait_for(lambda: Path(environment["CALLS"]).exists() and len(calls(environment)) == 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 7, "the code of its workers, whom it waited for"
    assert sorted(call["word"] for call in calls(environment)) == ["called", "called", "terminated", "terminated"]


def test_an_unknown_category_of_an_array(environment: dict[str, str]) -> None:
    done = run(environment, "bash", "slurm_array.sh", "tpu")
    assert (done.returncode, "no category tpu" in done.stderr) == (2, True)


@pytest.mark.parametrize("category", ["vasp", "gpu"])
def test_qlaunch_with_a_stand_in_for_slurm(
    database: Database, settings: AqvoltSettings, monkeypatch: pytest.MonkeyPatch, category: str
) -> None:
    """sbatch runs the script at once; its worker takes one category, vasp unless told otherwise."""
    project = Path.cwd()
    submit([trivial_jobs.add_item(n, category=c) for n, c in enumerate(["vasp", "gpu", "cpu"])], settings)
    init_project(project)
    tools = project / "bin"
    tools.mkdir()
    executable(tools / "sbatch", f'#!/bin/sh\nbash "$1" > {project}/job.out 2>&1\necho "Submitted batch job 41"\n')
    executable(tools / "squeue", "#!/bin/sh\nexit 0\n")
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    if category != "vasp":
        monkeypatch.setenv("AQVOLT_CATEGORY", category)
    qlaunch = str(Path(sys.executable).with_name("qlaunch"))
    files = ["-l", "my_launchpad.yaml", "-w", "my_fworker_vasp.yaml", "-q", "my_qadapter.yaml"]
    done = subprocess.run(
        [qlaunch, *files, "singleshot"], capture_output=True, text=True, timeout=90, check=False, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    said = (project / "job.out").read_text()
    assert "1 completed, 0 fizzled" in said, said + done.stderr
    states = {f["spec"]["_category"]: f["state"] for f in database.mongo["fireworks"].find()}
    assert states == {"vasp": "READY", "gpu": "READY", "cpu": "READY"} | {category: "COMPLETED"}
