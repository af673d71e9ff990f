"""One stage of training as a process of its own: fairchem's trainer, its log, and what it reached.

A stage writes to ``workdir/timestamp_id``: ``config.yaml``, ``train.log``, ``progress.jsonl`` and
fairchem's checkpoints. Started again with the same folder it resumes from the newest checkpoint, or
returns at once when the final one is complete.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from aqvolt_flows.aside import written_aside
from aqvolt_flows.errors import AqvoltError, InputError
from aqvolt_flows.training.esen import ENERGY_HEAD

logger = logging.getLogger(__name__)

PROGRESS, LOG, CONFIG = "progress.jsonl", "train.log", "config.yaml"
FINAL = Path("checkpoints/final/inference_ckpt.pt")
TAIL_LINES = 15
#: Losses kept in a model's document, for the training curve.
MAX_LOSSES = 200
#: Seconds between looks at a stage that another process still runs.
POLL_S = 1.0
#: The trainer must not reach out: no experiment tracker, no model hub.
OFFLINE = {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


class TrainingError(AqvoltError):
    """fairchem's trainer failed, or what it reached is not a model."""


@dataclass(frozen=True)
class Progress:
    """What ``progress.jsonl`` says; a step that was computed twice (resumed) counts once.

    Attributes
    ----------
    steps
        Optimizer steps completed.
    finished
        The final checkpoint is complete.
    seconds
        Wall time of all attempts, start-up included.
    losses
        (step, training loss) pairs, in order of steps.
    evaluations
        (step, metrics) pairs; energies in eV and eV/atom, forces in eV/Å, stress in eV/Å³.
    """

    steps: int = 0
    finished: bool = False
    seconds: float = 0.0
    n_parameters: int | None = None
    attempts: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    evaluations: list[tuple[int, dict[str, float]]] = field(default_factory=list)


@dataclass(frozen=True)
class StageResult:
    """A finished stage: its inference checkpoint and its progress."""

    checkpoint: Path
    progress: Progress

    def summary(self) -> dict[str, Any]:
        """Return a small dictionary for documents: steps, seconds, first and last loss, metrics."""
        reached = self.progress
        return {
            "steps": reached.steps,
            "seconds": round(reached.seconds, 3),
            "attempts": reached.attempts,
            "train_loss_first": reached.losses[0][1] if reached.losses else None,
            "train_loss_last": reached.losses[-1][1] if reached.losses else None,
            "losses": [[step, loss] for step, loss in _thinned(reached.losses)],
            "metrics_first": reached.evaluations[0][1] if reached.evaluations else {},
            "metrics": reached.evaluations[-1][1] if reached.evaluations else {},
        }


def _thinned(losses: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return at most about :data:`MAX_LOSSES` of the losses, evenly spaced, the last one included."""
    every = max(1, -(-len(losses) // MAX_LOSSES))
    return losses[::-1][::every][::-1]


def read_progress(path: Path) -> Progress:
    """Return what a progress file says; lines that a killed process cut short are passed over."""
    records = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and {"event", "time", "step"} <= record.keys():
            records.append(record)
    losses: dict[int, float] = {}
    evaluations: dict[int, dict[str, float]] = {}
    seconds, attempts, finished, n_parameters, previous = 0.0, 0, False, None, None
    for record in records:
        if record["event"] == "launch":
            attempts, finished = attempts + 1, False
        elif previous is not None:
            seconds += max(0.0, record["time"] - previous)
        previous = record["time"]
        if record["event"] == "start":
            n_parameters = record["n_parameters"]
        elif record["event"] == "end":
            finished = True
        elif record["event"] == "train":
            losses[record["step"]] = record["loss"]
        elif record["event"] == "eval":
            evaluations[record["step"]] = record["metrics"]
    return Progress(
        steps=max((r["step"] for r in records), default=0),
        finished=finished,
        seconds=seconds,
        n_parameters=n_parameters,
        attempts=attempts,
        losses=sorted(losses.items()),
        evaluations=sorted(evaluations.items(), key=lambda pair: pair[0]),
    )


def _append(path: Path, record: Mapping[str, Any]) -> None:
    """Append a record on a line of its own, also after a line that was cut short."""
    cut_short = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("a") as handle:
        handle.write(("\n" if cut_short else "") + json.dumps(record) + "\n")


@contextmanager
def only_one(folder: Path) -> Iterator[int]:
    """Hold the folder's lock; wait while another process trains there.

    The lock is a file descriptor that the trainer inherits: when a worker is killed its trainer lives
    on, and a second one must not write beside it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        waiting = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    logger.warning("Another process still trains in %s; waiting for it to end.", folder)
                    waiting = True
                time.sleep(POLL_S)
        yield handle.fileno()


def _command(config: Mapping[str, Any], config_file: Path) -> list[str]:
    """Return how to start fairchem's trainer: its own entry point, or torchrun for several ranks."""
    ranks = int(config["job"]["scheduler"]["ranks_per_node"])
    if ranks == 1:
        return [sys.executable, "-c", "from fairchem.core._cli import main; main()", "-c", str(config_file)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return [*torchrun, "-m", "aqvolt_flows.training.torchrun", str(config_file)]


def run_stage(
    config: Mapping[str, Any], workdir: Path, timestamp_id: str, environment: Mapping[str, str] | None = None
) -> StageResult:
    """Run, resume or recognise one stage, and return its inference checkpoint and what it reached.

    Parameters
    ----------
    config
        From :func:`aqvolt_flows.training.esen.stage_config`, with the same ``workdir`` and ``timestamp_id``.
    environment
        Variables to set for the trainer, e.g. which GPUs it may see.

    Raises
    ------
    TrainingError
        If the trainer fails (with the tail of its log), stops early, or diverges.
    InputError
        If the configuration is for another folder.
    """
    job = config["job"]
    if (Path(job["run_dir"]), job["timestamp_id"]) != (workdir, timestamp_id):
        raise InputError(
            f"The configuration is for {job['run_dir']}/{job['timestamp_id']}, not {workdir}/{timestamp_id}; make it "
            "for this folder."
        )
    folder = workdir / timestamp_id
    with only_one(folder) as lock:
        reached = read_progress(folder / PROGRESS)
        if not (reached.finished and (folder / FINAL).is_file()):
            # A final checkpoint without its "end" record was cut short while it was written.
            shutil.rmtree(folder / FINAL.parent, ignore_errors=True)
            if not any(folder.glob("checkpoints/step_*/.metadata")):
                (folder / PROGRESS).unlink(missing_ok=True)  # starts at step 0: what was computed before is gone
            _train(config, folder, lock, {**os.environ, **OFFLINE, **(environment or {})})
            reached = read_progress(folder / PROGRESS)
    return _checked(StageResult(folder / FINAL, reached), config, folder)


def _train(config: Mapping[str, Any], folder: Path, lock: int, environment: Mapping[str, str]) -> None:
    config_file = folder / CONFIG
    config_file.write_text(yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False))
    _append(folder / PROGRESS, {"event": "launch", "time": time.time(), "step": 0})
    with (folder / LOG).open("ab") as log:
        done = subprocess.run(
            _command(config, config_file),
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            env=environment,
            pass_fds=(lock,),
            check=False,
        )
    if done.returncode != 0:
        raise TrainingError(
            f"The trainer in {folder} ended with code {done.returncode} after {read_progress(folder / PROGRESS).steps} "
            f"steps; expected 0; the end of {LOG} says why:\n{log_tail(folder / LOG)}"
        )


def _checked(result: StageResult, config: Mapping[str, Any], folder: Path) -> StageResult:
    """Return the result if it is one: all steps done, a checkpoint, finite losses and metrics."""
    reached, wanted = result.progress, config["runner"]["max_steps"]
    if not (reached.finished and result.checkpoint.is_file()) or (wanted and reached.steps < wanted):
        raise TrainingError(
            f"The trainer in {folder} ended without error after {reached.steps} steps but left no final checkpoint; "
            f"expected {wanted or 'all epochs'}; the end of {LOG}:\n{log_tail(folder / LOG)}"
        )
    numbers = [loss for _, loss in reached.losses[-1:]] + [v for _, m in reached.evaluations[-1:] for v in m.values()]
    if not all(math.isfinite(number) for number in numbers):
        raise TrainingError(
            f"The training in {folder} diverged: its last losses or metrics are not finite ({numbers}); "
            "lower learning_rate or clip_grad_norm, or filter the release by force."
        )
    return result


def log_tail(path: Path, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a log."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else "(no log)"


def strip_direct_head(source: Path, target: Path) -> None:
    """Write the start of stage 2: a stage-1 inference checkpoint without its direct force head.

    Backbone and energy head keep their weights bit for bit; forces and stress become gradients of the
    energy. The weights that fairchem fine-tunes are the last ones, not the averaged ones.

    Raises
    ------
    InputError
        If the source is no inference checkpoint with an energy and a force head.
    """
    import torch
    from omegaconf import OmegaConf

    checkpoint = load_checkpoint(source)
    model: Any = OmegaConf.to_container(OmegaConf.create(checkpoint.model_config), resolve=True)
    if set(model.get("heads") or {}) != {"energy", "forces"} or not model["backbone"].get("direct_forces"):
        raise InputError(
            f"{source} has the heads {sorted(model.get('heads') or {})}; expected energy and forces of a direct stage, "
            "give stage 1's inference_ckpt.pt."
        )
    model["heads"] = {"energy": {"module": ENERGY_HEAD}}
    model["pass_through_head_outputs"] = True
    model["backbone"].update(direct_forces=False, regress_forces=True, regress_stress=True)
    checkpoint.model_config = model
    for name in ("model_state_dict", "ema_state_dict"):
        state = getattr(checkpoint, name)
        setattr(checkpoint, name, {k: v for k, v in state.items() if "output_heads.forces." not in k})
    with written_aside(target) as aside:
        torch.save(checkpoint, aside)


def load_checkpoint(path: Path) -> Any:
    """Return fairchem's inference checkpoint; it is a pickle, and loading one runs code.

    Raises
    ------
    InputError
        If the file is none.
    """
    import pickle

    import torch
    from fairchem.core.units.mlip_unit.api.inference import MLIPInferenceCheckpoint

    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError, pickle.UnpicklingError) as error:
        raise InputError(f"{path} is not a fairchem checkpoint ({error}); give an inference_ckpt.pt.") from None
    if not isinstance(checkpoint, MLIPInferenceCheckpoint):
        raise InputError(f"{path} holds a {type(checkpoint).__name__}; expected fairchem's inference checkpoint.")
    return checkpoint
