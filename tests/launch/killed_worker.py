"""A worker that dies at one of its writes: ``killed_worker.py NUMBER before|after``.

It takes one Firework and kills its own process, as SIGKILL does, before or after the write command of that number on
FireWorks' collections. Those of the heartbeat's own thread come when they like and are not counted. If there are fewer
writes it ends with exit code 0, after it has said how many there were.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from pymongo import monitoring

WRITES = frozenset({"insert", "update", "findAndModify", "delete"})
COLLECTIONS = frozenset({"fireworks", "workflows", "launches", "fw_id_assigner"})


class Death(monitoring.CommandListener):
    """Counts write commands on FireWorks' collections and kills this process at one of them."""

    def __init__(self, number: int, when: str) -> None:
        self.number, self.when, self.count, self.armed = number, when, 0, False
        self.last: int | None = None

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        name = event.command_name
        if not self.armed or name not in WRITES or event.command[name] not in COLLECTIONS:
            return
        if threading.current_thread() is not threading.main_thread():
            return
        self.count += 1
        if self.count == self.number:
            self.last = event.request_id
            if self.when == "before":
                os.kill(os.getpid(), signal.SIGKILL)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        if event.request_id == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        self.succeeded(event)  # type: ignore[arg-type]


def main(number: int, when: str) -> None:
    death = Death(number, when)
    monitoring.register(death)  # before the first client is made
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.open_project import Project
    from aqvolt_launch.workers import work

    settings = load_settings()
    Project(settings).prepare()
    death.armed = True
    work(settings, until_empty=True)
    print(death.count)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
