"""The embedded database: start, stop, status, and what survives what."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from aqvolt_flows.errors import DatabaseError, InputError, ResourceError
from aqvolt_flows.settings import AqvoltSettings, load_settings
from aqvolt_launch.embedded import server as embedded
from aqvolt_launch.processes import start_mark


@pytest.fixture
def folder(project: Path) -> Iterator[AqvoltSettings]:
    """Settings of a folder without a configured database; whatever runs there is stopped."""
    settings = load_settings()
    yield settings
    embedded.stop(settings)


def read(uri: str) -> set[int]:
    with MongoClient(uri, serverSelectionTimeoutMS=5000) as client:
        return {d["n"] for d in client.get_default_database()["c"].find()}


def test_start_answers_is_recorded_and_idempotent(folder: AqvoltSettings) -> None:
    assert not embedded.status(folder).running
    first = embedded.start(folder)
    assert first.uri == folder.database_uri() == f"mongodb://127.0.0.1:{first.port}/aqvolt?directConnection=true"
    assert embedded.start(folder) == first
    assert embedded.status(folder) == first
    process = psutil.Process(first.pid)
    assert "--sync-on-commit" in process.cmdline()
    assert os.getsid(first.pid) == first.pid != os.getsid(0), "the server must be in a session of its own"
    addresses = {c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN}
    assert addresses == {"127.0.0.1"}
    stopped = embedded.stop(folder)
    assert stopped.pid == first.pid
    assert not psutil.pid_exists(first.pid)
    assert not folder.server_file.exists()
    assert not embedded.status(folder).running
    with pytest.raises(DatabaseError, match="aqvolt db start"):
        folder.database_uri()


def test_data_and_port_stay_after_the_server_was_killed(folder: AqvoltSettings) -> None:
    first = embedded.start(folder)
    with MongoClient(first.uri) as client:
        client.get_default_database()["c"].insert_one({"n": 1})
    os.kill(first.pid, signal.SIGKILL)
    while psutil.pid_exists(first.pid) and psutil.Process(first.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    stale = embedded.status(folder)
    assert not stale.running
    assert "which is gone" in str(stale.note)
    again = embedded.start(folder)
    assert again.pid != first.pid
    assert again.port == first.port, "the recorded port is free, so that open clients find the server again"
    assert read(again.uri) == {1}


def test_no_oplog_holds_documents_twice(folder: AqvoltSettings) -> None:
    """An oplog blocks large inserts from its 100,000th entry on; a server without one is no replica set."""
    info = embedded.start(folder)
    with MongoClient(info.uri) as client:
        client.get_default_database()["c"].insert_many([{"n": n} for n in range(10)])
        assert "setName" not in client.admin.command("hello")
        assert client["local"]["oplog.rs"].find_one() is None


def test_what_was_acknowledged_survives_sigkill(folder: AqvoltSettings) -> None:
    """Insert one document after another with w=1, kill the server in the middle, and look for each acknowledged one."""
    for _ in range(2):
        info = embedded.start(folder)
        before = read(info.uri)
        acknowledged: list[int] = []

        def insert(uri: str, done: list[int], start: int) -> None:
            with MongoClient(uri, w=1, serverSelectionTimeoutMS=500, retryWrites=False) as client:
                collection = client.get_default_database()["c"]
                n = start
                while True:
                    try:
                        collection.insert_one({"n": n, "filler": "x" * 500})
                    except PyMongoError:
                        return
                    done.append(n)
                    n += 1

        writers = [
            threading.Thread(target=insert, args=(info.uri, acknowledged, (len(before) + 1) * 10**6 * i))
            for i in (1, 2)
        ]
        for writer in writers:
            writer.start()
        while len(acknowledged) < 50:
            time.sleep(0.01)
        os.kill(info.pid, signal.SIGKILL)
        for writer in writers:
            writer.join()
        assert len(acknowledged) >= 50
        again = embedded.start(folder)
        assert set(acknowledged) | before <= read(again.uri)


def test_record_of_another_process_is_not_believed(folder: AqvoltSettings) -> None:
    info = embedded.start(folder)
    embedded.stop(folder)
    own = psutil.Process()
    record = {
        "pid": own.pid,
        "port": info.port,
        "uri": info.uri,
        "started": "2026-01-01T00:00:00+00:00",
        "mark": start_mark(own.pid),
        "storage": info.storage,
    }
    folder.server_file.write_text(json.dumps(record))
    assert not embedded.status(folder).running
    embedded.stop(folder)
    assert psutil.pid_exists(own.pid), "a reused PID is never killed"


def test_server_without_record_is_found_again(folder: AqvoltSettings) -> None:
    first = embedded.start(folder)
    folder.server_file.unlink()
    found = embedded.start(folder)
    assert (found.pid, found.port) == (first.pid, first.port)
    assert folder.database_uri() == first.uri


def test_concurrent_starts_run_one_server(folder: AqvoltSettings) -> None:
    (folder.root / "aqvolt.yaml").write_text("{}\n")
    command = [sys.executable, "-m", "aqvolt_launch", "db", "start", "--json"]
    starters = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    infos = [json.loads(starter.communicate(timeout=60)[0]) for starter in starters]
    assert [starter.returncode for starter in starters] == [0, 0, 0]
    assert len({(i["pid"], i["port"]) for i in infos}) == 1
    assert psutil.pid_exists(infos[0]["pid"]), "the server survives its starter"
    assert psutil.Process(infos[0]["pid"]).ppid() != os.getpid()


def test_port_in_use_names_port_and_owner(folder: AqvoltSettings) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(DatabaseError, match=rf"Port {port} .*in use by process {os.getpid()} .*--port"):
            embedded.start(folder, port)
    assert list(folder.root.iterdir()) == [], "nothing is written"


def test_other_port_than_the_running_one_is_refused(folder: AqvoltSettings) -> None:
    info = embedded.start(folder)
    with pytest.raises(InputError, match=f"already on port {info.port}"):
        embedded.start(folder, 1 + info.port % 65535)
    with pytest.raises(InputError, match="not a TCP port"):
        embedded.start(folder, 70000)


def test_missing_executable_names_the_extra(folder: AqvoltSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(folder.root / "python"))
    monkeypatch.setenv("PATH", str(folder.root))
    with pytest.raises(ResourceError, match=r"aqvolt-flows\[embedded\]"):
        embedded.start(folder)
    assert list(folder.root.iterdir()) == []


def test_folder_that_cannot_be_written(project: Path) -> None:
    (project / "file").write_text("")
    with pytest.raises(ResourceError, match=r"not a folder that this user can write.*database_dir"):
        embedded.start(load_settings(database_dir=project / "file" / "db"))
    assert [p.name for p in project.iterdir()] == ["file"]


def test_server_that_dies_on_start_shows_its_log(folder: AqvoltSettings) -> None:
    storage = folder.path(folder.database_dir) / "wiredtiger"
    storage.mkdir(parents=True)
    (storage / "WiredTiger").write_text("not a database")
    (storage / "WiredTiger.turtle").write_text("not a database")
    with pytest.raises(DatabaseError, match=r"ended while it started; its log .*server.log ends with: .*WiredTiger"):
        embedded.start(folder)
    assert not folder.server_file.exists()
