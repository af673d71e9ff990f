"""Makers of the candidate stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jobflow import Maker

from aqvolt_flows.candidates.pool import Intake, add_to_pool, prototype_records
from aqvolt_flows.jobs import campaign_job, typed
from aqvolt_flows.schemas.parameters import CandidateParameters
from aqvolt_flows.stores import Database


@dataclass
class SelectMaker(Maker):
    """Build the campaign's structures, judge them by its rules, and keep both kinds.

    Parameters
    ----------
    name
        Name of the job.
    parameters
        Of the campaign; a dict of their values is read.
    """

    name: str = "select candidates"
    parameters: CandidateParameters = field(default_factory=CandidateParameters)

    def __post_init__(self) -> None:
        self.parameters = typed(self.parameters, CandidateParameters)

    @campaign_job()
    def make(self, database: Database, key: str) -> dict[str, Any]:
        """Write ``candidates`` and return how many were accepted, and rejected by reason.

        Parameters
        ----------
        key
            Content key of this selection.
        """
        intake = Intake(self.parameters, source="user")
        records = prototype_records(self.parameters)
        database.ensure_indexes()
        report = add_to_pool(records, database, intake)
        return {
            "key": key,
            "new": report.new,
            "accepted": sum(report.accepted.values()),
            "rejected": dict(report.rejected),
            "candidate_ids": [intake.document(r).candidate_id for r in records],
        }
