"""The training unit: the gradient of a step is the same however it is spread, and validation is fairchem's."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved_models import save_esen

from aqvolt_flows.schemas.parameters import TrainingParameters
from aqvolt_flows.training.data import labelled, open_split
from aqvolt_flows.training.esen import StageName, stage_config
from aqvolt_flows.training.references import reference_energies

STAGES: tuple[StageName, ...] = ("direct", "conservative")
STAGE = {"steps": 3, "max_atoms": 24, "max_neighbors": 60, "bf16": False, "learning_rate": 1e-3}
COEFFICIENTS = {"energy_coefficient": 10, "force_coefficient": 30}
TOY: dict[str, Any] = {
    "architecture": "eSEN-toy", "n_layers": 1, "sphere_channels": 8, "hidden_channels": 8, "n_distance_basis": 8,
    "cutoff_a": 5.0, "direct": STAGE | COEFFICIENTS, "conservative": STAGE | COEFFICIENTS | {"stress_coefficient": 5},
}  # fmt: skip


def two_ranks(release: Path, folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Run ``rank_gradients.py`` on two ranks for both stages and return what it wrote."""
    parameters = TrainingParameters(**TOY)
    train = open_split(release, "train")
    start = folder / "start.pt"
    save_esen(start)
    for stage in STAGES:
        given = start if stage == "conservative" else None
        references = reference_energies(labelled(train))
        config = stage_config(stage, parameters, train.folder, train.folder, references, folder, "x", "cpu", given)
        (folder / f"{stage}.json").write_text(json.dumps(config))
    with socket.socket() as one:
        one.bind(("", 0))
        port = one.getsockname()[1]
    script = Path(__file__).with_name("rank_gradients.py")
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(port), str(folder), *STAGES],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=200)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said[0][-3000:] + said[1][-3000:]
    return {stage: dict(np.load(folder / f"{stage}.npz")) for stage in STAGES}


@pytest.mark.slow
def test_a_step_has_one_gradient_however_it_is_spread(release: Path, tmp_path: Path):
    """Two ranks, two micro-batches on one rank, all frames at once; and fairchem's own unit on two ranks.

    The micro-batches are unequal in structures and atoms, and lack some labels.
    """
    for found in two_ranks(release, tmp_path).values():
        one_gradient(found)


def one_gradient(found: dict[str, np.ndarray]) -> None:
    def of(way: str) -> dict[str, np.ndarray]:
        return {k.partition("/")[2]: v for k, v in found.items() if k.startswith(f"{way}/")}

    reference = of("fairchem on two ranks")
    scale = max(np.abs(g).max() for g in reference.values())
    assert scale > 1e-3
    for way in ("two ranks", "accumulated", "at once"):
        assert of(way).keys() == reference.keys()
        worst = max(np.abs(g - reference[name]).max() for name, g in of(way).items())
        assert worst < 1e-6 * scale, way
    four, halves = of("four accumulated"), of("two ranks, two each")
    worst = max(np.abs(g - halves[name]).max() for name, g in four.items())
    assert worst < 1e-6 * max(np.abs(g).max() for g in four.values())
    assert any(np.abs(g - reference[name]).max() > 1e-2 * scale for name, g in four.items())  # other frames, other step
    for what in ("losses", "norm"):
        assert found[f"accumulated:{what}"] == pytest.approx(found[f"two ranks:{what}"], rel=1e-5)
    squares = sum(float(np.square(g.astype(float)).sum()) for g in of("accumulated").values())
    assert float(found["accumulated:norm"]) == pytest.approx(np.sqrt(squares), rel=1e-5)
