"""Outside a project: one sentence from every command that needs one, and nothing written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
from typer.testing import CliRunner

from aqvolt_flows.errors import ConfigError
from aqvolt_launch.cli import commands, here

#: They work on files, on names, or make the project.
ANYWHERE = {
    "init",
    "demo",
    "protocol",
    "query",
    "campaign list",
    "campaign show",
    "campaign check",
    "release verify",
    "release diff",
    "release export",
    "release card",
    "release push",
    "release pull",
    "model push",
    "model pull",
    "model trust",
    "model trusted",
    "benchmark run",
}


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    made = typer.Typer(pretty_exceptions_enable=False)
    commands.register(made)
    return made


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield name and command of every command that does something."""
    subcommands = getattr(command, "commands", None)
    if subcommands is None:
        yield " ".join(path), command
        return
    for name, below in subcommands.items():
        yield from leaves(below, (*path, name))


def arguments(command: Any) -> list[str]:
    """Return something for each parameter that must be given; '1' is a number, a name and a path."""
    given: list[str] = []
    for parameter in command.params:
        if parameter.required:
            given += ["1"] if parameter.param_type_name == "argument" else [parameter.opts[0], "1"]
    return given


def test_every_command_that_needs_a_project_says_so_and_writes_nothing(app, project: Path) -> None:
    runner = CliRunner()
    asked = 0
    for name, command in leaves(typer.main.get_command(app)):
        if name in ANYWHERE:
            continue
        done = runner.invoke(app, [*name.split(), *arguments(command)])
        assert isinstance(done.exception, ConfigError), (name, done.output, done.exception)
        assert str(done.exception).startswith("This is not a project: no aqvolt.yaml in "), name
        assert "aqvolt init DIR" in str(done.exception)
        asked += 1
    assert asked >= 20
    assert list(project.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("release", "verify", "halides"),
        ("query", "labels"),
        ("release", "card", "halides@0123456789ab"),
        ("benchmark", "run", "ev_scan", "--model", "chgnet/r2scan"),
    ],
)
def test_names_that_only_a_database_knows_need_a_project(app, project: Path, arguments) -> None:
    done = CliRunner().invoke(app, list(arguments))
    assert isinstance(done.exception, ConfigError)
    assert "not a project" in str(done.exception)


def test_help_and_what_needs_none_work_anywhere(app, project: Path) -> None:
    runner = CliRunner()
    for words in (["status", "--help"], ["campaign", "list"], ["campaign", "show", "exploration.n_steps"]):
        done = runner.invoke(app, words)
        assert done.exit_code == 0, done.output
    assert list(project.iterdir()) == []


def test_the_sentence_names_the_project_below(project: Path) -> None:
    (project / "halides").mkdir()
    (project / "halides" / "aqvolt.yaml").write_text("campaign: demo\n")
    command = [sys.executable, "-m", "aqvolt_launch", "status"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"aqvolt: This is not a project: no aqvolt.yaml in {project} or above it; run 'cd halides' first.\n"
    )


@pytest.mark.parametrize("name", ["AQVOLT_MONGO_URI", "AQVOLT_ROOT"])
def test_the_environment_can_be_the_project(project: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert not here.in_project()
    monkeypatch.setenv(name, "mongodb://127.0.0.1:1" if name.endswith("URI") else str(project))
    here.require_project()
    monkeypatch.delenv(name)
    (project / "aqvolt.yaml").write_text("{}\n")
    (project / "below").mkdir()
    monkeypatch.chdir(project / "below")
    here.require_project()


def test_guarding_one_application_leaves_others_as_they_are(app, project: Path) -> None:
    from aqvolt_launch.cli import database

    alone = typer.Typer(pretty_exceptions_enable=False)
    database.register(alone)
    assert CliRunner().invoke(alone, ["db", "status"]).exit_code == 1, "it says that none runs"
    assert isinstance(CliRunner().invoke(app, ["db", "status"]).exception, ConfigError)
