"""``aqvolt hold list`` and ``aqvolt hold lift``."""

from __future__ import annotations

import json

import typer
from typer.testing import CliRunner

from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import Database
from aqvolt_launch.cli import holds as commands
from aqvolt_launch.submission import holds


def test_commands(database: Database, settings: AqvoltSettings) -> None:
    app = typer.Typer()
    commands.register(app)
    runner = CliRunner()
    holds.hold(database, "frame", "frame-1", "missing_artifact", "Its file is gone.")
    (row,) = json.loads(runner.invoke(app, ["hold", "list", "--json"]).stdout)
    assert (row["kind"], row["what"], row["reason"]) == ("frame", "frame-1", "missing_artifact")
    assert "no longer held" in runner.invoke(app, ["hold", "lift", "frame-1"]).stdout
    assert "none" in runner.invoke(app, ["hold", "list"]).stdout
