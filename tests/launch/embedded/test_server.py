"""The embedded database: start, stop, status, and what survives what."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
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
from aqvolt_launch.embedded.ports import free_port
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
    assert first.uri == f"mongodb://127.0.0.1:{first.port}/aqvolt?directConnection=true"
    assert folder.database_uri() == folder.with_password(first.uri, "aqvolt")
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
    with MongoClient(folder.database_uri()) as client:
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
    assert read(folder.database_uri()) == {1}


def test_no_oplog_holds_documents_twice(folder: AqvoltSettings) -> None:
    """An oplog blocks large inserts from its 100,000th entry on; a server without one is no replica set."""
    embedded.start(folder)
    with MongoClient(folder.database_uri()) as client:
        client.get_default_database()["c"].insert_many([{"n": n} for n in range(10)])
        assert "setName" not in client.admin.command("hello")
        assert client["local"]["oplog.rs"].find_one() is None


def test_what_was_acknowledged_survives_sigkill(folder: AqvoltSettings) -> None:
    """Insert one document after another with w=1, kill the server in the middle, and look for each acknowledged one."""
    for _ in range(2):
        info = embedded.start(folder)
        before = read(folder.database_uri())
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
            threading.Thread(target=insert, args=(folder.database_uri(), acknowledged, (len(before) + 1) * 10**6 * i))
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
        embedded.start(folder)
        assert set(acknowledged) | before <= read(folder.database_uri())


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
    assert folder.database_uri() == folder.with_password(first.uri, "aqvolt")


def refused(uri: str) -> bool:
    """Whether a connection can neither read, list, write nor make itself a user."""
    with MongoClient(uri, serverSelectionTimeoutMS=5000, retryWrites=False) as client:
        collection = client["aqvolt"]["fireworks"]
        attempts = (
            lambda: collection.find_one(),
            lambda: collection.insert_one({"spec": {"_tasks": [{"_fw_name": "ScriptTask", "script": "id"}]}}),
            lambda: client.list_database_names(),
            lambda: client.drop_database("aqvolt"),
            lambda: client.admin.command("createUser", "eve", pwd="eve", roles=["root"]),
        )
        for attempt in attempts:
            with pytest.raises(PyMongoError):
                attempt()
    return True


def test_nobody_reads_or_writes_without_the_password(folder: AqvoltSettings) -> None:
    info = embedded.start(folder)
    with MongoClient(folder.database_uri()) as client:
        client["aqvolt"]["fireworks"].insert_one({"n": 1})
    assert refused(info.uri)
    assert refused(info.uri.replace("//", "//aqvolt:guessed@") + "&authSource=admin")
    password = folder.password_file.read_text().strip()
    assert len(password) >= 43, "256 bits"
    assert stat.S_IMODE(folder.password_file.stat().st_mode) == 0o600
    directory = folder.path(folder.database_dir)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "my_launchpad.yaml").stat().st_mode) == 0o600
    shown = " ".join(psutil.Process(info.pid).cmdline()) + str(info.as_dict()) + folder.server_file.read_text()
    shown += (directory / "server.log").read_text()
    assert password not in shown
    with MongoClient(folder.database_uri()) as client:
        users = client.admin["system.users"].find()
        assert [(u["db"], u["user"]) for u in users] == [("admin", "aqvolt")]
        assert client["aqvolt"]["fireworks"].count_documents({}) == 1
    directory.chmod(0o755)
    folder.password_file.chmod(0o644)
    embedded.start(folder)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.password_file.stat().st_mode) == 0o600


def test_a_database_of_version_0_1_gets_a_password_and_keeps_its_data(folder: AqvoltSettings) -> None:
    """As 0.1 left it: the server runs, its record and its data know no user; somebody else made themself one."""
    storage = folder.path(folder.database_dir) / "wiredtiger"
    storage.mkdir(parents=True)
    port = free_port()
    command = [str(Path(sys.executable).with_name("secantusd-py")), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--storage-path", str(storage), "--sync-on-commit", "--standalone"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    uri = f"mongodb://127.0.0.1:{port}/aqvolt?directConnection=true"
    with MongoClient(uri, serverSelectionTimeoutMS=20000) as client:
        client.get_default_database()["c"].insert_one({"n": 1})
        client.admin.command("createUser", "eve", pwd="eve", roles=["root"])
        client["aqvolt"].command("createUser", "eve", pwd="eve", roles=["readWrite"])
    record = {"pid": process.pid, "port": port, "uri": uri, "started": "", "mark": start_mark(process.pid)}
    folder.server_file.write_text(json.dumps(record | {"storage": str(storage), "note": None}))
    assert folder.database_uri() == uri, "commands go on until it is started again"
    assert "asks for no password" in str(embedded.status(folder).note)
    info = embedded.start(folder)
    process.wait(20)
    assert info.port == port
    assert "without a password" in str(info.note)
    assert read(folder.database_uri()) == {1}
    assert refused(uri)
    for source in ("admin", "aqvolt"):
        assert refused(f"{uri.replace('//', '//eve:eve@')}&authSource={source}"), "users of before are removed"
    assert embedded.start(folder).note is None


def test_a_lost_password_file_is_a_sentence_and_a_new_start_makes_another(folder: AqvoltSettings) -> None:
    embedded.start(folder)
    with MongoClient(folder.database_uri()) as client:
        client.get_default_database()["c"].insert_one({"n": 1})
    folder.password_file.unlink()
    with pytest.raises(DatabaseError, match="'aqvolt db stop', then 'aqvolt db start'"):
        folder.database_uri()
    assert not embedded.status(folder).answers
    with pytest.raises(DatabaseError, match="is gone"):
        embedded.start(folder)
    embedded.stop(folder)
    embedded.start(folder)
    assert read(folder.database_uri()) == {1}


def test_a_start_that_was_killed_while_it_made_the_user_is_repeated(folder: AqvoltSettings, monkeypatch) -> None:
    from aqvolt_launch.embedded import password

    def killed(settings, unprotected):
        next(unprotected())
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(password, "provision", killed)
        with pytest.raises(KeyboardInterrupt):
            embedded.start(folder)
    info = embedded.start(folder)
    assert info.answers
    assert refused(info.uri)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_of_the_machine_can_neither_read_the_password_nor_connect(folder: AqvoltSettings) -> None:
    info = embedded.start(folder)
    code = (
        "import os, sys; from pymongo import MongoClient\n"
        "try:\n    MongoClient(sys.argv[2]).x.y.find_one()\nexcept Exception:\n    pass  # imports what it needs\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n    open(sys.argv[1]).read(); print('read')\nexcept PermissionError:\n    print('denied')\n"
        "try:\n    print(MongoClient(sys.argv[2]).x.y.find_one())\nexcept Exception as e:\n    print(e.code)\n"
        "try:\n    print(MongoClient(sys.argv[2]).x.y.insert_one({}))\nexcept Exception as e:\n    print(e.code)\n"
    )
    for folder_above in folder.password_file.parents[2:-1]:
        folder_above.chmod(folder_above.stat().st_mode | 0o711)
    words = [sys.executable, "-c", code, str(folder.password_file), info.uri]
    done = subprocess.run(words, capture_output=True, text=True, cwd="/")
    assert done.stdout.split() == ["denied", "13", "13"], done.stderr


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
