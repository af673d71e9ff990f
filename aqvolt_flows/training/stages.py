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
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from aqvolt_flows.aside import written_aside
from aqvolt_flows.errors import AqvoltError, InputError, ResourceError
from aqvolt_flows.stopping import stop_wanted
from aqvolt_flows.training.esen import ENERGY_HEAD
from aqvolt_flows.training.layout import Layout, command
from aqvolt_flows.training.resume import STARTED, check_same, identity
from aqvolt_flows.training.trainer_process import STOP_AT, run_trainer

logger = logging.getLogger(__name__)

PROGRESS, LOG, CONFIG = "progress.jsonl", "train.log", "config.yaml"
FINAL = Path("checkpoints/final/inference_ckpt.pt")
TAIL_LINES = 15
#: Losses kept in a model's document, for the training curve.
MAX_LOSSES = 200
#: Skipped steps told in a model's document.
MAX_SKIPPED = 20
#: A file system with less room than this is full.
FULL_BYTES = 1 << 22
#: Seconds between looks at a stage that another process still runs.
POLL_S = 1.0
#: The trainer must not reach out: no experiment tracker, no model hub.
OFFLINE = {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


class TrainingError(AqvoltError):
    """fairchem's trainer failed, or what it reached is not a model.

    Attributes
    ----------
    reason
        For the model's document.
    """

    reason = "trainer_failed"


class DivergedError(TrainingError):
    """The training diverged; its last good checkpoints are kept."""

    reason = "diverged"


class StageStoppedError(AqvoltError):
    """The stage was told to stop before its end; its checkpoint is complete and it goes on from there."""

    reason = "stopped"


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
    sources
        The last metrics of each release of a mixture; empty where there is one.
    skipped
        Records of steps that were not taken, with their reason and frame ids.
    batch
        Of the last launch: ranks, accumulation, the most atoms of a step, and their mean over the recorded steps.
    last
        The last record, whatever it says.
    """

    steps: int = 0
    finished: bool = False
    seconds: float = 0.0
    n_parameters: int | None = None
    attempts: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    evaluations: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    sources: dict[str, dict[str, float]] = field(default_factory=dict)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    batch: dict[str, Any] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)


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
            "sources": reached.sources,
            "batch": reached.batch,
            "best": self.best(),
            "n_skipped": len(reached.skipped),
            "skipped": reached.skipped[:MAX_SKIPPED],
        }

    @property
    def best_checkpoint(self) -> Path:
        """Where the inference checkpoint of the best validation is, if there was one."""
        return self.checkpoint.parent.parent / "best" / self.checkpoint.name

    def best(self) -> dict[str, Any]:
        """Return step, metric and value of the best checkpoint by validation; empty where there is none."""
        record = self.best_checkpoint.with_name("best.json")
        try:
            found: dict[str, Any] = json.loads(record.read_text())
        except (OSError, ValueError):
            return {}
        return found


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
    skipped: dict[int, dict[str, Any]] = {}
    seconds, attempts, finished, n_parameters, previous = 0.0, 0, False, None, None
    batch: dict[str, Any] = {}
    atoms: dict[int, int] = {}
    for record in records:
        if record["event"] == "launch":
            attempts, finished = attempts + 1, False
        elif previous is not None:
            seconds += max(0.0, record["time"] - previous)
        previous = record["time"]
        if record["event"] == "start":
            n_parameters = record["n_parameters"]
            batch = {k: record[k] for k in ("ranks", "accumulation", "atoms_per_step_limit") if k in record}
        elif record["event"] == "end":
            finished = True
        elif record["event"] == "train":
            losses[record["step"]] = record["loss"]
            atoms[record["step"]] = record.get("atoms", 0)
        elif record["event"] == "skipped":
            skipped[record["step"]] = {k: record.get(k) for k in ("step", "reason", "gradient_norm", "frame_ids")}
        elif record["event"] == "eval":
            evaluations[record["step"]] = {k: math.nan if v is None else v for k, v in record["metrics"].items()}
    if any(atoms.values()):
        batch["atoms_per_step_mean"] = round(sum(atoms.values()) / len(atoms), 1)
    return Progress(
        steps=max((r["step"] for r in records), default=0),
        finished=finished,
        seconds=seconds,
        n_parameters=n_parameters,
        attempts=attempts,
        losses=sorted(losses.items()),
        evaluations=sorted(evaluations.items(), key=lambda pair: pair[0]),
        sources=next((r["sources"] for r in reversed(records) if r["event"] == "eval" and r.get("sources")), {}),
        skipped=[skipped[step] for step in sorted(skipped)],
        batch=batch,
        last=records[-1] if records else {},
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


def run_stage(
    config: Mapping[str, Any],
    workdir: Path,
    timestamp_id: str,
    environment: Mapping[str, str] | None = None,
    data: Mapping[str, str] | None = None,
    resume: str = "strict",
    ends_at: float | None = None,
) -> StageResult:
    """Run, resume or recognize one stage, and return its inference checkpoint and what it reached.

    Parameters
    ----------
    config
        From :func:`aqvolt_flows.training.esen.stage_config`, with the same ``workdir`` and ``timestamp_id``.
    environment
        Variables to set for the trainer, e.g. which GPUs it may see.
    data
        Names and hashes of what is trained on; a run that is continued must have the same.
    resume
        ``strict`` or ``any``, see :func:`aqvolt_flows.training.resume.check_same`.
    ends_at
        When the trainer must have ended, as ``time.time()`` counts; None: never.

    Raises
    ------
    TrainingError
        If the trainer fails (with the tail of its log), stops early, or diverges.
    StageStoppedError
        If it stopped in time because it was told to; run the stage again to go on.
    ResumeError
        If the folder holds a run of something else.
    ResourceError
        If a checkpoint could not be written.
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
                for stale in (PROGRESS, STARTED):  # starts at step 0: what was computed before is gone
                    (folder / stale).unlink(missing_ok=True)
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            check_same(folder, identity(config, data or {}), resume)
            _train(config, folder, lock, {**os.environ, **OFFLINE, **(environment or {})}, ends_at)
            reached = read_progress(folder / PROGRESS)
    return _checked(StageResult(folder / FINAL, reached), config, folder)


def _train(
    config: Mapping[str, Any], folder: Path, lock: int, environment: Mapping[str, str], ends_at: float | None
) -> None:
    config_file = folder / CONFIG
    config_file.write_text(yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False))
    _append(folder / PROGRESS, {"event": "launch", "time": time.time(), "step": 0})
    stop = {} if ends_at is None else {STOP_AT: repr(ends_at)}
    with (folder / LOG).open("ab") as log:
        code = run_trainer(_command(config, config_file), folder, log, {**environment, **stop}, lock)
    reached = read_progress(folder / PROGRESS)
    said = reached.last
    where = f"The training in {folder}"
    if said.get("event") == "stopped" or (
        code != 0 and stop_wanted()
    ):  # a worker's SIGTERM may end it before it says so
        raise StageStoppedError(
            f"{where} stopped after {reached.steps} steps ({said.get('reason') or 'SIGTERM'}); run it again to go on."
        )
    if said.get("event") == "failed" and said.get("reason") == "diverged":
        kept = sorted(p.parent.name for p in folder.glob("checkpoints/step_*/.metadata"))
        raise DivergedError(
            f"{where} diverged: {said['message']} Its good checkpoints are kept ({', '.join(kept) or 'none'}); lower "
            "learning_rate or clip_grad_norm, or filter the release by force."
        )
    if said.get("event") == "failed":
        raise ResourceError(str(said["message"]))
    if code != 0 and shutil.disk_usage(folder).free < FULL_BYTES:
        raise ResourceError(
            f"The trainer in {folder} ended with code {code} on a full file system; free space and run it again."
        )
    if code != 0:
        raise TrainingError(
            f"The trainer in {folder} ended with code {code} after {reached.steps} steps; expected 0; the end of {LOG} "
            f"says why:\n{log_tail(folder / LOG)}"
        )


def _command(config: Mapping[str, Any], config_file: Path) -> list[str]:
    scheduler = config["job"]["scheduler"]
    return command(Layout(int(scheduler.get("num_nodes", 1)), int(scheduler["ranks_per_node"])), config_file)


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
        raise DivergedError(
            f"The training in {folder} diverged: its last losses or metrics are not finite ({numbers}); "
            "lower learning_rate or clip_grad_norm, or filter the release by force."
        )
    return result


def log_tail(path: Path, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a log."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else "(no log)"


def strip_direct_head(source: Path, target: Path, sizes: Mapping[str, Any] | None = None) -> None:
    """Write the start of stage 2: a stage-1 inference checkpoint without its direct force head.

    Backbone and energy head keep their weights bit for bit; forces and stress become gradients of the
    energy. The weights that fairchem fine-tunes are the last ones, not the averaged ones.

    Parameters
    ----------
    source, target
        Files.
    sizes
        What the backbone must be, from :func:`aqvolt_flows.training.esen.backbone_sizes`; None: anything.

    Raises
    ------
    InputError
        If the source is no inference checkpoint with an energy and a force head, or has another architecture.
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
    other = {k: v for k, v in (sizes or {}).items() if model["backbone"].get(k) != v}
    if other:
        said = ", ".join(f"{k} {model['backbone'].get(k)} instead of {v}" for k, v in other.items())
        raise InputError(
            f"{source} is of another architecture ({said}); give a checkpoint of the architecture that the parameters "
            "describe, or describe the checkpoint's."
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

    from aqvolt_flows.potentials.fairchem import check_contents

    check_contents(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=False)  # checked above  # nosec B614
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError, pickle.UnpicklingError) as error:
        raise InputError(f"{path} is not a fairchem checkpoint ({error}); give an inference_ckpt.pt.") from None
    if not isinstance(checkpoint, MLIPInferenceCheckpoint):
        raise InputError(f"{path} holds a {type(checkpoint).__name__}; expected fairchem's inference checkpoint.")
    return checkpoint
