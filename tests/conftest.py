"""Fixtures that every test may use: a throwaway database server, and a project folder with a fresh database on it."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # beside other workers; they inherit the next line's 2
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("FW_CONFIG_FILE", f"{os.devnull}/FW_config.yaml")  # of no file, so that no user's is read

import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from aqvolt_flows.settings import AqvoltSettings
    from aqvolt_flows.stores import Database


def free_port() -> int:
    """Return a loopback port that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def secantusd() -> str | None:
    """Return the executable of the embedded server, beside this Python or on PATH."""
    beside = Path(sys.executable).with_name("secantusd-py")
    return str(beside) if beside.is_file() else shutil.which("secantusd-py")


@pytest.fixture(scope="session")
def mongo_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URI of a SecantusDB process for the whole session, or of the server that AQVOLT_TEST_MONGO_URI names."""
    given = os.environ.get("AQVOLT_TEST_MONGO_URI")
    if given:
        yield given
        return
    executable = secantusd()
    if executable is None:
        pytest.fail("secantusd-py is not installed; the tests need the extra 'embedded'")
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError

    folder = tmp_path_factory.mktemp("secantus")
    port = free_port()
    uri = f"mongodb://127.0.0.1:{port}/?directConnection=true"
    command = [executable, "--host", "127.0.0.1", "--port", str(port), "--storage-path", str(folder / "db")]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder)
    try:
        deadline = time.monotonic() + 60
        with MongoClient(uri, serverSelectionTimeoutMS=500) as client:
            while True:
                try:
                    client.admin.command("ping")
                    break
                except PyMongoError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        pytest.fail(f"the test database did not start:\n{(folder / 'server.log').read_text()[-2000:]}")
                    time.sleep(0.05)
        yield uri
    finally:
        from aqvolt_flows import stores
        from aqvolt_launch import launchpad

        stores.close_clients()
        launchpad.close_launchpads()
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the working directory, with no AQVOLT_… variable set."""
    for name in [n for n in os.environ if n.startswith("AQVOLT_") and not n.startswith("AQVOLT_TEST_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def configured() -> dict[str, str]:
    """What ``aqvolt.yaml`` holds besides; a module overrides it to name its campaign."""
    return {}


@pytest.fixture
def settings(
    project: Path, mongo_uri: str, monkeypatch: pytest.MonkeyPatch, configured: dict[str, str]
) -> AqvoltSettings:
    """Settings of a project folder in ``tmp_path`` whose database is fresh; jobs and subprocesses find them too."""
    from aqvolt_flows.settings import CONFIG_NAME, CONFIG_VARIABLE, load_settings

    config = project / CONFIG_NAME
    values = {
        "mongo_uri": mongo_uri,
        "database": f"test_{uuid.uuid4().hex[:12]}",
        "device": "cpu",
        "job_packages": ["trivial_jobs"],
    }
    values |= configured
    config.write_text(yaml.safe_dump(values))
    monkeypatch.setenv(CONFIG_VARIABLE, str(config))
    return load_settings()


@pytest.fixture
def database(settings: AqvoltSettings) -> Iterator[Database]:
    """A connected, empty database with its indexes, and artifacts in ``tmp_path``; dropped afterwards."""
    from aqvolt_flows.stores import Database

    connected = Database.connect(settings)
    connected.ensure_indexes()
    yield connected
    connected.mongo.client.drop_database(connected.mongo.name)
