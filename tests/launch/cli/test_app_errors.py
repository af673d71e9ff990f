"""What ends a command from outside is a sentence: a database that dies, an interrupt, a termination."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from pymongo.errors import AutoReconnect

from aqvolt_flows.settings import load_settings
from aqvolt_flows.stores import failed
from aqvolt_launch.embedded import server as embedded

ATTEMPT = """
import sys, time
from aqvolt_launch.cli import app as module, main
from aqvolt_launch.project import status
status.collect_status = lambda *a, **k: {body}
sys.argv = ["aqvolt", "status"]
main()
"""


def run(body: str) -> subprocess.Popen[str]:
    code = ATTEMPT.replace("{body}", body).replace("import app as module, main", "import main")
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # whoever started the tests in the background had SIGINT ignored, which children inherit
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(("sent", "code", "said"), [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Term")])
def test_signals_are_answered_with_a_sentence_also_without_a_terminal(sent: int, code: int, said: str) -> None:
    process = run("(print('here', flush=True), time.sleep(60))")
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.send_signal(sent)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert errors.startswith(f"aqvolt: {said}")
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.usefixtures("database")
def test_a_database_that_dies_meanwhile_is_a_sentence() -> None:
    process = run("(_ for _ in ()).throw(__import__('pymongo').errors.AutoReconnect('127.0.0.1:1: connection closed'))")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert len(errors.strip().splitlines()) == 1, errors
    assert "failed (AutoReconnect: 127.0.0.1:1: connection closed); what was finished is kept" in errors


def test_the_sentence_holds_no_password(project: Path) -> None:
    settings = load_settings(mongo_uri="mongodb://ann:s3cret@db.example.org:1/x")
    assert "s3cret" not in str(failed(AutoReconnect("gone"), settings))


def test_a_demo_that_is_terminated_ends_its_database(project: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "aqvolt_launch", "demo", "--workdir", str(project / "w")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    settings = load_settings(Path(os.devnull), root=project / "w")
    end = time.monotonic() + 90
    while not embedded.status(settings).answers:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.2)
    server = embedded.status(settings).pid
    process.terminate()
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 143
    assert "Terminated" in errors
    assert not psutil.pid_exists(server or 0) or psutil.Process(server).status() == psutil.STATUS_ZOMBIE
    assert not embedded.status(settings).running
