"""An open project: settings, database and LaunchPad, connected once per command and handed down.

*Getting* is not *ensuring*. What only looks takes the LaunchPad as it is; indexes and counters are made by
:meth:`Project.prepare`, which commands that write call once.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Self

from aqvolt_flows.settings import AqvoltSettings, load_settings
from aqvolt_flows.stores import Database
from aqvolt_launch.launchpad import ensure_launchpad, get_launchpad

if TYPE_CHECKING:
    from fireworks import LaunchPad


class Project:
    """Settings and what they name, connected when first asked for.

    Parameters
    ----------
    settings
        By default those of the working directory and the environment.
    """

    def __init__(self, settings: AqvoltSettings | None = None) -> None:
        self.settings = settings or load_settings()

    @cached_property
    def database(self) -> Database:
        """The database, which answers.

        Raises
        ------
        DatabaseError
            If none does.
        """
        return Database.connect(self.settings)

    @cached_property
    def launchpad(self) -> LaunchPad:
        """The LaunchPad as it is; nothing is written."""
        _ = self.database  # a clear sentence if no server answers
        return get_launchpad(self.settings)

    def prepare(self) -> Self:
        """Make missing indexes of the collections and of the LaunchPad, and its counter; once per process."""
        self.database.ensure_indexes()
        ensure_launchpad(self.settings)
        return self
