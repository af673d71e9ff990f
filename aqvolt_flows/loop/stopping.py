"""When a loop stops, and by which rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aqvolt_flows.schemas.loop import StopRules


@dataclass(frozen=True)
class RoundNumbers:
    """What decides after a round.

    Attributes
    ----------
    round
        Number, from 0.
    doubtful_fraction
        Share of offered frames above the lower trust level; None where nothing doubted.
    error, interval
        Force MAE on the hold-out, eV/Å, and its 95 % interval; None without a hold-out.
    labels
        New valid labels.
    chosen
        Frames chosen for labeling.
    core_hours
        That the labels of all rounds took.
    """

    round: int
    doubtful_fraction: float | None
    error: float | None
    interval: tuple[float, float] | None
    labels: int
    chosen: int
    core_hours: float


@dataclass(frozen=True)
class Decision:
    """Whether to go on; ``rule`` is empty then."""

    stop: bool
    rule: str = ""
    sentence: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


def decide(rounds: Sequence[RoundNumbers], rules: StopRules, total_core_hours: float | None = None) -> Decision:
    """Return the decision after the last of the rounds.

    Rules, in this order: the budget is spent; ``max_rounds``; and, each for ``rules.rounds`` rounds in a row: nothing
    new was found; fewer doubtful frames than ``max_doubtful_fraction``; the held-out error fell by less than half the
    width of its interval.

    Parameters
    ----------
    rounds
        All rounds so far, the first one first; at least one.
    rules
        Of the campaign.
    total_core_hours
        Budget of all labels.
    """
    last, m = rounds[-1], rules.rounds
    if total_core_hours is not None and last.core_hours >= total_core_hours:
        return _stop("budget", f"{last.core_hours:.3g} of {total_core_hours:g} core-hours are spent")
    if len(rounds) >= rules.max_rounds:
        return _stop("max_rounds", f"{len(rounds)} rounds are done")
    if len(rounds) >= m:
        recent = rounds[-m:]
        if all(r.chosen == 0 for r in recent):
            return _stop("nothing_new", f"no frame was worth a label in the last {m} rounds")
        shares = [r.doubtful_fraction for r in recent]
        if all(s is not None and s < rules.max_doubtful_fraction for s in shares):
            said = ", ".join(f"{s:.3g}" for s in shares)
            return _stop("confident", f"shares of doubtful frames {said}, below {rules.max_doubtful_fraction:g}")
    if len(rounds) > m and all(_flat(a, b) for a, b in zip(rounds[-m - 1 : -1], rounds[-m:], strict=True)):
        said = " → ".join(f"{r.error:.4g}" for r in rounds[-m - 1 :])
        return _stop("no_gain", f"held-out force errors {said} eV/Å fell by less than their intervals in {m} rounds")
    return Decision(stop=False, sentence="no rule to stop holds")


def _flat(before: RoundNumbers, after: RoundNumbers) -> bool:
    """Whether the error gained less than its own interval; not known is not flat."""
    if before.error is None or after.error is None or after.interval is None:
        return False
    return before.error - after.error < (after.interval[1] - after.interval[0]) / 2


def _stop(rule: str, sentence: str) -> Decision:
    return Decision(stop=True, rule=rule, sentence=sentence)
