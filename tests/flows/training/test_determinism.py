"""The same labels give the same weights, bit for bit, in three trainers of two threads on a CPU."""

from __future__ import annotations

import concurrent.futures
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved_models import save_esen

from aqvolt_flows.schemas.parameters import TrainingParameters
from aqvolt_flows.training.data import labelled, open_split
from aqvolt_flows.training.esen import stage_config
from aqvolt_flows.training.references import reference_energies
from aqvolt_flows.training.stages import load_checkpoint, run_stage

#: Edges × (l_max + 1)² × channels is above torch's 32,768, from which several threads add up a gradient.
STAGE = {"steps": 3, "max_atoms": 60, "max_neighbors": 60, "bf16": False, "learning_rate": 1e-3}
COEFFICIENTS = {"energy_coefficient": 1, "force_coefficient": 1}
#: The shape of the model of saved_models, from which the stage starts.
TOY: dict[str, Any] = {
    "architecture": "eSEN-toy", "n_layers": 1, "sphere_channels": 8, "hidden_channels": 8, "n_distance_basis": 8,
    "cutoff_a": 5.0, "direct": STAGE | COEFFICIENTS, "conservative": STAGE | COEFFICIENTS | {"stress_coefficient": 1},
}  # fmt: skip
ENVIRONMENT = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}


def weights(checkpoint: Path) -> dict[str, np.ndarray]:
    found = load_checkpoint(checkpoint)
    states = {"last": found.model_state_dict, "averaged": found.ema_state_dict}
    return {f"{n}.{k}": v.numpy().copy() for n, state in states.items() for k, v in state.items()}


@pytest.mark.slow
def test_the_same_labels_give_the_same_weights(release: Path, tmp_path: Path):
    parameters = TrainingParameters(**TOY)
    train = open_split(release, "train").folder
    start = tmp_path / "start.pt"
    save_esen(start)

    def trained(place: Path) -> tuple[list[tuple[int, float]], dict[str, np.ndarray]]:
        references = reference_energies(labelled(open_split(release, "train")))
        config = stage_config("conservative", parameters, train, train, references, place, "second", "cpu", start)
        done = run_stage(config, place, "second", ENVIRONMENT)
        return done.progress.losses, weights(done.checkpoint)

    with concurrent.futures.ThreadPoolExecutor(3) as pool:  # beside each other, as on a busy machine
        (losses, first), *others = pool.map(trained, [tmp_path / name for name in "abc"])
    assert len(losses) == 3
    untrained = weights(start)
    assert any(not np.array_equal(first[k], untrained[k]) for k in first)
    for other_losses, other in others:
        assert other_losses == losses
        assert other.keys() == first.keys()
        assert [k for k in first if first[k].tobytes() != other[k].tobytes()] == []


@pytest.mark.parametrize(("device", "wanted"), [("cpu", True), ("cuda", False)])
def test_a_gpu_is_not_slowed_by_it(release: Path, tmp_path: Path, device, wanted):
    parameters, train = TrainingParameters(**TOY), open_split(release, "train")
    references = reference_energies(labelled(train))
    config = stage_config(
        "direct", parameters, train.folder, train.folder, references, tmp_path, "direct", device, None
    )
    assert config["job"]["deterministic"] is wanted
