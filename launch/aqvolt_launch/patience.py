"""What a worker does while it cannot work: it waits for space on the disks, and for a database that answers."""

from __future__ import annotations

import logging
import time

from aqvolt_flows.errors import AqvoltError
from aqvolt_flows.settings import AqvoltSettings
from aqvolt_flows.stores import failed
from aqvolt_launch.embedded.probe import free_space_fault

logger = logging.getLogger(__name__)

#: Seconds between looks: at first, and at most.
FIRST_WAIT_S = 2.0
LONGEST_WAIT_S = 60.0
#: Space below which no job is started, bytes; VASP's scratch is checked by the doctor.
NEEDED_BYTES = 256 * 1024 * 1024


class Patience:
    """Waits longer each time, and says once what it waits for.

    Parameters
    ----------
    settings
        Name the folders, and the database.

    Attributes
    ----------
    lost
        The database was away: what this worker ran then is lost.
    """

    def __init__(self, settings: AqvoltSettings) -> None:
        self._settings = settings
        self._wait_s = FIRST_WAIT_S
        self._said = ""
        self.lost = False

    def all_is_well(self) -> None:
        """Start over."""
        if self._said:
            logger.warning("Goes on.")
        self._wait_s, self._said, self.lost = FIRST_WAIT_S, "", False

    def wait_for_space(self) -> bool:
        """Wait a moment if a disk is nearly full, and return whether that was so."""
        settings = self._settings
        folders = [settings.path(settings.launch_dir), settings.path(settings.checkpoint_dir)]
        folders += [settings.path(settings.artifact_root)] if "://" not in settings.artifact_root else []
        folders += [settings.path(settings.database_dir)] if settings.mongo_uri is None else []
        fault = next((said for folder in folders if (said := free_space_fault(folder, NEEDED_BYTES))), "")
        if fault:
            self._wait(f"No job is started: {fault}")
        return bool(fault)

    def wait_for_database(self, error: Exception) -> None:
        """Wait a moment after an error of the database; an embedded one that refuses writes is started again."""
        self.lost = True
        sentence = str(error if isinstance(error, AqvoltError) else failed(error, self._settings))  # type: ignore[arg-type]
        self._wait(f"Waits for the database: {sentence}")
        if self._settings.mongo_uri is None:
            self._start_again()

    def _start_again(self) -> None:
        from aqvolt_launch.embedded import server

        try:
            status = server.status(self._settings)
            if status.running and not status.answers:  # one that was stopped stays stopped
                server.start(self._settings)
        except AqvoltError as error:
            logger.warning("%s", error)

    def _wait(self, sentence: str) -> None:
        if sentence != self._said:
            logger.warning("%s", sentence)
            self._said = sentence
        time.sleep(self._wait_s)
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
