"""Fine-tuning of SevenNet on a release with the ``sevenn`` package's own trainer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import file_sha256
from aqvolt_flows.potentials.checkpoints import checkpoint_sha256, parse_name
from aqvolt_flows.potentials.registry import FAMILIES, located
from aqvolt_flows.potentials.trained import string_of
from aqvolt_flows.schemas.trainings import SevenNetParameters
from aqvolt_flows.trainers import Trained, TrainingTask
from aqvolt_flows.training.fine_tune import compare_held_out, splits_for
from aqvolt_flows.training.process import run_process
from aqvolt_flows.training.records import read_records, versions_of

PARAMETERS = SevenNetParameters
WEIGHTS = "checkpoint.pth"


def architecture_of(parameters: SevenNetParameters) -> str:
    """Return what documents call the network."""
    return f"{parameters.start} fine-tuned"


def start_of(parameters: SevenNetParameters) -> str:
    """Return the model string that it starts from."""
    return parameters.start


def checkpoint_of(start: str) -> tuple[Path | str, str | None]:
    """Return checkpoint and modality of a SevenNet model string of this machine.

    Raises
    ------
    InputError
        If the string is of another family.
    """
    place = located(start)
    if FAMILIES["sevennet"].owns(place):
        name, _, modality = place.partition("/")
        return name, modality
    if FAMILIES["sevennet-checkpoint"].owns(place):
        given = parse_name(place.removeprefix("sevennet:"))
        return given.path, given.channel
    raise InputError(
        f"The sevennet trainer cannot start from {start!r}; give 7net-mf-0/R2SCAN, sevennet:PATH#MODALITY or a model "
        "that it trained."
    )


def train(task: TrainingTask) -> Trained:
    """Fine-tune in ``task.workdir``; see :mod:`aqvolt_flows.training.sevennet_process`."""
    p: SevenNetParameters = task.parameters
    start = task.start or p.start
    checkpoint, modality = checkpoint_of(start)
    train_split, val_split, validated_on = splits_for(task.release, p.max_atoms)
    weights = task.workdir / WEIGHTS
    given: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": checkpoint_sha256(checkpoint) if isinstance(checkpoint, Path) else "",
        "start": start,
        "modality": modality,
        "train": str(train_split.folder),
        "val": str(val_split.folder),
        "device": task.device,
        "parameters": p.model_dump(mode="json"),
    }
    command = [sys.executable, "-m", "aqvolt_flows.training.sevennet_process", "config.json"]
    progress = run_process(command, task.workdir, given, weights)
    trained = string_of("sevennet", weights, modality, file_sha256(weights))
    starts = [r for r in read_records(progress) if r["event"] == "start"]
    return Trained(
        weights,
        progress,
        channel=modality,
        validated_on=validated_on,
        references=starts[-1]["shifts"] if starts else {},
        held_out=compare_held_out(task.release, start, trained, task.device),
        versions=versions_of(),
    )
