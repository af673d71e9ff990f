"""The embedded database: a server process of its own, started and stopped for one project folder."""

from __future__ import annotations

from aqvolt_launch.embedded.server import start, status, stop

__all__ = ["start", "status", "stop"]
