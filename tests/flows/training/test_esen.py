from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.parameters import StageParameters, TrainingParameters
from aqvolt_flows.training.esen import stage_config
from aqvolt_flows.training.references import MAX_ELEMENTS, References

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
