"""Which frames of a round get a label: new environments and doubtful frames under one budget, each with its reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError

Verdict = Literal["chosen", "known", "too_uncertain", "repeats", "over_budget", "over_limit", "not_drawn", "labeled"]

#: What a verdict means, for people; ``{...}`` are fields of :class:`Judged` and the limits.
MEANING: dict[str, str] = {
    "chosen": "chosen for labeling",
    "known": "no new environment, and its doubt is below the lower trust level",
    "too_uncertain": "its doubt is above the upper trust level: too far off to be trusted as a configuration",
    "repeats": "doubtful, but a frame near it in feature space is chosen already",
    "over_budget": "worth a label, but the round's core-hours were spent on frames with more gain per core-hour",
    "over_limit": "worth a label, but max_labels frames with more gain per core-hour came first",
    "not_drawn": "not drawn",
    "labeled": "has a label already",
}


@dataclass(frozen=True)
class Offered:
    """A frame that passed the filters.

    Attributes
    ----------
    trajectory_id, row, step
        Where it is.
    doubt
        Largest doubt of its atoms, scaled where it is calibrated, eV/Å; NaN where nothing is known of it.
    environments
        Atomic clusters of 2DIRECT for which it was chosen; 0: 2DIRECT did not choose it.
    core_hours
        Forecast of its label; NaN without a forecast.
    n_atoms
        Atoms, the cost where there is no forecast.
    labeled
        Whether it has a label.
    """

    trajectory_id: str
    row: int
    step: int
    doubt: float
    environments: int
    core_hours: float
    n_atoms: int
    labeled: bool = False


@dataclass(frozen=True)
class Judged:
    """What became of a frame, and the numbers behind it."""

    offered: Offered
    verdict: Verdict
    gain: float
    cost: float

    @property
    def sentence(self) -> str:
        """Why, for people."""
        o = self.offered
        doubt = "no doubt known" if np.isnan(o.doubt) else f"doubt {o.doubt:.3g} eV/Å"
        return f"{MEANING[self.verdict]} ({o.environments} new environments, {doubt}, gain {self.gain:.3g})"


@dataclass(frozen=True)
class Budget:
    """How much may be labeled in one round."""

    max_labels: int
    core_hours: float | None = None

    def __post_init__(self) -> None:
        if self.max_labels < 1 or (self.core_hours is not None and self.core_hours <= 0):
            raise InputError(
                f"A budget of {self.max_labels} labels and {self.core_hours} core-hours leaves nothing to label; give "
                "positive numbers."
            )


def gain(offered: Offered, lower: float) -> float:
    """Return the expected gain of a label: new environments, and the doubt over the lower trust level.

    A choice of this project: one new environment counts as much as a doubt at the lower trust level.
    """
    return offered.environments + (0.0 if np.isnan(offered.doubt) else offered.doubt / lower)


def select(
    offered: Sequence[Offered],
    lower: float,
    upper: float,
    budget: Budget,
    criterion: Literal["both", "doubt", "2direct", "random"] = "both",
    near: Callable[[int, Sequence[int]], bool] | None = None,
    seed: int = 0,
) -> list[Judged]:
    """Return what becomes of every frame, in the order given.

    Frames with new environments and frames with a doubt between the trust levels are worth a label. A doubtful one
    without new environments is left out if it is near one of more gain. The others are taken by gain per forecast
    core-hour (per atom without a forecast), the best first. 2DIRECT's frames above the upper trust level are taken,
    too: filters let their geometry pass, and nobody knows it.

    Parameters
    ----------
    offered
        Frames that passed the filters.
    lower, upper
        Trust levels, eV/Å.
    budget
        Limits of the round.
    criterion
        What counts: both, one of them, or nothing (random frames, for comparison).
    near
        (index, indices taken) → whether the frame repeats one of them; by default none does.
    seed
        Of the random choice.

    Raises
    ------
    InputError
        If the trust levels are the wrong way round.
    """
    if not 0 < lower < upper:
        raise InputError(f"Trust levels are {lower:g} and {upper:g} eV/Å; expected 0 < lower < upper, exchange them.")
    gains = [gain(o, lower) for o in offered]
    costs = [o.n_atoms if np.isnan(o.core_hours) else o.core_hours for o in offered]
    verdicts: list[Verdict] = [_worth(o, lower, upper, criterion) for o in offered]
    wanted = [i for i, v in enumerate(verdicts) if v == "chosen"]
    if criterion == "random":
        order = np.random.default_rng(seed).permutation(wanted).tolist()
    else:
        order = sorted(wanted, key=lambda i: (-gains[i] / costs[i], offered[i].trajectory_id, offered[i].row))
    if criterion != "random" and near is not None:
        order = _without_repeats(order, offered, gains, near, verdicts)
    taken: list[int] = []
    hours = 0.0
    for i in order:
        own = 0.0 if np.isnan(offered[i].core_hours) else offered[i].core_hours
        if len(taken) >= budget.max_labels:
            verdicts[i] = "not_drawn" if criterion == "random" else "over_limit"
        elif budget.core_hours is not None and hours + own > budget.core_hours:
            verdicts[i] = "over_budget"
        else:
            taken.append(i)
            hours += own
    return [Judged(o, v, g, float(c)) for o, v, g, c in zip(offered, verdicts, gains, costs, strict=True)]


def _without_repeats(
    order: list[int],
    offered: Sequence[Offered],
    gains: Sequence[float],
    near: Callable[[int, Sequence[int]], bool],
    verdicts: list[Verdict],
) -> list[int]:
    """Return the order without doubtful frames near one of more gain; costs, which are measured, do not decide here."""
    kept: list[int] = []
    for i in sorted(order, key=lambda i: (-gains[i], offered[i].trajectory_id, offered[i].row)):
        if not offered[i].environments and near(i, kept):
            verdicts[i] = "repeats"
        else:
            kept.append(i)
    stays = set(kept)
    return [i for i in order if i in stays]


def _worth(o: Offered, lower: float, upper: float, criterion: str) -> Verdict:
    if o.labeled:
        return "labeled"
    if criterion == "random" or (criterion in {"both", "2direct"} and o.environments):
        return "chosen"
    if criterion == "2direct" or np.isnan(o.doubt) or o.doubt < lower:
        return "known"
    return "too_uncertain" if o.doubt >= upper else "chosen"


def near_in(points: NDArray[np.floating], threshold: float) -> Callable[[int, Sequence[int]], bool]:
    """Return a test whether a frame lies within ``threshold`` of one that is taken.

    Parameters
    ----------
    points
        (n, n_components), the offered frames in the space of the round.
    threshold
        2DIRECT's structural threshold.
    """

    def near(index: int, taken: Sequence[int]) -> bool:
        if not len(taken):
            return False
        return bool((np.linalg.norm(points[list(taken)] - points[index], axis=1) < threshold).any())

    return near
