"""A LaunchPad as a worker uses it: it takes only Fireworks that may and can run here, and logs each of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pymongo import ASCENDING, DESCENDING

from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stopping import stop_wanted
from aqvolt_launch.resources import occupied
from aqvolt_launch.runnable import Refusal, refusal

if TYPE_CHECKING:
    from fireworks import LaunchPad

logger = logging.getLogger(__name__)


class WatchedLaunchPad:
    """Everything is the LaunchPad's, but for which Firework is checked out; that, and how it ends, is logged.

    A Firework that is refused (:mod:`aqvolt_launch.runnable`) stays READY for others, and is not looked at again.

    Parameters
    ----------
    launchpad
        The one that does it.
    settings
        Say what may run.
    """

    def __init__(self, launchpad: LaunchPad, settings: AqvoltSettings) -> None:
        # one of its own on the same connection; FireWorks' copies connect anew
        self._launchpad: Any = object.__new__(type(launchpad))
        vars(self._launchpad).update(vars(launchpad))
        self._launchpad.get_fw_by_id = self._load
        self._launchpad.run_exists = self.run_exists
        self._settings = settings
        self._taken: dict[int, tuple[str, float]] = {}
        self._vetted: dict[str, Any] = {}
        self.refused: dict[int, Refusal] = {}

    def __getattr__(self, name: str) -> Any:
        """Return what the LaunchPad has."""
        return getattr(self._launchpad, name)

    def run_exists(self, fworker: Any = None) -> bool:
        """Return whether there is a Firework that this worker would take."""
        return self._next(fworker.query if fworker else {}) is not None

    def checkout_fw(self, fworker: Any, launch_dir: Any, fw_id: int | None = None, **kwargs: Any) -> Any:
        """Check out the next Firework that may run here, as the LaunchPad does."""
        document = self._take(fworker.query) if fw_id is None else self._allowed(fw_id)
        if document is None:
            return None, None
        self._vetted = document
        noted = self._noted(fworker, document)
        firework, launch_id = self._launchpad.checkout_fw(noted, launch_dir, fw_id=document["fw_id"], **kwargs)
        if firework is not None:
            about = firework.spec.get("aqvolt", {})
            what = f"Firework {firework.fw_id} {firework.name!r}"
            what += f" ({about.get('stage', 'other')} {about.get('key', '')})" if about else ""
            self._taken[launch_id] = (what, time.monotonic())
            logger.info("Took %s, launch %s.", what, launch_id)
        return firework, launch_id

    def _noted(self, fworker: Any, document: Mapping[str, Any]) -> Any:
        """Return the worker as the launch shall remember it: with the stage that it runs, and what it occupies."""
        from fireworks import FWorker

        about = document["spec"].get("aqvolt") or {}
        if not about.get("stage"):
            return fworker
        env = dict(fworker.env) | {"stage": about["stage"], **occupied(fworker.category).as_dict()}
        return FWorker(fworker.name, fworker.category, fworker._query, env)

    def complete_launch(self, launch_id: int, *args: Any, **kwargs: Any) -> Any:
        """Complete a launch, as the LaunchPad does."""
        found = self._launchpad.complete_launch(launch_id, *args, **kwargs)
        state = kwargs.get("state", args[1] if len(args) > 1 else "COMPLETED")
        what, since = self._taken.pop(launch_id, (f"launch {launch_id}", time.monotonic()))
        level = logging.WARNING if state == "FIZZLED" else logging.INFO
        logger.log(level, "%s ended %s after %.1f s.", what, state, time.monotonic() - since)
        return found

    def _next(self, query: Mapping[str, Any]) -> int | None:
        """Return the Firework to take next, in FireWorks' order; those that are refused on the way are noted.

        None is next for a worker that was asked to stop.
        """
        if stop_wanted():
            return None
        order = [("spec._priority", DESCENDING), *_created()]
        while True:
            ready: dict[str, Any] = dict(query) | {"state": "READY"}
            if self.refused:
                ready = {"$and": [ready, {"fw_id": {"$nin": list(self.refused)}}]}
            found = self._launchpad.fireworks.find_one(ready, {"fw_id": 1, "name": 1, "spec": 1}, sort=order)
            if found is None:
                return None
            why = refusal(found, self._settings)
            if why is None:
                return int(found["fw_id"])
            self.refused[found["fw_id"]] = why
            logger.warning("Firework %s %r stays READY: %s", found["fw_id"], found.get("name"), why.message)

    def _take(self, query: Mapping[str, Any]) -> dict[str, Any] | None:
        """Reserve the next Firework, and return its document; of several workers that want it one gets it."""
        while (fw_id := self._next(query)) is not None:
            change = {"$set": {"state": "RESERVED", "updated_on": datetime.now(UTC)}}
            same = {"fw_id": fw_id, "state": "READY"}
            if self._launchpad.fireworks.find_one_and_update(same, change, {"_id": 1}) is None:
                continue
            document = self._allowed(fw_id)
            if document is not None:
                return document
            back = {"fw_id": fw_id, "state": "RESERVED", "launches": []}
            self._launchpad.fireworks.update_one(back, {"$set": {"state": "READY"}})
        return None

    def _allowed(self, fw_id: int) -> dict[str, Any] | None:
        """Return a Firework's document, or None if it must not run: it may have been changed since it was looked at."""
        document: dict[str, Any] = self._launchpad.get_fw_dict_by_id(fw_id)
        why = refusal(document, self._settings)
        if why is None:
            return document
        self.refused[fw_id] = why
        logger.warning("Firework %s stays READY: %s", fw_id, why.message)
        return None

    def _load(self, fw_id: int) -> Any:
        """Load a Firework; the one that is being taken from the very document that was found allowed."""
        from fireworks import Firework

        taken = self._vetted.get("fw_id") == fw_id
        document = self._vetted if taken else self._launchpad.get_fw_dict_by_id(fw_id)
        self._vetted = {} if taken else self._vetted
        return Firework.from_dict(document)


def _created() -> list[tuple[str, int]]:
    from fireworks.core.launchpad import SORT_FWS

    return {"FIFO": [("created_on", ASCENDING)], "FILO": [("created_on", DESCENDING)]}.get(str(SORT_FWS).upper(), [])
