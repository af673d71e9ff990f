"""``aqvolt doctor`` as people call it."""

from __future__ import annotations

from pathlib import Path

import typer
import yaml
from typer.testing import CliRunner

from aqvolt_launch.cli import project as project_commands


def test_doctor_exit_code(project: Path) -> None:
    app = typer.Typer()
    project_commands.register(app)
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    assert {row["status"] for row in yaml.safe_load(done.stdout)} >= {"ok", "fail"}
