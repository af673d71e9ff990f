"""The same labels give the same weights, bit for bit, in three trainers of two threads on a CPU."""

from __future__ import annotations

import concurrent.futures
from pathlib import Path

import numpy as np
import pytest

from aqvolt_flows.schemas.parameters import TrainingParameters
from aqvolt_flows.training.data import labelled, open_split
from aqvolt_flows.training.esen import reference_energies, stage_config
from aqvolt_flows.training.stage_run import train_stage
from aqvolt_flows.training.stages import load_checkpoint

#: Edges × (l_max + 1)² × channels is above torch's 32,768, from which a gradient is added up by several threads.
STAGE = {"steps": 2, "max_atoms": 60, "max_neighbors": 60, "bf16": False, "learning_rate": 1e-3}
TOY = {
    "architecture": "eSEN-toy", "n_layers": 1, "sphere_channels": 16, "hidden_channels": 16, "n_distance_basis": 16,
    "direct": STAGE | {"energy_coefficient": 1, "force_coefficient": 1},
    "conservative": STAGE | {"energy_coefficient": 1, "force_coefficient": 1, "stress_coefficient": 1},
}  # fmt: skip
ENVIRONMENT = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}


def weights(checkpoint: Path) -> dict[str, np.ndarray]:
    found = load_checkpoint(checkpoint)
    states = {"last": found.model_state_dict, "averaged": found.ema_state_dict}
    return {f"{n}.{k}": v.numpy().copy() for n, state in states.items() for k, v in state.items()}


@pytest.mark.slow
def test_the_same_labels_give_the_same_weights(release: Path, tmp_path: Path):
    parameters = TrainingParameters(**TOY)
    train = open_split(release, "train")
    references = reference_energies(labelled(train))

    def trained(place: Path) -> tuple[list[tuple[int, float]], dict[str, np.ndarray]]:
        direct = train_stage("direct", parameters, train, train, references, place, "cpu", ENVIRONMENT)
        second = train_stage(
            "conservative", parameters, train, train, references, place, "cpu", ENVIRONMENT, direct.checkpoint
        )
        return direct.progress.losses + second.progress.losses, weights(second.checkpoint)

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        (losses, first), *others = pool.map(trained, [tmp_path / name for name in "abc"])
    assert len(losses) == 4
    for other_losses, other in others:
        assert other_losses == losses
        assert other.keys() == first.keys()
        assert [k for k in first if first[k].tobytes() != other[k].tobytes()] == []


def test_a_gpu_is_not_slowed_by_it(release: Path, tmp_path: Path):
    parameters = TrainingParameters(**TOY)
    train = open_split(release, "train")
    references = reference_energies(labelled(train))
    for device, wanted in (("cpu", True), ("cuda", False)):
        config = stage_config(
            "direct", parameters, train.folder, train.folder, references, tmp_path, "direct", device, None
        )
        assert config["job"]["deterministic"] is wanted
