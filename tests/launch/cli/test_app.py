"""The root of the command line: its options, its errors, and how long it takes to say what there is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import aqvolt_flows


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aqvolt_launch", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_log_level_that_is_none_is_one_sentence(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("--log-level", "nonsense", "db", "status")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "aqvolt: --log-level is 'nonsense'; expected debug, info, warning, error.\n"
    monkeypatch.setenv("AQVOLT_LOG_LEVEL", "loud")
    done = run("db", "status")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "aqvolt: AQVOLT_LOG_LEVEL is 'loud'; expected debug, info, warning, error.\n"


def test_help_imports_nothing_of_weight(project: Path) -> None:
    code = """
import sys
from aqvolt_launch.cli import app, commands
commands.register(app)
try:
    app(["plan", "--help"])
except SystemExit:
    pass
heavy = ("numpy", "pymatgen", "jobflow", "fireworks", "pymongo", "sklearn", "torch", "ase")
print("heavy:", [name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "heavy: []", done.stderr
    assert "substitute" in done.stdout


def test_version_names_what_matters(project: Path) -> None:
    from importlib.metadata import version

    done = run("--version")
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[0]) == (0, f"aqvolt-flows {aqvolt_flows.__version__}")
    assert lines[1].startswith(f"Python {sys.version_info.major}.{sys.version_info.minor}.")
    assert f"pymatgen {version('pymatgen')}" in lines
    assert f"torch {version('torch')}" in lines


def test_every_help_page_can_be_drawn(project: Path) -> None:
    """Square brackets in a help text are markup to rich, and a wrong one ends the command."""
    code = """
import typer
from typer.testing import CliRunner
from typer.main import get_command
from aqvolt_launch.cli import app, commands

commands.register(app)

def leaves(command, path=()):
    below = getattr(command, "commands", None)
    if below is None:
        yield path
    else:
        yield path
        for name, inner in below.items():
            yield from leaves(inner, (*path, name))

paths = list(leaves(get_command(app)))
for path in paths:
    done = CliRunner().invoke(app, [*path, "--help"])
    assert done.exit_code == 0, (path, done.exception)
    assert "Usage:" in done.output, path
print(len(paths))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 40
