"""Makers of the candidate stage."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from jobflow import Job, Maker, job

from aqvolt_flows.candidates.select import build_structure, candidate_document
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
        documents = [
            candidate_document(build_structure(p), parameters, p.name, source="user", references=p.references)
            for p in parameters.prototypes
        ]
        database = Database.connect()
        database.ensure_indexes()
        new = database.upsert("candidates", documents)
        rejected = Counter(d.rejection.reason for d in documents if d.rejection)
        return {
            "key": key,
            "new": new,
            "accepted": sum(d.status == "accepted" for d in documents),
            "rejected": dict(rejected),
            "candidate_ids": [d.candidate_id for d in documents],
        }
