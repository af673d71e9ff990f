"""The list of command modules; each has ``register(app)``."""

from __future__ import annotations

import importlib

import typer

from aqvolt_launch.cli import here

MODULES = (
    "database",
    "project",
    "campaign",
    "candidates",
    "generation",
    "stages",
    "coverage",
    "protocol",
    "holds",
    "loop",
    "workers",
    "query",
    "build",
    "labels",
    "release",
    "model",
    "trust",
    "publish",
    "benchmark",
    "sweep",
    "artifacts",
    "report",
    "demo",
)


def register(app: typer.Typer) -> None:
    """Add every command to the application; those that are not marked :func:`~here.anywhere` ask for a project."""
    for name in MODULES:
        importlib.import_module(f"aqvolt_launch.cli.{name}").register(app)
    here.guard(app)
