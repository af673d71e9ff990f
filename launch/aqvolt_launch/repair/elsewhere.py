"""Runs of other machines that gave no sign of life for long: found by watching them, and run again.

A heartbeat carries the time of the clock of its machine, which may be days off. So no time is compared: a run is lost
when its last sign of life, whatever it says, has not changed for :data:`LOST_AFTER_S` on the clock of the machine that
watches. One look therefore finds nothing; ``aqvolt reconcile --every`` looks again and again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aqvolt_flows.settings import AqvoltSettings
from aqvolt_launch.launchpad import get_launchpad
from aqvolt_launch.processes import is_dead, is_ours
from aqvolt_launch.repair.lost_runs import rerun_lost

if TYPE_CHECKING:
    from fireworks import LaunchPad

logger = logging.getLogger(__name__)

#: Seconds between the heartbeats of our workers, and of FireWorks' own ``rlaunch`` without our FW_config.yaml.
HEARTBEAT_S = 300
FIREWORKS_HEARTBEAT_S = 3600
#: Heartbeats that may be missing: a busy node, a database that was away.
MISSING = 6


class Watcher:
    """Remembers what it saw of each run, and since when.

    Parameters
    ----------
    settings
        Which database.
    clock
        Seconds that only grow.
    """

    def __init__(self, settings: AqvoltSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        self._seen: dict[int, tuple[Any, float]] = {}

    def lost(self) -> list[dict[str, Any]]:
        """Look once, and return the launches that are lost; those that this machine can judge itself are left out."""
        launchpad: LaunchPad = get_launchpad(self._settings)
        fields = {"launch_id": 1, "fw_id": 1, "fworker.name": 1, "launch_dir": 1, "state_history": 1}
        now, found, seen = self._clock(), [], {}
        for launch in launchpad.launches.find({"state": "RUNNING"}, fields):
            name = launch["fworker"]["name"]
            if is_dead(name) is not None:
                continue
            sign = str(launch.get("state_history"))
            before, since = self._seen.get(launch["launch_id"], (None, now))
            since = since if before == sign else now
            seen[launch["launch_id"]] = sign, since
            beat = HEARTBEAT_S if is_ours(name) else FIREWORKS_HEARTBEAT_S
            if now - since > MISSING * beat:
                found.append(launch)
        self._seen = seen
        return found

    def rerun(self) -> list[int]:
        """Look once, complete or rerun what is lost, and return its Fireworks."""
        lost = self.lost()
        for launch in lost:
            logger.warning("Firework %s of %s gave no sign of life.", launch["fw_id"], launch["fworker"]["name"])
        rerun_lost(self._settings, lost)
        return sorted(launch["fw_id"] for launch in lost)
