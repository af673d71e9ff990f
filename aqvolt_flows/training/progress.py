"""What a training reached, written line by line from inside fairchem's trainer; imports torch.

fairchem reports metrics to W&B or, rounded, to its log. This callback writes them in full to
``progress.jsonl``; :func:`aqvolt_flows.training.stages.read_progress` reads the file.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from fairchem.core.common import distutils
from torchtnt.framework.callback import Callback


class ProgressCallback(Callback):
    """Appends one JSON line per event: ``start``, ``train``, ``eval``, ``end``.

    Parameters
    ----------
    path
        The file to append to; only the first rank writes.
    every_n_steps
        Steps between ``train`` events.
    """

    def __init__(self, path: str, every_n_steps: int = 10) -> None:
        self._path = Path(path)
        self._every = every_n_steps

    def _write(self, event: str, unit: Any, **values: Any) -> None:
        if not distutils.is_master():
            return
        record = {"event": event, "time": time.time(), "step": unit.train_progress.num_steps_completed, **values}
        with self._path.open("a") as handle:
            handle.write(json.dumps(record) + "\n")

    def on_train_start(self, state: Any, unit: Any) -> None:  # noqa: ARG002
        """Record the size of the model and of the training."""
        self._write("start", unit, n_parameters=int(unit.num_params), ranks=int(unit.dp_world_size))

    def on_train_step_end(self, state: Any, unit: Any) -> None:  # noqa: ARG002
        """Record the loss of some steps."""
        if unit.train_progress.num_steps_completed % self._every == 0 and unit.last_loss is not None:
            self._write("train", unit, loss=float(unit.last_loss))

    def on_eval_epoch_end(self, state: Any, unit: Any) -> None:  # noqa: ARG002
        """Record validation metrics (of the averaged weights, as inference uses), summed over all ranks."""
        device = distutils.get_device_for_local_rank()
        metrics = {}
        for task, datasets in unit.eval_unit.running_metrics.items():
            for by_name in datasets.values():
                for name, metric in by_name.items():
                    total = distutils.all_reduce(metric.total, average=False, device=device)
                    number = distutils.all_reduce(metric.numel, average=False, device=device)
                    if number:
                        metrics[f"{task}_{name}"] = float(total) / float(number)
        self._write("eval", unit, metrics=metrics)

    def on_train_end(self, state: Any, unit: Any) -> None:  # noqa: ARG002
        """Record the end; the final checkpoint is complete by now."""
        self._write("end", unit)
