"""A LaunchPad that logs what a worker does with it: each Firework taken, and how and when it ended."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fireworks import LaunchPad

logger = logging.getLogger(__name__)


class WatchedLaunchPad:
    """Everything is the LaunchPad's; checking out and completing a launch are logged.

    Parameters
    ----------
    launchpad
        The one that does it.
    """

    def __init__(self, launchpad: LaunchPad) -> None:
        self._launchpad = launchpad
        self._taken: dict[int, tuple[str, float]] = {}

    def __getattr__(self, name: str) -> Any:
        """Return what the LaunchPad has."""
        return getattr(self._launchpad, name)

    def checkout_fw(self, *args: Any, **kwargs: Any) -> Any:
        """Check a Firework out, as the LaunchPad does."""
        firework, launch_id = self._launchpad.checkout_fw(*args, **kwargs)
        if firework is not None:
            about = firework.spec.get("aqvolt", {})
            what = f"Firework {firework.fw_id} {firework.name!r}"
            what += f" ({about.get('stage', 'other')} {about.get('key', '')})" if about else ""
            self._taken[launch_id] = (what, time.monotonic())
            logger.info("Took %s, launch %s.", what, launch_id)
        return firework, launch_id

    def complete_launch(self, launch_id: int, *args: Any, **kwargs: Any) -> Any:
        """Complete a launch, as the LaunchPad does."""
        found = self._launchpad.complete_launch(launch_id, *args, **kwargs)
        state = kwargs.get("state", args[1] if len(args) > 1 else "COMPLETED")
        what, since = self._taken.pop(launch_id, (f"launch {launch_id}", time.monotonic()))
        level = logging.WARNING if state == "FIZZLED" else logging.INFO
        logger.log(level, "%s ended %s after %.1f s.", what, state, time.monotonic() - since)
        return found
