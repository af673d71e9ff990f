"""docker-compose.yml and Dockerfile, as far as they can be checked without an engine; and the web pages, live."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import trivial_jobs
import yaml

from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_launch.submission.submit import submit

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_mongo_asks_for_a_password_that_is_in_no_file_of_ours(compose: dict[str, Any]) -> None:
    mongo = compose["services"]["mongo"]
    assert mongo["image"] == "mongo:8"
    assert mongo["environment"]["MONGO_INITDB_ROOT_USERNAME"]
    assert mongo["environment"]["MONGO_INITDB_ROOT_PASSWORD"].startswith("${MONGO_PASSWORD:?")
    for service in compose["services"].values():
        for name, value in service["environment"].items():
            if "PASSWORD" in name or "URI" in name:
                assert "${MONGO_PASSWORD:?" in value, f"{name} must take the password from the environment"
    example = dict(re.findall(r"^([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert example["MONGO_PASSWORD"] == ""
    assert ".env" in (ROOT / ".gitignore").read_text().split()


def test_ports_are_on_loopback_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(str(port).startswith("127.0.0.1:") for port in ports)
    assert not any(service.get("network_mode") == "host" for service in compose["services"].values())


def test_health_volumes_and_order(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert "mongosh" in str(services["mongo"]["healthcheck"]["test"])
    assert "mongo-data:/data/db" in services["mongo"]["volumes"]
    assert "mongo-data" in compose["volumes"]
    for name in ("webgui", "worker"):
        assert services[name]["depends_on"]["mongo"]["condition"] == "service_healthy"
        assert services[name]["build"] == "."
    assert services["worker"]["command"] == ["aqvolt", "work"]


def test_image_is_installed_as_everywhere() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert text.splitlines()[1].startswith("FROM python:3.12-slim")
    runs = [line for line in text.splitlines() if re.search(r"\bpip install\b|\buv \b", line)]
    assert re.search(r"^RUN make env\b", text, re.MULTILINE)
    assert runs == [], "packages come from make env alone"
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    assert "*" in ignored
    assert not any(line.startswith("!.env") for line in ignored), "no secret enters the image"


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
def test_compose_parser_accepts_the_file_and_wants_a_password() -> None:
    command = ["docker-compose", "--file", str(ROOT / "docker-compose.yml"), "config", "--quiet"]
    bare = {name: value for name, value in os.environ.items() if not name.startswith("MONGO_")}
    good = subprocess.run(command, env=bare | {"MONGO_PASSWORD": "x"}, capture_output=True, text=True, cwd="/")
    assert good.returncode == 0, good.stderr
    if not (ROOT / ".env").exists():
        bad = subprocess.run(command, env=bare, capture_output=True, text=True, cwd="/")
        assert bad.returncode != 0
        assert "set MONGO_PASSWORD in .env" in bad.stderr


def test_web_pages_show_what_was_submitted(
    database: Database, settings: AqvoltSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    submit([trivial_jobs.add_item(7)], settings)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "aqvolt_launch.webgui", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            end = time.monotonic() + 60
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                        page = answer.read().decode()
                    break
                except (urllib.error.URLError, ConnectionError):
                    assert server.poll() is None, server.stdout and server.stdout.read()
                    assert time.monotonic() < end
                    time.sleep(0.1)
        finally:
            server.terminate()
            server.communicate(timeout=20)
    assert "READY" in page
    assert "add 7" in page, "the workflow's name is on the front page"
