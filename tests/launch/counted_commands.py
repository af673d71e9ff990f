"""Commands that this process sends to MongoDB, counted by name."""

from __future__ import annotations

from collections import Counter

from pymongo import monitoring


class CountedCommands(monitoring.CommandListener):
    """Counts the commands of all clients that are made after it was registered, while it is ``on``."""

    def __init__(self) -> None:
        self.on = False
        self.counts: Counter[str] = Counter()

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.counts[event.command_name] += self.on

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Do nothing: a command counts when it is sent."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Do nothing: a command counts when it is sent."""
