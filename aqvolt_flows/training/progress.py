"""What a training reached, written line by line from inside fairchem's trainer; imports torch.

fairchem reports metrics to W&B or, rounded, to its log. This callback writes them in full to
``progress.jsonl``; :func:`aqvolt_flows.training.stages.read_progress` reads the file.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from fairchem.core.common import distutils
from torchtnt.framework.callback import Callback

from aqvolt_flows.training.unit import DivergenceError

_GIB = 2.0**30


class ProgressCallback(Callback):
    """Appends one JSON line per event: ``start``, ``train``, ``skipped``, ``eval``, ``failed``, ``end``.

    Energies are in eV (``energy_per_atom_mae`` in eV/atom), forces in eV/Å, stress in eV/Å³. Losses are those of
    normalized targets, without a unit; ``losses`` are the terms of ``loss`` by task, coefficients included.
    ``gradient_norm`` is taken before clipping, ``memory_gib`` is the most that torch allocated on the first rank's GPU,
    ``skipped`` counts the steps of this launch that were not taken, each of which has a ``skipped`` record instead of a
    ``train`` record. Numbers that are not finite are null. ``atoms_per_s`` and ``data_wait_share`` are of all
    steps since the record before; validation and checkpoints are not part of them.

    Parameters
    ----------
    path
        The file to append to; only the first rank writes.
    every_n_steps
        Steps between ``train`` events; the first and last step of a launch are always written.
    """

    def __init__(self, path: str, every_n_steps: int = 10) -> None:
        self._path = Path(path)
        self._every = every_n_steps
        self._written = -1
        self._atoms, self._seconds, self._waited = 0, 0.0, 0.0
        self._interrupted = True

    def _write(self, event: str, unit: Any, **values: Any) -> None:
        if not distutils.is_master():
            return
        record = {"event": event, "time": time.time(), "step": unit.train_progress.num_steps_completed, **values}
        with self._path.open("a") as handle:
            handle.write(json.dumps(_plain(record), allow_nan=False) + "\n")

    def on_train_start(self, state: Any, unit: Any) -> None:
        """Record the size of the model, of the batch and of the training."""
        unit.records = self
        ranks = int(unit.dp_world_size)
        per_rank = int(state.train_state.dataloader.batch_sampler.max_atoms) * unit.accumulation
        self._write(
            "start",
            unit,
            n_parameters=int(unit.num_params),
            ranks=ranks,
            accumulation=unit.accumulation,
            atoms_per_step_limit=per_rank * ranks,
            steps_per_epoch=unit.steps_per_epoch(state),
        )

    def on_train_step_end(self, state: Any, unit: Any) -> None:  # noqa: ARG002
        """Record some of the steps that were taken, and every one that was not."""
        if unit.last.verdict.action == "skip":
            self._skipped(unit)
            self._interrupted = True
            return
        self._count(unit.last)
        if self._written < 0 or unit.train_progress.num_steps_completed % self._every == 0:
            self._train(unit)

    def _count(self, last: Any) -> None:
        if self._interrupted:  # the time since the step before holds start-up, a validation or a checkpoint
            self._interrupted = False
            return
        self._atoms += last.atoms
        self._seconds += last.seconds
        self._waited += last.waited_s

    def _train(self, unit: Any) -> None:
        import torch

        last = unit.last
        cuda = torch.cuda.is_available() and "cuda" in distutils.get_device_for_local_rank()
        self._write(
            "train",
            unit,
            epoch=round(last.epoch, 6),
            loss=sum(last.losses.values()),
            losses=last.losses,
            learning_rate=last.learning_rate,
            gradient_norm=last.gradient_norm,
            atoms=last.atoms,
            atoms_per_s=self._atoms / self._seconds if self._seconds else None,
            data_wait_share=self._waited / self._seconds if self._seconds else None,
            memory_gib=torch.cuda.max_memory_allocated() / _GIB if cuda else None,
            skipped=last.skips,
        )
        self._written = last.step
        self._atoms, self._seconds, self._waited = 0, 0.0, 0.0

    def _skipped(self, unit: Any) -> None:
        last = unit.last
        self._write(
            "skipped",
            unit,
            step=last.step,
            reason=last.verdict.reason,
            gradient_norm=last.gradient_norm,
            frame_ids=last.frame_ids,
            loss=sum(last.losses.values()),
        )

    def on_eval_epoch_end(self, state: Any, unit: Any) -> None:  # noqa: ARG002
        """Record validation metrics (of the averaged weights, as inference uses), of all ranks and by source."""
        self._interrupted = True
        self._write("eval", unit, metrics=unit.metrics, sources=unit.sources)

    def on_exception(self, state: Any, unit: Any, exc: BaseException) -> None:  # noqa: ARG002
        """Record that the training diverged, and the step at which it did."""
        if isinstance(exc, DivergenceError):
            if unit.last is not None and unit.last.verdict.action == "stop":
                self._skipped(unit)
            self._write("failed", unit, reason="diverged", message=str(exc))

    def on_train_end(self, state: Any, unit: Any) -> None:  # noqa: ARG002
        """Record the end; the final checkpoint is complete by now."""
        if self._left(unit):
            self._train(unit)
        self._write("end", unit)

    def _left(self, unit: Any) -> bool:
        """Return whether the last step was taken and is not yet written."""
        return unit.last is not None and unit.last.verdict.action == "step" and self._written != unit.last.step

    def failed(self, unit: Any, reason: str, message: str) -> None:
        """Record why the training could not go on."""
        self._write("failed", unit, reason=reason, message=message)

    def stopped(self, unit: Any, reason: str) -> None:
        """Record that the training was told to stop, and that its checkpoint is complete."""
        if self._left(unit):
            self._train(unit)
        self._write("stopped", unit, reason=reason)

    def interrupted(self) -> None:
        """Leave the time until the next step out of the rates: a checkpoint was written."""
        self._interrupted = True


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
