"""Fireworks checked out as a worker does, by a worker that is not there."""

from __future__ import annotations

from pathlib import Path

from fireworks import FWorker

from aqvolt_flows.settings import AqvoltSettings
from aqvolt_launch import processes
from aqvolt_launch.launchpad import get_launchpad

DEAD = f"aqvolt-{processes.host_name()}-{2**22 + 1}-1"


def start(
    settings: AqvoltSettings, worker: str, folder: str = "launcher_2026-01-01-00-00-00-000001"
) -> tuple[int, Path]:
    """Check the next Firework out as a worker does; return its number and its folder."""
    path = settings.path(settings.launch_dir) / folder
    path.mkdir(parents=True)
    firework, _ = get_launchpad(settings).checkout_fw(FWorker(name=worker), str(path))
    return firework.fw_id, path
