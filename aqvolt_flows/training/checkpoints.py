"""Checkpoints that survive divergence, a full disk and the end of an allocation; imports torch.

``checkpoints/step_N`` are fairchem's distributed checkpoints. The newest is confirmed when a step computed a good loss
with its weights; only then are older ones removed. One that fails that test is removed itself.
``checkpoints/best/inference_ckpt.pt`` is the best by validation, ``checkpoints/final`` the end of the training.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import torch
from fairchem.core.common import distutils
from fairchem.core.components.callbacks import TrainCheckpointCallback
from fairchem.core.units.mlip_unit.api.inference import MLIPInferenceCheckpoint
from omegaconf import OmegaConf
from torch.distributed.checkpoint.api import CheckpointException

from aqvolt_flows.aside import written_aside
from aqvolt_flows.training.trainer_process import STOP_AT
from aqvolt_flows.training.unit import DivergenceError

logger = logging.getLogger(__name__)

#: A step may take this many times as long as the last one.
_SLACK = 1.5
_ERRORS = (OSError, RuntimeError, CheckpointException)


class StoppedEarly(SystemExit):
    """The trainer ends on purpose, its checkpoint complete; the exit code is 0, the record ``stopped`` says why."""


class CheckpointKeeper(TrainCheckpointCallback):
    """Saves, confirms and removes checkpoints; stops the training in time.

    It goes before the ``ProgressCallback``, whose records say that a checkpoint is complete.

    Parameters
    ----------
    checkpoint_every_n_steps
        Steps between two checkpoints.
    max_saved_checkpoints
        Confirmed ones that are kept.
    best_by
        Validation metric, the lower the better.
    """

    def __init__(
        self,
        checkpoint_every_n_steps: int,
        max_saved_checkpoints: int = 2,
        best_by: str = "forces_mae",
    ) -> None:
        super().__init__(checkpoint_every_n_steps, max_saved_checkpoints)
        self._best_by = best_by
        self._pending: Path | None = None
        self._resumed_at: int | None = None
        self._stop_at = float(os.environ.get(STOP_AT, "inf"))
        self._why_stop = ""

    @property
    def _folder(self) -> Path:
        _, folder = self._checkpoint_hooks()
        return Path(folder)

    # ------------------------------------------------------------------ saving

    def on_train_start(self, state: Any, unit: Any) -> None:  # noqa: ARG002
        """Note where a resumed training is, and listen for SIGTERM from now on."""
        step = unit.train_progress.num_steps_completed
        if step and (self._folder / f"step_{step}" / ".metadata").is_file():
            self._resumed_at = step

        def on_signal(number: int, _frame: Any) -> None:
            self._why_stop = signal.Signals(number).name
            unit.stop_wanted = True

        signal.signal(signal.SIGTERM, on_signal)

    def on_train_step_start(self, state: Any, unit: Any) -> None:  # noqa: ARG002
        """Save if it is time to, or if the training must stop: then also end it."""
        step = unit.train_progress.num_steps_completed
        new = step != self._resumed_at and not unit.guard.in_a_row  # weights that fail now are not worth keeping
        if unit.stop_agreed:
            if new:
                self._save(unit, self._folder / f"step_{step}")
            unit.records.stopped(unit, self._why_stop or "another rank was told to stop")
            distutils.synchronize()
            raise StoppedEarly(0)
        if new and step % self.checkpoint_every_n_steps == 0:
            self._pending = self._folder / f"step_{step}"
            self._save(unit, self._pending)
            unit.records.interrupted()

    def on_train_step_end(self, state: Any, unit: Any) -> None:  # noqa: ARG002
        """Confirm or remove the newest checkpoint; look at the clock."""
        if self._pending is not None:
            if unit.last.verdict.action == "step":
                self._prune()
            else:
                self._remove(self._pending)
            self._pending = None
        if not unit.stop_wanted and time.time() + _SLACK * unit.last.seconds > self._stop_at:
            self._why_stop = "the allocation ends"
            unit.stop_wanted = True

    def on_train_end(self, state: Any, unit: Any) -> None:  # noqa: ARG002
        """Save the final checkpoint, unless the last steps could not be taken."""
        if unit.guard.in_a_row:
            raise DivergenceError(f"The last {unit.guard.in_a_row} steps were skipped: {unit.last.verdict.reason}.")
        self._save(unit, self._folder / "final")

    def on_exception(self, state: Any, unit: Any, exc: BaseException) -> None:  # noqa: ARG002
        """Remove a checkpoint whose weights proved bad."""
        if isinstance(exc, DivergenceError) and self._pending is not None:
            self._remove(self._pending)

    def _save(self, unit: Any, place: Path) -> None:
        """Write a checkpoint of finite weights.

        A file system that is full ends the training: the older checkpoints stay, and it resumes from them.
        """
        save, _ = self._checkpoint_hooks()
        if not _finite(unit):
            raise DivergenceError(f"The weights after step {unit.train_progress.num_steps_completed} are not finite.")
        try:
            save(str(place))
        except _ERRORS as error:
            free = shutil.disk_usage(self._folder).free
            self._remove(place)  # also gives back the room that the record of the failure needs
            self._cannot_write(unit, place, error, free)

    def _cannot_write(self, unit: Any, place: Path, error: BaseException, free: int) -> None:
        kept = sorted((p.parent.name for p in self._folder.glob("step_*/.metadata")), key=_number)
        message = (
            f"The checkpoint {place} could not be written ({_one_line(error)}; {free / 2**20:.0f} MiB were free); free "
            f"space and run it again: it resumes from {kept[-1] if kept else 'the start'}."
        )
        unit.records.failed(unit, "cannot_write", message)
        logger.error(message)
        raise SystemExit(74) from error  # EX_IOERR

    # ------------------------------------------------------------------ which are kept

    def _prune(self) -> None:
        if distutils.is_master():
            steps = sorted(self._folder.glob("step_*"), key=lambda p: _number(p.name))
            for old in steps[: -self.max_saved_checkpoints]:
                shutil.rmtree(old, ignore_errors=True)

    def _remove(self, place: Path) -> None:
        distutils.synchronize()
        if distutils.is_master():
            shutil.rmtree(place, ignore_errors=True)

    def on_eval_epoch_end(self, state: Any, unit: Any) -> None:  # noqa: ARG002
        """Keep the weights if their validation is the best so far."""
        by = self._best_by if self._best_by in unit.metrics else "forces_mae"
        value = unit.metrics.get(by, math.nan)
        record = self._folder / "best" / "best.json"
        if not math.isfinite(value) or (record.is_file() and value >= json.loads(record.read_text())["value"]):
            return
        state_dict = unit.state_dict()
        if not distutils.is_master():
            return
        step = unit.train_progress.num_steps_completed
        try:
            with written_aside(record.with_name("inference_ckpt.pt")) as aside:
                torch.save(_inference(unit, state_dict), aside)
            with written_aside(record) as aside:
                aside.write_text(json.dumps({"step": step, "metric": by, "value": value}))
        except _ERRORS as error:
            logger.warning("The best checkpoint of step %d could not be written (%s).", step, _one_line(error))


def _inference(unit: Any, state: dict[str, Any]) -> MLIPInferenceCheckpoint:
    """Return what fairchem's own checkpoint converts to."""

    def on_cpu(values: dict[str, Any]) -> dict[str, Any]:
        return {name: value.detach().cpu() for name, value in values.items()}

    config = OmegaConf.load(unit.job_config.metadata.config_path).runner.train_eval_unit
    model = unit.get_finetune_model_config() or config.model
    return MLIPInferenceCheckpoint(
        model_state_dict=on_cpu(state["model"]),
        ema_state_dict=on_cpu(state["ema"]),
        model_config=model,
        tasks_config=config.tasks,
    )


def _finite(unit: Any) -> bool:
    norms = torch._foreach_norm([p.detach() for p in unit.model.parameters()])
    return bool(torch.isfinite(torch.stack(norms)).all())


def _number(name: str) -> int:
    number = name.rpartition("_")[2]
    return int(number) if number.isdigit() else -1


def _one_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
