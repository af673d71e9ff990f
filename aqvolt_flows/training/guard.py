"""Whether an optimizer step may be taken: finite loss and gradient, and no explosion of the loss.

fairchem replaces a loss that is not finite by zero and trains on. Here every step is judged before the optimizer
changes the weights; the numbers judged are those of all ranks together, so that all ranks decide alike.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

#: Accepted losses that the median is taken over.
WINDOW = 100


@dataclass(frozen=True)
class Verdict:
    """What to do with a step.

    Attributes
    ----------
    action
        ``step``: let the optimizer step; ``skip``: keep the weights and go to the next batch; ``stop``: end.
    reason
        Why not, in words; empty for ``step``.
    """

    action: Literal["step", "skip", "stop"]
    reason: str = ""


@dataclass
class Guard:
    """Judges the steps of one launch, in order.

    Parameters
    ----------
    on_divergence
        ``skip`` or ``stop``.
    max_consecutive_skips, max_skips
        With ``skip``: the training ends when more steps than this are skipped in a row, or in all.
    max_loss_ratio
        A loss above this many times the median of the last :data:`WINDOW` accepted ones is a divergence.
    """

    on_divergence: Literal["skip", "stop"] = "skip"
    max_consecutive_skips: int = 10
    max_skips: int = 100
    max_loss_ratio: float = 1e4
    skips: int = 0
    in_a_row: int = 0
    _losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW), repr=False)

    def judge(self, losses: Mapping[str, float], gradient_norm: float) -> Verdict:
        """Return the verdict on a step, and count it.

        Parameters
        ----------
        losses
            Terms of the loss by task, of all ranks and micro-batches.
        gradient_norm
            Before clipping.
        """
        reason = self._fault(losses, gradient_norm)
        if not reason:
            self.in_a_row = 0
            self._losses.append(sum(losses.values()))
            return Verdict("step")
        self.skips += 1
        self.in_a_row += 1
        if self.on_divergence == "stop":
            return Verdict("stop", reason)
        if self.in_a_row > self.max_consecutive_skips:
            return Verdict("stop", f"{reason}, and so were the {self.in_a_row - 1} steps before")
        if self.skips > self.max_skips:
            return Verdict("stop", f"{reason}, and it is step {self.skips} to be skipped")
        return Verdict("skip", reason)

    def _fault(self, losses: Mapping[str, float], gradient_norm: float) -> str:
        bad = [f"{name} {value}" for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            return f"the loss is not finite ({', '.join(bad)})"
        if not math.isfinite(gradient_norm):
            return f"the gradient norm is not finite ({gradient_norm})"
        total = sum(losses.values())
        usual = median(self._losses) if self._losses else math.inf
        if usual > 0 and total > self.max_loss_ratio * usual:
            return f"the loss {total:.3g} is over {self.max_loss_ratio:g} times its recent median {usual:.3g}"
        return ""
