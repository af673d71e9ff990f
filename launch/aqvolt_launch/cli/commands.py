"""The list of command modules; each has ``register(app)``."""

from __future__ import annotations

import importlib

import typer

MODULES = (
    "database",
    "project",
    "candidates",
    "generation",
    "stages",
    "coverage",
    "protocol",
    "holds",
    "workers",
    "query",
    "build",
    "labels",
    "release",
    "model",
    "trust",
    "benchmark",
    "sweep",
    "artifacts",
    "report",
    "demo",
)


def register(app: typer.Typer) -> None:
    """Add every command to the application."""
    for name in MODULES:
        importlib.import_module(f"aqvolt_launch.cli.{name}").register(app)
