"""One stage of a training on a folder of ASE-LMDB, whoever asks: the campaign's job or the maker for scripts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.schemas.parameters import TrainingParameters
from aqvolt_flows.training.data import Split, name_of, open_split
from aqvolt_flows.training.esen import Device, References, StageName, check_sizes, stage_config, stage_parameters
from aqvolt_flows.training.stages import StageResult, run_stage, strip_direct_head


def splits_of(release: Path, parameters: TrainingParameters, whose: str) -> tuple[Split, Split, str]:
    """Return training and validation split; without the latter training is validated on the former.

    Raises
    ------
    InputError
        If there is nothing to train on, or a structure does not fit into a batch.
    ResourceError
        If there is no ASE-LMDB.
    """
    train, val = open_split(release, "train"), open_split(release, "val")
    if not len(train):
        raise InputError(f"{whose} has an empty training split; make a release with more labels.")
    splits = {"train": train, "val": val}
    sizes = {name: split.natoms for name, split in splits.items()}
    check_sizes(parameters, sizes, lambda split, index: name_of(splits[split], index))
    return (train, val, "val") if len(val) else (train, train, "train")


def train_stage(
    stage: StageName,
    parameters: TrainingParameters,
    train: Split,
    val: Split,
    references: References,
    workdir: Path,
    device: Device,
    environment: Mapping[str, str],
    start: Path | None = None,
) -> StageResult:
    """Run, resume or recognize one stage below ``workdir``.

    Parameters
    ----------
    stage, parameters
        Which stage, and the parameters of both.
    train, val, references
        Data and what is taken off energies.
    workdir
        Where the run folders of this training are.
    device, environment
        From :func:`device_for`.
    start
        Stage 1's inference checkpoint, for stage 2; its direct force head is taken off.
    """
    stripped = None
    if start is not None:
        stripped = workdir / "stripped.pt"
        strip_direct_head(start, stripped)
    config = stage_config(stage, parameters, train.folder, val.folder, references, workdir, stage, device, stripped)
    return run_stage(config, workdir, stage, environment)


def device_for(parameters: TrainingParameters, stage: StageName, device: str) -> tuple[Device, dict[str, str]]:
    """Return the kind of device, and which GPUs the trainer sees.

    Raises
    ------
    ResourceError
        If a stage wants more ranks than there are GPUs or cores.
    """
    kind, _, index = device.partition(":")
    if kind == "cuda":
        import torch

        there = 1 if index else torch.cuda.device_count()
    else:
        there = os.cpu_count() or 1
    wanted = stage_parameters(parameters, stage).ranks
    if wanted > there:
        units = "GPUs" if kind == "cuda" else "cores"
        raise ResourceError(
            f"Stage {stage} wants {wanted} ranks and there are {there} {units} here; run it on a bigger machine, or "
            f"set training.{stage}.ranks and max_atoms for this one (their product is the batch)."
        )
    return ("cuda" if kind == "cuda" else "cpu"), ({"CUDA_VISIBLE_DEVICES": index} if index else {})
