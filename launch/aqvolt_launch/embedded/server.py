"""The embedded database: SecantusDB (MongoDB's wire protocol on WiredTiger) as a process of its own.

It always runs with ``--sync-on-commit``: without it a SIGKILL can lose writes that were acknowledged.
The server is GPL software; it is started as an executable and never imported here.

One folder (``settings.database_dir``) holds everything: ``wiredtiger/`` (the data), ``server.log``,
``server.json`` (PID, port, URI; what :meth:`AqvoltSettings.database_uri` reads), ``password``, ``last_port``,
``my_launchpad.yaml`` (for FireWorks' commands) and ``.lock``. Only its owner can enter the folder, and the server asks
for the password (:mod:`aqvolt_launch.embedded.password`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from aqvolt_flows.errors import DatabaseError, InputError, ResourceError
from aqvolt_flows.settings import EMBEDDED_USER, AqvoltSettings
from aqvolt_launch.embedded import password
from aqvolt_launch.embedded.client_files import write_launchpad_file
from aqvolt_launch.embedded.ports import HOST, free_port, is_free, port_taken
from aqvolt_launch.embedded.probe import SILENT, answers, free_space_fault, refuses_writes
from aqvolt_launch.processes import is_alive, start_mark

EXECUTABLE = "secantusd-py"
#: How long a start may take until the server answers, and a stop until it is gone, seconds.
START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 30.0
_STATUS_WAIT_S = 5.0
_CACHE_SIZE = "512M"
#: No replica set of one, and so no oplog: it would hold every document a second time, and from its 100,000th entry
#: on an insert of large documents prunes it within its own transaction and blocks. Change streams and transactions
#: need it; nothing here uses them.
_ALONE = "--standalone"
_PROTECTED = "--auth"

_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class ServerInfo:
    """What is known about the embedded server.

    Attributes
    ----------
    running
        A process of ours exists for this folder.
    answers
        It answered a ping.
    pid, port, uri
        Process, TCP port on the loopback interface, MongoDB URI with the database's name and without the password.
    started
        When it was started, ISO 8601 in UTC.
    storage, log
        Folder of the WiredTiger files; the server's output.
    note
        A sentence if something was found that needs telling (a stale record, a server of an unknown start).
    """

    running: bool
    answers: bool = False
    pid: int | None = None
    port: int | None = None
    uri: str | None = None
    started: str | None = None
    storage: str | None = None
    log: str | None = None
    note: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a mapping."""
        return asdict(self)


def start(settings: AqvoltSettings, port: int | None = None) -> ServerInfo:
    """Start the server of this project folder, or find it running; return once it answers.

    Parameters
    ----------
    settings
        ``database_dir`` and the database's name.
    port
        TCP port on 127.0.0.1; by default the one used before if it is free, else any free one.

    Raises
    ------
    ResourceError
        If the executable is missing or the folder cannot be written.
    DatabaseError
        If the port is taken, or the server does not answer in time.
    InputError
        If the port is no port number, or the server already runs on another one.
    """
    if port is not None and not 0 < port < 65536:
        raise InputError(f"Port {port} is not a TCP port; give a number from 1 to 65535, or none for a free one.")
    executable = _executable()
    folder = settings.path(settings.database_dir)
    _check_writable(folder)
    if port is not None and not folder.exists() and not is_free(port):
        raise port_taken(port)
    with _lock(folder):
        password.make_private(folder)
        found = _find(settings)
        if found is not None:
            if port is not None and found["port"] != port:
                raise InputError(
                    f"The embedded database runs already on port {found['port']}, not {port}; use it, or run "
                    "'aqvolt db stop' first."
                )
            again = _why_again(settings, found)
            if not again:
                return _info(settings, found, answers=True)
            _terminate(found["pid"], STOP_DEADLINE_S)
            settings.server_file.unlink(missing_ok=True)
            return replace(_launch(settings, executable, found["port"]), note=again)
        return _launch(settings, executable, port)


def _why_again(settings: AqvoltSettings, found: dict[str, Any]) -> str:
    """Return why a running server must be started again; empty where it need not, and then it answers.

    Raises
    ------
    DatabaseError
        If starting it again would not help: the disk is full.
    """
    if not found.get("user"):
        return "It ran without a password, and was started again with one; restart workers that were running."
    uri = _uri(settings, found)
    fault = refuses_writes(uri)
    if fault.startswith(SILENT):  # it starts, or is stopped for a while
        _wait_until_ready(settings, found)
        fault = refuses_writes(uri)
    if not fault:
        write_launchpad_file(settings, uri)
        return ""
    full = free_space_fault(_storage(settings))
    if full:
        raise DatabaseError(f"The embedded database refuses writes ({fault}): {full}")
    return f"It refused writes ({fault}), as after a full disk, and was started again."


def stop(settings: AqvoltSettings, deadline_s: float = STOP_DEADLINE_S) -> ServerInfo:
    """Stop the server and remove its record; return what was stopped (``running`` False).

    SIGTERM first, so that WiredTiger closes cleanly; SIGKILL after ``deadline_s``.
    """
    folder = settings.path(settings.database_dir)
    if not folder.exists():
        return ServerInfo(running=False, note=f"No embedded database in {folder}.")
    with _lock(folder):
        found = _find(settings)
        record = _read_record(settings)
        if found is None:
            settings.server_file.unlink(missing_ok=True)
            gone = "The record was stale; it is removed." if record else "No embedded database was running."
            return ServerInfo(running=False, note=gone)
        killed = _terminate(found["pid"], deadline_s)
        settings.server_file.unlink(missing_ok=True)
        note = f"It did not end within {deadline_s:g} s of SIGTERM and was killed." if killed else None
        return ServerInfo(running=False, pid=found["pid"], port=found["port"], uri=found["uri"], note=note)


def status(settings: AqvoltSettings) -> ServerInfo:
    """Return what runs for this project folder; changes nothing."""
    record = _read_record(settings)
    found = _find(settings)
    if found is None:
        note = (
            f"The record names process {record['pid']}, which is gone (killed, or the machine restarted); "
            "'aqvolt db start' starts it again on the same data."
            if record
            else None
        )
        return ServerInfo(running=False, note=note)
    fault = SILENT
    with contextlib.suppress(DatabaseError):  # without its password file it is as good as silent
        fault = refuses_writes(_uri(settings, found), _STATUS_WAIT_S)
    info = _info(settings, found, answers=not fault)
    if fault and not fault.startswith(SILENT):
        full = free_space_fault(_storage(settings)) or "Run 'aqvolt db start', which starts it again."
        return replace(info, note=f"It answers but refuses writes ({fault}). {full}")
    if not found.get("user"):
        return replace(info, note="It asks for no password: run 'aqvolt db start', which starts it again with one.")
    return info


def _uri(settings: AqvoltSettings, record: dict[str, Any]) -> str:
    return settings.with_password(record["uri"], record.get("user"))


def _info(settings: AqvoltSettings, record: dict[str, Any], answers: bool) -> ServerInfo:
    return ServerInfo(
        running=True,
        answers=answers,
        pid=record["pid"],
        port=record["port"],
        uri=record["uri"],
        started=record["started"],
        storage=record["storage"],
        log=str(_log_file(settings)),
        note=record.get("note"),
    )


def _launch(settings: AqvoltSettings, executable: str, port: int | None) -> ServerInfo:
    """Start a process and wait for it; a free port taken by another in the meantime is chosen anew."""
    previous = _read_record(settings)
    if full := free_space_fault(_storage(settings)):
        raise DatabaseError(f"The embedded database is not started: {full}")
    if port is not None:
        if not is_free(port):
            raise port_taken(port)
        candidates = [port]
    else:
        old = previous["port"] if previous else _last_port(settings)
        candidates = ([old] if old and is_free(old) else []) + [free_port() for _ in range(3)]
    new = not password.is_set(settings)
    if new:
        password.provision(settings, lambda: _unprotected(settings, executable))
    for index, chosen in enumerate(candidates):
        record = _spawn(settings, executable, chosen)
        try:
            _wait_until_ready(settings, record)
        except DatabaseError:
            _terminate(record["pid"], 5.0)
            settings.server_file.unlink(missing_ok=True)
            if index + 1 < len(candidates) and not is_free(chosen):
                continue
            raise
        if new:
            password.remove_strangers(_uri(settings, record))
        return _info(settings, record, answers=True)
    raise DatabaseError("No free port was found for the embedded database; name one with --port.")


def _unprotected(settings: AqvoltSettings, executable: str) -> Iterator[str]:
    """Run a server that asks for no password; no record tells of it."""
    port = free_port()
    process = _process_on(settings, executable, port, protected=False)
    record = _record(settings, process.pid, port, protected=False)
    try:
        _wait_until_ready(settings, record)
        yield record["uri"]
    finally:
        _terminate(process.pid, STOP_DEADLINE_S)


def _spawn(settings: AqvoltSettings, executable: str, port: int) -> dict[str, Any]:
    """Start the server in a session of its own and record it at once."""
    process = _process_on(settings, executable, port, protected=True)
    record = _record(settings, process.pid, port, protected=True)
    _write_record(settings, record)
    (settings.path(settings.database_dir) / "last_port").write_text(f"{port}\n")
    return record


def _process_on(settings: AqvoltSettings, executable: str, port: int, protected: bool) -> subprocess.Popen[bytes]:
    folder = settings.path(settings.database_dir)
    config = folder / "secantusd.toml"
    if not config.exists():  # a file of ours, so that no other secantusd.toml of the machine is picked up
        config.write_text("# Settings come from the command line of 'aqvolt db start'.\n")
    options = {"--config": str(config), "--host": HOST, "--port": str(port), "--storage-path": str(_storage(settings))}
    options |= {"--cache-size": _CACHE_SIZE, "--log-level": "WARNING"}
    command = [executable, *(word for option in options.items() for word in option), "--sync-on-commit", _ALONE]
    with _log_file(settings).open("ab") as log:
        process = subprocess.Popen(
            [*command, *([_PROTECTED] if protected else [])],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,
        )
    _children[process.pid] = process
    return process


def _last_port(settings: AqvoltSettings) -> int | None:
    """Return the port of the server before, so that addresses that others noted stay true."""
    try:
        port = int((settings.path(settings.database_dir) / "last_port").read_text())
    except (OSError, ValueError):
        return None
    return port if 0 < port < 65536 else None


def _record(settings: AqvoltSettings, pid: int, port: int, protected: bool, note: str | None = None) -> dict[str, Any]:
    created = psutil.Process(pid).create_time()
    return {
        "pid": pid,
        "port": port,
        "uri": f"mongodb://{HOST}:{port}/{settings.database}?directConnection=true",
        "user": EMBEDDED_USER if protected else None,
        "started": datetime.fromtimestamp(created, UTC).isoformat(timespec="seconds"),
        "mark": start_mark(pid),
        "storage": str(_storage(settings)),
        "note": note,
    }


def _find(settings: AqvoltSettings) -> dict[str, Any] | None:
    """Return the record of the server that runs on this folder, or None.

    The record is believed only if its process still is that server. Without a usable record the
    processes of this machine are searched for one on our storage folder: a starter killed before it
    wrote the record leaves such a server, and a second one on the same files would be refused.
    """
    record = _read_record(settings)
    storage = str(_storage(settings))
    if record is not None:
        process = _process(record["pid"])
        if process is not None and _serves(process, storage) and is_alive(record["pid"], record["mark"]):
            return record
    for process in psutil.process_iter():
        port = _serves(process, storage)
        if port is not None and _process(process.pid) is not None:
            with contextlib.suppress(psutil.Error):
                protected = _PROTECTED in process.cmdline()
                found = _record(settings, process.pid, port, protected, note="Found running without a record.")
                with contextlib.suppress(OSError):
                    _write_record(settings, found)
                return found
    return None


def _process(pid: int) -> psutil.Process | None:
    """Return a process that exists and is no zombie; one of our own children that ended is reaped."""
    try:
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return process
    except psutil.Error:
        pass
    child = _children.pop(pid, None)
    if child is not None:
        child.wait()
    return None


def _serves(process: psutil.Process, storage: str) -> int | None:
    """Return the port if the process is a server on this storage folder."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return None
    if storage not in words or not any(Path(word).name == EXECUTABLE for word in words[:3]):
        return None
    try:
        if words[words.index("--storage-path") + 1] != storage:
            return None
        return int(words[words.index("--port") + 1])
    except (ValueError, IndexError):
        return None


def _terminate(pid: int, deadline_s: float) -> bool:
    """End a process and wait until it is gone; return whether SIGKILL was needed."""
    for sig, wait_s in ((signal.SIGTERM, deadline_s), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sig)
        end = time.monotonic() + wait_s
        while time.monotonic() < end:
            if _process(pid) is None:
                return sig == signal.SIGKILL
            time.sleep(0.05)
    raise DatabaseError(f"Process {pid} of the embedded database does not end, even after SIGKILL; look at it with ps.")


def _wait_until_ready(settings: AqvoltSettings, record: dict[str, Any]) -> None:
    end = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < end:
        if _process(record["pid"]) is None:
            raise DatabaseError(f"The embedded database ended while it started; {_tail(settings)}")
        if answers(_uri(settings, record), 0.5):
            write_launchpad_file(settings, _uri(settings, record))
            return
        time.sleep(0.05)
    raise DatabaseError(f"The embedded database did not answer within {START_DEADLINE_S:g} s; {_tail(settings)}")


def _tail(settings: AqvoltSettings, lines: int = 5) -> str:
    log = _log_file(settings)
    try:
        last = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()][-lines:]
    except OSError:
        last = []
    return f"its log {log} ends with: {' | '.join(last) or 'nothing'}"


def _storage(settings: AqvoltSettings) -> Path:
    return settings.path(settings.database_dir) / "wiredtiger"


def _log_file(settings: AqvoltSettings) -> Path:
    return settings.path(settings.database_dir) / "server.log"


def _read_record(settings: AqvoltSettings) -> dict[str, Any] | None:
    try:
        record = json.loads(settings.server_file.read_text())
    except (OSError, ValueError):
        return None
    needed = {"pid": int, "port": int, "uri": str, "started": str, "mark": int, "storage": str}
    usable = isinstance(record, dict) and all(isinstance(record.get(k), t) for k, t in needed.items())
    return record if usable else None


def _write_record(settings: AqvoltSettings, record: dict[str, Any]) -> None:
    aside = settings.server_file.with_name(f".server.json.{os.getpid()}.part")
    aside.write_text(json.dumps(record, indent=2) + "\n")
    aside.replace(settings.server_file)


def _executable() -> str:
    """Return the server's executable: beside this Python, or on PATH."""
    beside = Path(sys.executable).with_name(EXECUTABLE)
    found = str(beside) if beside.is_file() else shutil.which(EXECUTABLE)
    if found is None:
        raise ResourceError(
            f"The embedded database needs {EXECUTABLE}, which is neither beside {sys.executable} nor on PATH; install "
            "it with pip install 'aqvolt-flows[embedded]', or set AQVOLT_MONGO_URI to a MongoDB."
        )
    return found


def _check_writable(folder: Path) -> None:
    """Raise unless the folder can be made and written; leaves nothing behind."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ResourceError(
            f"The embedded database cannot be kept in {folder}: {existing} is not a folder that this user can write; "
            "choose another with database_dir in aqvolt.yaml."
        )


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Let one process at a time start or stop the server of a folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = (folder / ".lock").open("w")
    except OSError as error:
        raise ResourceError(
            f"The embedded database cannot be kept in {folder} ({error.strerror}); choose another place with "
            "database_dir in aqvolt.yaml."
        ) from None
    with handle:
        end = time.monotonic() + START_DEADLINE_S + STOP_DEADLINE_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise DatabaseError(
                        f"Another process has been starting or stopping the database in {folder} for too long; look "
                        "for a hanging 'aqvolt db'."
                    ) from None
                time.sleep(0.05)
        yield
