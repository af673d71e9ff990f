"""One of two ranks: gradients of the same frames by ranks, by accumulation, at once, and by fairchem's own unit.

    python rank_gradients.py RANK PORT FOLDER STAGE ...

writes ``FOLDER/STAGE.npz`` with one array per way and parameter, on rank 0; ``FOLDER/STAGE.json`` is the stage's
configuration.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from fairchem.core.common import distutils
from fairchem.core.units.mlip_unit.mlip_unit import MLIPTrainEvalUnit, compute_loss
from omegaconf import OmegaConf

#: Frames of four micro-batches, unequal in structures and in atoms.
BATCHES = ([0, 1, 2], [3], [4, 5], [6, 7, 8, 9])


def setup(rank: int, world: int, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    distutils.setup(
        {"submit": False, "cpu": True, "distributed_backend": "gloo", "world_size": world, "init_method": "tcp"}
    )


def without_some_labels(batch: Any, place: int) -> Any:
    """Take labels from the second micro-batch and the fourth: one stress; one atom's force, all forces of a frame."""
    if place == 1 and "stress" in batch:
        batch.stress[0] = torch.nan
    if place == 3:
        batch.forces[0] = torch.nan
        batch.forces[-int(batch.natoms[-1]) :] = torch.nan
    return batch


def gradients(unit: Any) -> dict[str, np.ndarray]:
    return {name: p.grad.numpy().copy() for name, p in unit.model.named_parameters() if p.grad is not None}


def unit_of(config: Any, kind: str) -> Any:
    values = OmegaConf.to_container(config.runner.train_eval_unit)
    values["job_config"] = {"debug": True, "logger": None}
    if kind == "fairchem":
        values["_target_"] = f"{MLIPTrainEvalUnit.__module__}.{MLIPTrainEvalUnit.__qualname__}"
        values = {k: v for k, v in values.items() if k not in ("guard", "accumulation")}
    torch.manual_seed(3)
    return hydra.utils.instantiate(OmegaConf.create(values))


def main(rank: int, port: int, folder: Path, stage: str) -> None:
    config = OmegaConf.create(json.loads((folder / f"{stage}.json").read_text()))
    found: dict[str, np.ndarray] = {}

    def keep(way: str, unit: Any) -> None:
        found.update({f"{way}/{name}": value for name, value in gradients(unit).items()})

    setup(rank, 2, port)
    loader = hydra.utils.instantiate(config.runner.train_dataloader)
    together = [[loader.dataset[i] for i in frames] for frames in BATCHES]
    micro = [without_some_labels(loader.collate_fn(frames), place) for place, frames in enumerate(together)]

    ours = unit_of(config, "ours")
    assert ours.accumulate(micro[rank:2:2]) == sum(int(b.natoms.sum()) for b in micro[:2])
    keep("two ranks", ours)
    losses, norm = ours._norms()
    found["two ranks:losses"], found["two ranks:norm"] = np.array(list(losses.values())), np.array(norm)
    ours.accumulate(micro[rank::2])
    keep("two ranks, two each", ours)
    theirs = unit_of(config, "fairchem")
    sum(compute_loss(theirs.tasks, theirs.model(micro[rank]), micro[rank]).values()).backward()
    keep("fairchem on two ranks", theirs)
    distutils.cleanup()
    if rank != 0:
        return
    setup(0, 1, port + 1)
    ours = unit_of(config, "ours")
    ours.accumulate(micro[:2])
    keep("accumulated", ours)
    losses, norm = ours._norms()
    found["accumulated:losses"], found["accumulated:norm"] = np.array(list(losses.values())), np.array(norm)
    ours.accumulate(micro)
    keep("four accumulated", ours)
    whole = loader.collate_fn([frame for frames in together[:2] for frame in frames])
    if "stress" in whole:
        whole.stress[len(BATCHES[0])] = torch.nan
    ours.accumulate([whole])
    keep("at once", ours)
    distutils.cleanup()
    np.savez(folder / f"{stage}.npz", **found)


if __name__ == "__main__":
    for place, name in enumerate(sys.argv[4:]):
        main(int(sys.argv[1]), int(sys.argv[2]) + 2 * place, Path(sys.argv[3]), name)
