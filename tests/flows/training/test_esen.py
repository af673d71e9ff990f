from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml

from aqvolt_flows.campaign import load_campaign
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


TABLE_S1 = Path(__file__).parents[2] / "data" / "table_s1.csv"


def table_s1(stage: str) -> dict[str, str]:
    """Return a column of the paper's table as it is printed."""
    rows = [line for line in TABLE_S1.read_text().splitlines() if not line.startswith("#")]
    table = list(csv.reader(rows, delimiter=";"))[1:]
    return {row[0]: row[1 if stage == "direct" else 2] for row in table}


def as_printed(stage: str) -> dict[str, str]:
    """Return what fairchem is told, of the campaign aqvolt26, in the words of the table."""
    parameters = load_campaign("aqvolt26").training
    made = config(stage, parameters)
    unit, loader = made["runner"]["train_eval_unit"], made["runner"]["train_dataloader"]
    backbone = dict(config("direct", parameters)["runner"]["train_eval_unit"]["model"]["backbone"])
    if stage == "conservative":  # what stage 2 keeps of stage 1's backbone, and what it changes
        backbone |= unit["model"]["overrides"]["backbone"]
        assert unit["model"]["heads"] is None
    ranks = made["job"]["scheduler"]["ranks_per_node"] * made["job"]["scheduler"]["num_nodes"]
    assert backbone["edge_channels"] == backbone["hidden_channels"]
    assert backbone["regress_stress"] == ("stress" in [task["name"] for task in unit["tasks"]])
    assert loader["dataset"]["dataset_configs"]["omat"]["a2g_args"]["r_stress"] == backbone["regress_stress"]
    return {
        "Number of Interaction Layers": f"{backbone['num_layers']}",
        "Sphere Channels": f"{backbone['sphere_channels']}",
        "Edge / Hidden Channels": f"{backbone['hidden_channels']}",
        "Maximum Spherical Degree (lmax)": f"{backbone['lmax']}",
        "Maximum Spherical Order (mmax)": f"{backbone['mmax']}",
        "Radial Basis Function": backbone["distance_function"].capitalize(),
        "Number of Distance Basis": f"{backbone['num_distance_basis']}",
        "Cutoff Radius": f"{backbone['cutoff']:.1f} Å",
        "Maximum Neighbors": f"{backbone['max_neighbors']}",
        "Direct Force Prediction": "True" if backbone["direct_forces"] else "False (Conservative)",
        "Regress Stress": f"{backbone['regress_stress']}",
        "Precision": "bfloat16" if unit["bf16"] else "FP32",
        "Optimizer": unit["optimizer_fn"]["_target_"].removeprefix("torch.optim."),
        "Global Batch Size (atoms)": f"{ranks * loader['batch_sampler_fn']['max_atoms']:,}",
        "H100 Cards": f"{ranks}",
        "Peak Learning Rate": f"{unit['optimizer_fn']['lr']:.0e}".replace("e-0", "e-"),
    }


@pytest.mark.parametrize("stage", ["direct", "conservative"])
def test_the_preset_is_table_s1_entry_by_entry(stage: str):
    """Numbers: tests/data/table_s1.csv, the paper's table as printed."""
    printed = table_s1(stage)
    assert len(printed) == 16
    assert as_printed(stage) == printed
    assert load_campaign("aqvolt26").training.weight_decay == 1e-3  # section 2.3, not in the table


def test_the_default_parameters_are_those_of_the_preset():
    assert load_campaign("aqvolt26").training == TrainingParameters()


def test_the_warm_up_is_the_campaigns():
    schedule = config("direct")["runner"]["train_eval_unit"]["cosine_lr_scheduler_fn"]
    assert schedule["warmup_epochs"] == 1.0
    old = TrainingParameters().direct.model_dump() | {"warmup_epochs": 0.01}
    assert "warmup_epochs" not in StageParameters(**old).model_dump()  # trainings from before keep their keys


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
