"""Evaluation in which one structure that cannot be computed costs one result, not the batch."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials import Evaluation
from aqvolt_flows.potentials.given import EXPECTED, as_potential, is_model
from aqvolt_flows.schemas.provenance import Failure

if TYPE_CHECKING:
    from ase import Atoms

#: ``Potential.evaluate``, or anything that maps systems to one evaluation each.
Evaluate = Callable[[Sequence["Atoms"]], Sequence[Evaluation]]


def evaluator(given: Any) -> Evaluate:
    """Return the function that evaluates systems: of a model string, calculator, torch-sim model, or itself.

    Raises
    ------
    InputError
        If it is neither a model nor a function.
    """
    if is_model(given):
        return as_potential(given).evaluate
    if inspect.isroutine(given) or isinstance(given, functools.partial):
        found: Evaluate = given
        return found
    raise InputError(f"A {type(given).__name__} was given to evaluate structures; {EXPECTED}, or Potential.evaluate.")


def evaluate_each(evaluate: Evaluate, systems: Sequence[Atoms], chunk: int = 64) -> list[Evaluation | Failure]:
    """Return an evaluation or the reason why there is none, one per system and in order.

    Systems go to the potential in chunks. A chunk that raises is halved and computed again, down to
    single systems, so that only those at fault fail. An evaluation with a number that is not finite is a failure.

    Parameters
    ----------
    evaluate
        ``Potential.evaluate`` or a function of the same meaning.
    systems
        Periodic systems.
    chunk
        Systems handed over at once; the potential makes its own batches of atoms inside.
    """
    results: list[Evaluation | Failure] = []
    for first in range(0, len(systems), chunk):
        results += _some(evaluate, systems[first : first + chunk])
    return results


def _some(evaluate: Evaluate, systems: Sequence[Atoms]) -> list[Evaluation | Failure]:
    try:
        found = list(evaluate(systems))
        if len(found) != len(systems):
            raise ValueError(f"{len(found)} evaluations for {len(systems)} systems")
        return [_checked(f) for f in found]
    except Exception as error:  # noqa: BLE001 - every failure of a model on a structure becomes a result
        if len(systems) == 1:
            return [_failure(error)]
    half = len(systems) // 2
    return _some(evaluate, systems[:half]) + _some(evaluate, systems[half:])


def _failure(error: Exception) -> Failure:
    return Failure(reason="model_error", message=f"{type(error).__name__}: {' '.join(str(error).split())}"[:500])


def _checked(found: Evaluation) -> Evaluation | Failure:
    finite = np.isfinite(found.energy) and np.isfinite(found.forces).all() and np.isfinite(found.stress).all()
    if finite:
        return found
    wrong = [n for n in ("energy", "forces", "stress") if not np.isfinite(getattr(found, n)).all()]
    return Failure(reason="not_finite", message=f"The model's {', '.join(wrong)} are not finite.")
