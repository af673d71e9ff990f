"""The ``aqvolt`` command: one module per group of commands, all imports of weight inside the commands."""

from aqvolt_launch.cli.app import app, main

__all__ = ["app", "main"]
