"""Builders as Fireworks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jobflow

from aqvolt_builders.registry import run_builder


@dataclass
class BuildMaker(jobflow.Maker):
    """Makes the job that runs one builder over what there is when it runs.

    Attributes
    ----------
    name
        Name of the job.
    builder
        labels, benchmarks or costs.
    options
        Given to the builder, e.g. ``aimd_stride`` of labels.
    """

    name: str = "build labels"
    builder: str = "labels"
    options: dict[str, Any] = field(default_factory=dict)

    @jobflow.job
    def make(self, key: str) -> dict[str, Any]:  # noqa: ARG002 - it identifies the job
        """Run the builder; return processed and the number of documents per status, for labels valid and rejected."""
        counts = run_builder(self.builder, **self.options)
        if self.builder == "labels":
            counts = {"valid": 0, "rejected": 0} | counts
        return {"builder": self.builder, **counts}
