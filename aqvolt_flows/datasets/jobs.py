"""The Jobflow maker of releases."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jobflow

from aqvolt_flows.datasets.release import create_release
from aqvolt_flows.schemas.parameters import ReleaseParameters
from aqvolt_flows.stores import Database


@dataclass
class ReleaseMaker(jobflow.Maker):
    """Makes the job that writes a release of the labels there are when it runs.

    Attributes
    ----------
    name
        Name of the job.
    parameters
        Fields of :class:`~aqvolt_flows.schemas.parameters.ReleaseParameters`.
    """

    name: str = "create release"
    parameters: dict[str, Any] = field(default_factory=dict)

    @jobflow.job
    def make(self, key: str) -> dict[str, Any]:
        """Write the folder, store its document, and return release_id, content_hash, counts and path."""
        database = Database.connect()
        root = database.settings.path(database.settings.release_root)
        document = create_release(database, ReleaseParameters(**self.parameters), root, key=key)
        database.upsert("releases", [document])
        return {
            "release_id": document.release_id,
            "content_hash": document.content_hash,
            "counts": document.counts,
            "path": document.path,
        }
