"""One stage of a training on a folder of ASE-LMDB, whoever asks: the campaign's job or the maker for scripts."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import content_hash as content_hash_of
from aqvolt_flows.identity import file_sha256
from aqvolt_flows.schemas.parameters import StageParameters, TrainingParameters
from aqvolt_flows.training.data import Split
from aqvolt_flows.training.esen import Device, StageName, backbone_sizes, stage_config, stage_parameters
from aqvolt_flows.training.layout import Layout, allocated_nodes, layout_for
from aqvolt_flows.training.mixture import selection
from aqvolt_flows.training.packing import drawn
from aqvolt_flows.training.preflight import Checked
from aqvolt_flows.training.stages import StageResult, run_stage, strip_direct_head

logger = logging.getLogger(__name__)


def train_stage(
    stage: StageName,
    parameters: TrainingParameters,
    checked: Checked,
    workdir: Path,
    device: Device,
    environment: Mapping[str, str],
    start: Path | None = None,
    content_hash: str = "",
    ends_at: float | None = None,
) -> StageResult:
    """Run, resume or recognize one stage below ``workdir``.

    Parameters
    ----------
    stage, parameters
        Which stage, and the parameters of both.
    checked
        Data that were looked at, and what is taken off energies.
    workdir
        Where the run folders of this training are.
    device, environment
        From :func:`device_for`.
    start
        Stage 1's inference checkpoint, for stage 2; its direct force head is taken off.
    content_hash
        Of the release; where it is not known the files are hashed.
    ends_at
        When the trainer must have ended, as ``time.time()`` counts; None: never.

    Raises
    ------
    InputError
        If ``start`` has another architecture than the parameters.
    ResourceError
        If there is no device, or a checkpoint cannot be written.
    StageStoppedError, TrainingError, ResumeError
        See :func:`~aqvolt_flows.training.stages.run_stage`.
    """
    chosen = stage_parameters(parameters, stage)
    train, val = epoch_of(checked, parameters.seed), validation_of(checked)
    layout = layout_here(
        chosen, device, "CUDA_VISIBLE_DEVICES" in environment, batches_at_least(train, chosen.max_atoms)
    )
    val_atoms = val_limit(val, chosen.max_atoms, layout.ranks)
    stripped = None
    if start is not None:
        stripped = workdir / "stripped.pt"
        strip_direct_head(start, stripped, backbone_sizes(parameters))
    config = stage_config(
        stage,
        parameters,
        train.folder,
        val.folder,
        checked.references,
        workdir,
        stage,
        device,
        stripped,
        layout,
        selection(checked, workdir),
    )
    config["runner"]["eval_dataloader"]["batch_sampler_fn"]["max_atoms"] = val_atoms
    data = {"release": content_hash} if content_hash else _hashes_of(checked)
    return run_stage(config, workdir, stage, environment, data, parameters.resume, ends_at)


def epoch_of(checked: Checked, seed: int) -> Split:
    """Return the sizes of what an epoch sees of all sources, under the folder of the first."""
    natoms = checked.natoms("train")
    indices = drawn([len(n) for n in natoms], [s.weight for s in checked.sources], seed, 0)
    return Split(checked.sources[0].splits["train"].folder, np.concatenate(natoms)[indices])


def validation_of(checked: Checked) -> Split:
    """Return the sizes of what is validated on of all sources, under the folder of the first."""
    folder = checked.sources[0].splits[checked.validated_on].folder
    return Split(folder, np.concatenate(checked.natoms(checked.validated_on)))


def _hashes_of(checked: Checked) -> dict[str, str]:
    """Return hashes of the files of each split, for data without a content hash."""
    found = {}
    for source in checked.sources:
        for name in ("train", "val"):
            split = source.splits[name]
            names = [*split.files, *split.folder.glob("metadata.npz")]
            key = name if len(checked.sources) == 1 else f"{source.name} {name}"
            found[key] = content_hash_of([[file.name, file_sha256(file)] for file in names])
    return found


def device_for(parameters: TrainingParameters, stage: StageName, device: str) -> tuple[Device, dict[str, str]]:
    """Return the kind of device, and which GPUs the trainer sees.

    Parameters
    ----------
    parameters, stage
        What is asked for.
    device
        ``cpu``, ``cuda`` (all GPUs that this process sees) or ``cuda:1`` (one of them).
    """
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return "cpu", {}
    wanted = stage_parameters(parameters, stage).ranks
    if index and wanted > 1:
        logger.info("Stage %s wants %d ranks and is given GPU %s: gradients are accumulated.", stage, wanted, index)
    return "cuda", ({"CUDA_VISIBLE_DEVICES": index} if index else {})


def batches_at_least(split: Split, max_atoms: int) -> int:
    """Return the batches that a split has at the least; fairchem refuses to give a rank none."""
    return -(-int(split.natoms.sum()) // max_atoms)


def val_limit(split: Split, max_atoms: int, ranks: int) -> int:
    """Return the most atoms of a validation batch such that every rank has one.

    Raises
    ------
    InputError
        If the split is too small for so many ranks.
    """
    limit = min(max_atoms, max(int(split.natoms.max()), int(split.natoms.sum()) // ranks))
    if batches_at_least(split, limit) < ranks:
        raise InputError(
            f"{split.folder} has {len(split)} structures with {int(split.natoms.sum())} atoms, too few to give each of "
            f"{ranks} ranks a validation batch; set ranks to {batches_at_least(split, limit)} (gradients are "
            "accumulated) or make a larger validation split."
        )
    return limit


def layout_here(stage: StageParameters, device: Device, one: bool = False, at_most: int = 2**31) -> Layout:
    """Return the layout of a stage on this machine, or on all nodes of the Slurm allocation it is part of.

    Parameters
    ----------
    stage
        Wants a number of ranks and a batch.
    device
        ``cuda``: a rank a GPU; ``cpu``: a rank a core.
    one
        One GPU only.
    at_most
        Ranks, e.g. because there are no more batches.
    """
    if device == "cuda":
        import torch

        devices = 1 if one else torch.cuda.device_count()
    else:
        devices = os.cpu_count() or 1
    layout = layout_for(stage, devices, 1 if one else allocated_nodes(), at_most)
    if layout.ranks < stage.ranks:
        logger.warning(
            "The stage wants %d ranks and has %d: each accumulates %d micro-batches, so that a step still has up to %d "
            "atoms.",
            stage.ranks, layout.ranks, layout.accumulation, layout.atoms_per_step_limit,
        )  # fmt: skip
    return layout
