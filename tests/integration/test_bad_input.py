"""A newcomer's mistakes: one sentence, exit code 2, nothing written."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

MINI = Path(__file__).with_name("mini.yaml")


def demo(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AQVOLT_")}
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "aqvolt_launch",
        "demo",
        "--workdir",
        str(tmp_path / "w"),
        *arguments,
    ]
    return subprocess.run(command, env=clean | environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)


def refused(done: subprocess.CompletedProcess[str], tmp_path: Path, *said: str) -> None:
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for part in said:
        assert part in done.stderr
    assert not (tmp_path / "w").exists()


def campaign(tmp_path: Path, old: str, new: str) -> str:
    text = MINI.read_text()
    assert old in text
    path = tmp_path / "broken.yaml"
    path.write_text(text.replace(old, new))
    return str(path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("n_steps: 30", "n_stepz: 30", "did you mean n_steps"),
        ("timestep_fs: 2.0", "timestep_fs: 2.0 ps", "expected a valid number in fs"),
        ("timestep_fs: 2.0", "timestep_ps: 0.002", "did you mean timestep_fs"),
        ("[900.0]", "[-900.0]", "expected greater than 0"),
        ("exploration: {temp", "exploration: {potential: 7net-mf0/R2SCAN, temp", "did you mean '7net-mf-0/R2SCAN'"),
        ("sampling: {", "sampling: {encoder: m3gnet, ", "no encoder 'm3gnet'"),
    ],
)
def test_a_broken_campaign(tmp_path, old, new, said):
    refused(demo(tmp_path, "--campaign", campaign(tmp_path, old, new)), tmp_path, said)


def test_a_campaign_that_is_not_there(tmp_path):
    refused(
        demo(tmp_path, "--campaign", "nothing.yaml"), tmp_path, "no campaign file nothing.yaml", "aqvolt26, aqvolt26-m"
    )


def test_an_unreachable_database(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        port = listener.getsockname()[1]
        done = demo(tmp_path, AQVOLT_MONGO_URI=f"mongodb://user:secret@127.0.0.1:{port}/x", AQVOLT_TIMEOUT_S="1")
    refused(done, tmp_path, f"127.0.0.1:{port}", "AQVOLT_MONGO_URI")
    assert "secret" not in done.stderr


def test_a_uri_that_is_none(tmp_path):
    refused(demo(tmp_path, AQVOLT_MONGO_URI="localhost:27017"), tmp_path, "does not start with mongodb://")


def test_a_labeler_without_its_code(tmp_path):
    done = demo(tmp_path, "--labeler", "vasp", VASP_CMD="", PMG_VASP_PSP_DIR="")
    refused(done, tmp_path, "VASP_CMD")
    refused(demo(tmp_path, "--labeler", "abinit"), tmp_path, "known are vasp, gpaw, surrogate")


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    command = [sys.executable, "-W", "ignore", "-m", "aqvolt_launch", "demo", "--workdir", str(tmp_path / "file" / "w")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_port_in_use(tmp_path):
    (tmp_path / "aqvolt.yaml").write_text("{}\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-W", "ignore", "-m", "aqvolt_launch", "db", "start", "--port", port]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert port in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / ".aqvolt" / "db" / "server.json").exists()
