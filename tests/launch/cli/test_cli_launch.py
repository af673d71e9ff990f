"""The commands of this part, as people call them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import trivial_jobs
import typer
from typer.testing import CliRunner

from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_launch.cli import database as database_commands
from aqvolt_launch.cli import output
from aqvolt_launch.cli import workers as worker_commands
from aqvolt_launch.submission.submit import submit


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    database_commands.register(made)
    worker_commands.register(made)
    return made


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aqvolt_launch", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_work_status_reconcile(database: Database, settings: AqvoltSettings, app: typer.Typer) -> None:
    submit([trivial_jobs.add_item(n) for n in range(2)], settings)
    worked = run("work", "--until-empty", "--json", "--max-launches", "1")
    assert worked.returncode == 0, worked.stderr
    assert json.loads(worked.stdout)["completed"] == 1, "and nothing else on standard output"
    runner = CliRunner()
    assert "1 completed" in runner.invoke(app, ["work", "--until-empty"]).stdout
    found = json.loads(runner.invoke(app, ["status", "--json"]).stdout)
    assert found["stages"] == [{"stage": "explore", "READY": 0, "RUNNING": 0, "COMPLETED": 2, "FIZZLED": 0}]
    shown = runner.invoke(app, ["status"])
    assert "explore" in shown.stdout
    assert "outputs" in shown.stdout
    report = json.loads(runner.invoke(app, ["reconcile", "--dry-run", "--json"]).stdout)
    assert report["dry_run"] is True
    assert report["without_output"] == report["orphans"] == report["lost"] == []
    assert "Dry run" in runner.invoke(app, ["reconcile", "--dry-run"]).stdout


@pytest.mark.parametrize("command", ["status", "work", "reconcile"])
def test_without_a_database_one_sentence_and_exit_code_2(project: Path, command: str) -> None:
    (project / "aqvolt.yaml").write_text("{}\n")
    done = run(command)
    assert done.returncode == 2
    assert done.stderr.startswith("aqvolt: No database: ")
    assert "aqvolt db start" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert [path.name for path in project.iterdir()] == ["aqvolt.yaml"], "nothing is written"


def test_unreachable_database_is_a_sentence_without_the_password(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AQVOLT_MONGO_URI", "mongodb://ann:s3cret@127.0.0.1:9/aqvolt")
    monkeypatch.setenv("AQVOLT_TIMEOUT_S", "0.3")
    done = run("work", "--until-empty")
    assert done.returncode == 2
    assert "No MongoDB answers at" in done.stderr
    assert "s3cret" not in done.stderr + done.stdout
    assert list(project.iterdir()) == []


def test_db_status_exit_code(project: Path, app: typer.Typer) -> None:
    done = CliRunner().invoke(app, ["db", "status", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["running"] is False
    assert CliRunner().invoke(app, ["db", "stop"]).exit_code == 0
    assert list(project.iterdir()) == []


def test_tables_show_square_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    output.table([{"todo": "pip install 'aqvolt-flows[gpaw]'"}])
    assert "[gpaw]" in capsys.readouterr().out
