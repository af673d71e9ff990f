"""The campaign group ``loop:`` and documents of ``loops``: rounds of exploring, doubting, labeling and training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from aqvolt_flows.schemas.base import Document, Parameters
from aqvolt_flows.schemas.parameters import OURS, Strictly
from aqvolt_flows.schemas.provenance import ArtifactRef, Failure

#: Steps of a round, in order.
STEPS = ("explore", "sample", "select", "label", "build", "release", "train", "evaluate")


class TrustLevels(Parameters):
    """Between which doubts a frame is worth a label, largest σ_F of its atoms.

    DP-GEN's definition (Zhang et al., DOI 10.1016/j.cpc.2020.107206): below ``lower`` a frame is known, above ``upper``
    it is too far off to be trusted as a configuration. 0.05 and 0.15 eV/Å are those of DP-GEN's methane example.
    """

    lower_ev_per_a: Strictly = 0.05
    upper_ev_per_a: Strictly = 0.15

    @model_validator(mode="after")
    def _in_order(self) -> TrustLevels:
        if self.lower_ev_per_a >= self.upper_ev_per_a:
            raise ValueError(
                f"the lower trust level {self.lower_ev_per_a:g} eV/Å is not below the upper one "
                f"{self.upper_ev_per_a:g} eV/Å; exchange them"
            )
        return self


class StopRules(Parameters):
    """When new labels teach nothing."""

    rounds: PositiveInt = Field(default=2, description=f"Rounds in a row for which a rule must hold. {OURS}")
    max_doubtful_fraction: float = Field(
        default=0.01, ge=0, lt=1, description=f"Share of frames above the lower trust level; below it: stop. {OURS}"
    )
    max_rounds: PositiveInt = Field(default=10, description=f"Rounds at most. {OURS}")


class LoopParameters(Parameters):
    """The closed loop of a campaign."""

    name: str | None = Field(
        default=None, pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Of the loop; none: the campaign's."
    )
    members: int = Field(default=4, ge=2, description=f"Models of a committee, one seed each. DP-GEN's 4. {OURS}")
    training: str | None = Field(
        default=None, description="Which of the campaign's trainings makes the members; none: the first."
    )
    criterion: Literal["both", "doubt", "2direct", "random"] = Field(
        default="both", description="What is offered for labeling: new environments, doubtful frames, both, or any."
    )
    trust: TrustLevels = TrustLevels()
    calibrated: bool = Field(
        default=True, description="Compare the trust levels with σ_F times the scale found on the hold-out, if any."
    )
    max_labels: PositiveInt = Field(default=200, description=f"Labels of one round at most. {OURS}")
    budget_core_hours: float | None = Field(
        default=None, gt=0, description="Forecast core-hours of the labels of one round at most; none: any."
    )
    total_core_hours: float | None = Field(
        default=None, gt=0, description="Core-hours of all labels of the loop; when they are spent, it stops."
    )
    uncertain_ev_per_a: float | None = Field(
        default=None, gt=0, description="σ_F that ends a run of a committee; none: twice the upper trust level."
    )
    uncertain_steps: PositiveInt = Field(default=10, description=f"Steps in a row above it. {OURS}")
    hold_out_fraction: float = Field(
        default=0.2, gt=0, lt=1, description=f"Share of the first round's labels that no round trains on. {OURS}"
    )
    hold_out: dict[str, Any] = Field(
        default_factory=dict,
        description="MongoDB query on labels that are the hold-out instead, e.g. {source: measured}.",
    )
    stop: StopRules = StopRules()


class RoundStep(Parameters):
    """One step of a round that is done."""

    name: str
    keys: list[str] = Field(default_factory=list, description="Keys of its units of work.")
    facts: dict[str, Any] = Field(default_factory=dict, description="What it gave: identities, counts, costs.")


class LoopDocument(Document):
    """One round of a loop: all that it used and made, and what was decided after it."""

    round_id: str = Field(description="LOOP-rN.")
    loop: str
    round: int = Field(ge=0)
    campaign: str
    status: Literal["running", "held", "done", "stopped"] = Field(
        description="held: a step failed, see failure; stopped: a user ended the loop here."
    )
    failure: Failure | None = Field(default=None, description="Why it is held, or who stopped it.")
    retry: bool = Field(default=False, description="The next tick runs failed jobs again.")
    version: int = Field(default=0, description="Counts changes; of two ticks at once one writes.")
    parameters: dict[str, Any] = Field(description="The loop's parameters when the round began.")
    potential: str = Field(description="What explores: the base potential, then the committee of the round before.")
    potential_sha256: str
    committee: ArtifactRef | None = Field(default=None, description="File of the committee that explores, if any.")
    hold_out: list[str] = Field(default_factory=list, description="frame_id that no round trains on; the same in all.")
    scale: float | None = Field(
        default=None, description="True error over doubt on the hold-out, of what explores; none: uncalibrated."
    )
    steps: list[RoundStep] = Field(default_factory=list, description="Those that are done, in order.")
    decision: dict[str, Any] = Field(default_factory=dict, description="go_on or stop, the rule and its numbers.")

    def facts_of(self, step: str) -> dict[str, Any]:
        """Return what a step that is done gave; empty before."""
        return next((s.facts for s in self.steps if s.name == step), {})

    def row(self) -> dict[str, Any]:
        """Return what people read of the round: counts, costs, error on the hold-out with interval, scale, decision."""
        chosen, held = self.facts_of("select"), self.facts_of("evaluate").get("hold_out") or {}
        calibration = held.get("calibration") or {}
        return {
            "round": self.round,
            "status": self.status,
            "step": self.step,
            "offered": chosen.get("offered"),
            "doubtful": chosen.get("doubtful_fraction"),
            "chosen": len(chosen["chosen"]) if "chosen" in chosen else None,
            "labels": self.facts_of("build").get("valid"),
            "core_hours": self.facts_of("label").get("core_hours"),
            "force_mae_ev_per_a": held.get("force_mae_ev_per_a"),
            "interval": held.get("force_mae_interval_ev_per_a"),
            "rank_correlation": calibration.get("rank_correlation"),
            "scale": calibration.get("scale"),
            "said": self.failure.message if self.failure else self.decision.get("sentence", ""),
        }

    @property
    def step(self) -> str | None:
        """The step that is next, or None."""
        return STEPS[len(self.steps)] if len(self.steps) < len(STEPS) else None
