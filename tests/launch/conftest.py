"""Fixtures of the tests of workers and submissions, in whatever folder below they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from counted_commands import CountedCommands
from pymongo import monitoring

from aqvolt_flows.stores import close_clients
from aqvolt_launch import workers
from aqvolt_launch.launchpad import close_launchpads
from aqvolt_launch.repair import lost_runs


@pytest.fixture(autouse=True)
def jobs_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that are processes of their own can import the jobs of tests."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for the dead."""
    monkeypatch.setattr(lost_runs, "GRACE_S", 0.5)
    monkeypatch.setattr(workers, "IDLE_LOOK_S", 0.5)


@pytest.fixture
def counted(mongo_uri: str) -> Iterator[CountedCommands]:
    """Count the commands of clients that a test makes; name it before ``database``, whose client is one of them."""
    close_clients()  # cached ones were made without the listener
    close_launchpads()
    listener = CountedCommands()
    monitoring.register(listener)  # pymongo cannot forget one again
    yield listener
    listener.on = False
