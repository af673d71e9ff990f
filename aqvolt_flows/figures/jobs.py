"""Jobflow maker of the campaign report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobflow import job

from aqvolt_flows.figures.report import DEFAULT_NAME, build_report
from aqvolt_flows.stores import Database


@dataclass
class ReportMaker:
    """Make a job that writes the campaign report into the project folder.

    Parameters
    ----------
    name
        Name of the job.
    path
        Where to write, relative to the project folder.
    """

    name: str = "report"
    path: str = DEFAULT_NAME

    @job
    def make(self, key: str) -> dict[str, Any]:
        """Return path, hash and size of the report.

        Parameters
        ----------
        key
            Content key of this unit of work.
        """
        database = Database.connect()
        info = build_report(database, database.settings.path(self.path))
        return {"key": key, "path": str(info.path), "sha256": info.sha256, "bytes": info.bytes}
