from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.parameters import StageParameters, TrainingParameters
from aqvolt_flows.training.esen import (
    MAX_ELEMENTS,
    Labelled,
    References,
    check_sizes,
    reference_energies,
    references_of,
    stage_config,
    symbols_of,
)

REFERENCES = References(tuple(0.0 for _ in range(MAX_ELEMENTS)), 1.5)


def config(stage: str, parameters: TrainingParameters | None = None) -> dict:
    start = Path("stripped.pt") if stage == "conservative" else None
    return stage_config(
        stage,
        parameters or TrainingParameters(),
        Path("/r/train"),
        Path("/r/val"),
        REFERENCES,
        Path("/w"),
        stage,
        starting_checkpoint=start,
    )


def test_stage_one_is_table_s1():
    """Numbers: Table S1 and section 2.3 of the AQVolt26 paper, column "Stage 1: Pre-training"."""
    runner = config("direct")["runner"]
    unit, loader = runner["train_eval_unit"], runner["train_dataloader"]
    backbone = unit["model"]["backbone"]
    assert backbone["num_layers"] == 4
    assert backbone["sphere_channels"] == 128
    assert (backbone["edge_channels"], backbone["hidden_channels"]) == (128, 128)
    assert (backbone["lmax"], backbone["mmax"]) == (2, 2)
    assert (backbone["distance_function"], backbone["num_distance_basis"]) == ("gaussian", 64)
    assert backbone["cutoff"] == 6.0
    assert backbone["max_neighbors"] == 30
    assert (backbone["direct_forces"], backbone["regress_stress"]) == (True, False)
    assert unit["bf16"] is True
    assert unit["optimizer_fn"]["_target_"] == "torch.optim.AdamW"
    assert unit["optimizer_fn"]["lr"] == 8e-4
    assert unit["optimizer_fn"]["weight_decay"] == 1e-3
    assert [t["name"] for t in unit["tasks"]] == ["energy", "forces"]
    ranks = config("direct")["job"]["scheduler"]["ranks_per_node"]
    assert (ranks, ranks * loader["batch_sampler_fn"]["max_atoms"]) == (8, 80_000)


def test_stage_two_is_table_s1():
    """Numbers: Table S1 and section 2.3 of the AQVolt26 paper, column "Stage 2: Fine-tuning"."""
    runner = config("conservative")["runner"]
    unit, loader = runner["train_eval_unit"], runner["train_dataloader"]
    changed = unit["model"]["overrides"]["backbone"]
    assert changed["max_neighbors"] == 300
    assert (changed["direct_forces"], changed["regress_stress"]) == (False, True)
    assert unit["model"]["heads"] is None
    assert unit["bf16"] is False
    assert unit["optimizer_fn"]["lr"] == 4e-4
    assert unit["optimizer_fn"]["weight_decay"] == 1e-3
    assert [t["name"] for t in unit["tasks"]] == ["energy", "forces", "stress"]
    assert loader["dataset"]["dataset_configs"]["omat"]["a2g_args"]["r_stress"] is True
    ranks = config("conservative")["job"]["scheduler"]["ranks_per_node"]
    assert (ranks, ranks * loader["batch_sampler_fn"]["max_atoms"]) == (32, 48_000)


@pytest.mark.parametrize("stage", ["direct", "conservative"])
def test_a_configuration_is_plain_yaml(stage: str):
    made = config(stage)
    assert yaml.safe_load(yaml.safe_dump(made)) == made
    assert "defaults" not in made
    assert set(made) == {"job", "runner"}  # all that fairchem allows


def test_the_schedule_has_exactly_one_length():
    steps = StageParameters(
        steps=300,
        max_atoms=10,
        max_neighbors=30,
        learning_rate=1e-3,
        bf16=True,
        energy_coefficient=1,
        force_coefficient=1,
    )
    runner = config("direct", TrainingParameters(direct=steps))["runner"]
    schedule = runner["train_eval_unit"]["cosine_lr_scheduler_fn"]
    assert (runner["max_steps"], runner["max_epochs"]) == (300, None)
    assert (schedule["steps"], schedule["epochs"]) == (300, None)
    assert runner["callbacks"][0]["checkpoint_every_n_steps"] == 100


@pytest.mark.parametrize(("stage", "start"), [("direct", Path("x.pt")), ("conservative", None)])
def test_only_stage_two_starts_from_a_checkpoint(stage: str, start: Path | None):
    with pytest.raises(InputError, match="starting checkpoint"):
        stage_config(
            stage, TrainingParameters(), Path("t"), Path("v"), REFERENCES, Path("w"), stage, starting_checkpoint=start
        )


@settings(max_examples=30, deadline=None)
@given(
    energies=st.lists(st.floats(-30, 30), min_size=3, max_size=3),
    seed=st.integers(0, 2**31),
)
def test_references_of_linear_data_are_exact(energies: list[float], seed: int):
    """Analytic: energies that are a sum over atoms are reproduced by element where compositions have full rank."""
    rng = np.random.default_rng(seed)
    numbers = [3, 9, 17]
    counts = [[1, 1, 0], [1, 0, 1], [2, 1, 1], [3, 0, 1], [1, 2, 0]]
    frames = [Labelled(np.repeat(numbers, n), float(np.dot(n, energies)), rng.normal(size=(sum(n), 3))) for n in counts]
    found = reference_energies(frames)
    assert [found.element_energies[z] for z in numbers] == pytest.approx(energies, abs=1e-9)
    assert len(found.element_energies) == MAX_ELEMENTS
    assert all(e == 0 for z, e in enumerate(found.element_energies) if z not in numbers)
    components = np.concatenate([f.forces.ravel() for f in frames])
    assert found.force_rms == pytest.approx(np.sqrt(np.mean(components**2)))


def test_references_of_one_composition_have_least_norm():
    """Analytic: LiF alone determines only the sum; the solution of least norm shares it equally."""
    frames = [Labelled(np.array([3, 9]), -9.0, np.ones((2, 3))), Labelled(np.array([3, 9]), -11.0, np.ones((2, 3)))]
    found = reference_energies(frames)
    assert found.element_energies[3] == pytest.approx(-5.0)
    assert found.element_energies[9] == pytest.approx(-5.0)


def test_references_survive_a_document():
    found = reference_energies([Labelled(np.array([3, 9]), -9.0, np.ones((2, 3)))])
    assert references_of(symbols_of(found), found.force_rms) == found


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([], "no frame"),
        ([Labelled(np.array([3]), float("nan"), np.ones((1, 3)))], "not finite"),
        ([Labelled(np.array([3]), 1.0, np.full((1, 3), np.inf))], "not finite"),
        ([Labelled(np.array([3]), 1.0, np.zeros((1, 3)))], "zero"),
        ([Labelled(np.array([100]), 1.0, np.ones((1, 3)))], "Z = 100"),
    ],
)
def test_references_refuse_what_cannot_be_scaled(frames: list[Labelled], said: str):
    with pytest.raises(InputError, match=said):
        reference_energies(frames)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_structure_beyond_the_batch_is_named(split: str):
    sizes = {"train": [8, 24], "val": [2, 4]} | {split: [8, 1_501, 2_000, 4]}
    said = r"Li900 .*has 2000 atoms, above training\.conservative\.max_atoms = 1500.*2 structures"
    with pytest.raises(InputError, match=said):
        check_sizes(TrainingParameters(), sizes, lambda _split, index: {2: "Li900 (row 2)"}[index])


def test_structures_that_just_fit_are_fine():
    check_sizes(TrainingParameters(), {"train": [1_500], "val": []})
