"""Makers of the candidate stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jobflow import Job, Maker, job

from aqvolt_flows.candidates.pool import Intake, add_to_pool, prototype_records
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
        ``CandidateParameters`` as plain values.
    """

    name: str = "select candidates"
    parameters: dict[str, Any] = field(default_factory=dict)

    @job
    def make(self, key: str) -> Job:
        """Write ``candidates`` and return how many were accepted, and rejected by reason.

        Parameters
        ----------
        key
            Content key of this selection.
        """
        parameters = CandidateParameters(**self.parameters)
        intake = Intake(parameters, source="user")
        records = prototype_records(parameters)
        database = Database.connect()
        database.ensure_indexes()
        report = add_to_pool(records, database, intake)
        return {
            "key": key,
            "new": report.new,
            "accepted": sum(report.accepted.values()),
            "rejected": dict(report.rejected),
            "candidate_ids": [intake.document(r).candidate_id for r in records],
        }
