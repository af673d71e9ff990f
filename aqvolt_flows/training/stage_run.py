"""One stage of a training on a folder of ASE-LMDB, whoever asks: the campaign's job or the maker for scripts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from aqvolt_flows.errors import ResourceError
from aqvolt_flows.schemas.parameters import TrainingParameters
from aqvolt_flows.training.esen import Device, StageName, stage_config, stage_parameters
from aqvolt_flows.training.mixture import selection
from aqvolt_flows.training.preflight import Checked
from aqvolt_flows.training.stages import StageResult, run_stage, strip_direct_head


def train_stage(
    stage: StageName,
    parameters: TrainingParameters,
    checked: Checked,
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
    checked
        Data that were looked at, and what is taken off energies.
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
    first = checked.sources[0]
    config = stage_config(
        stage,
        parameters,
        first.splits["train"].folder,
        first.splits[checked.validated_on].folder,
        checked.references,
        workdir,
        stage,
        device,
        stripped,
        mixture=selection(checked, workdir),
    )
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
