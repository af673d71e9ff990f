"""The registry of trainers, and the trainings of a campaign."""

from __future__ import annotations

from typing import Any

import plugins
import pytest

from aqvolt_flows.campaign import Campaign, load_campaign, parse_campaign, with_models
from aqvolt_flows.errors import ConfigError, InputError, ResourceError
from aqvolt_flows.schemas.parameters import TrainingParameters
from aqvolt_flows.schemas.trainings import MaceParameters
from aqvolt_flows.trainers import TRAINERS, Trainer, trainings_of

CODE = """
from aqvolt_flows.schemas.base import Parameters
from aqvolt_flows.trainers import Trained, Trainer

class PARAMETERS(Parameters):
    start: str = "chgnet/r2scan"

def architecture_of(parameters):
    return "mine"

def start_of(parameters):
    return parameters.start

ENTRY = Trainer("mine", "a trainer of another package", "good_trainers", family="fairchem")
"""
LOOK = """
import sys
from aqvolt_flows.trainers import TRAINERS, trainings_of
from aqvolt_flows.campaign import parse_campaign
campaign = parse_campaign("name: x\\ntrainings: {a: {trainer: mine, start: 7net-mf-0/R2SCAN}}")
(one,) = trainings_of(campaign.trainings, campaign.training)
print(list(TRAINERS), one.trainer.architecture(one.parameters), one.trainer.start(one.parameters))
print(len(TRAINERS.problems), "torch" in sys.modules)
"""


def trainings(**choices: Any) -> list[Any]:
    return trainings_of(choices, TrainingParameters(n_layers=3))


def test_other_packages_add_trainers_and_broken_ones_are_named(tmp_path):
    plugins.install(tmp_path, "good_trainers", CODE, "aqvolt.trainers", {"mine": "ENTRY"})
    plugins.install(tmp_path, "bad_trainers", "1 / 0", "aqvolt.trainers", {"broken": "ENTRY"})
    names, rest = plugins.run(tmp_path, LOOK).splitlines()
    assert names == "['esen', 'sevennet', 'fairchem', 'mace', 'mine'] mine 7net-mf-0/R2SCAN"
    assert rest == "1 False"


def test_esen_takes_the_campaigns_group_and_single_other_values():
    (plain,) = trainings(esen={"trainer": "esen"})
    assert plain.parameters == TrainingParameters(n_layers=3)
    (changed,) = trainings(seed1={"trainer": "esen", "seed": 1, "direct": {"max_atoms": 99}})
    assert changed.parameters.seed == 1
    assert changed.parameters.n_layers == 3
    assert changed.parameters.direct.max_atoms == 99
    assert changed.parameters.direct.learning_rate == TrainingParameters().direct.learning_rate


def test_names_keys_and_what_they_depend_on():
    (one,) = trainings(tuned={"trainer": "sevennet", "steps": 5})
    assert one.model_name({"name": "demo"}) == "demo-tuned"
    (other,) = trainings(tuned={"trainer": "sevennet", "steps": 6})
    keys = {t.key(c, s) for t in (one, other) for c in ("a", "b") for s in (None, "0")}
    assert len(keys) == 8


def test_the_place_of_the_interpreter_is_no_part_of_the_key():
    def key(python: str) -> str:
        (found,) = trainings(m={"trainer": "mace", "python": python, "epochs": 1})
        return found.key("a")

    assert key("/a/bin/python") == key("/b/bin/python")


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({}, "trainings.x has no key trainer; known trainers are esen, sevennet, fairchem, mace"),
        ({"trainer": "sevenet"}, "There is no trainer 'sevenet'; .*did you mean 'sevennet'"),
        ({"trainer": "sevennet", "stepz": 3}, "SevenNetParameters has no field 'stepz'"),
        ({"trainer": "sevennet"}, "give exactly one of steps and epochs"),
        ({"trainer": "sevennet", "steps": 3, "epochs": 3}, "give exactly one of steps and epochs"),
        ({"trainer": "fairchem", "steps": 3}, "FairChemParameters.start"),
        ({"trainer": "mace", "python": "python", "epochs": 3}, "absolute path of an interpreter"),
        ({"trainer": "mace", "python": "/p", "epochs": 3, "options": {"lr": 1}}, "options may not set lr"),
        ({"trainer": "esen", "n_layers": 0}, "TrainingParameters.n_layers"),
    ],
)
def test_what_is_wrong_is_named(choice, said):
    with pytest.raises(InputError, match=said):
        trainings(x=choice)
    with pytest.raises(ConfigError, match=said):
        parse_campaign(f"name: a\ntrainings: {{x: {choice}}}")


def test_a_name_that_is_no_name_is_refused():
    with pytest.raises(InputError, match="training name 'a/b' is not usable"):
        trainings(**{"a/b": {"trainer": "esen"}})


def test_shipped_campaigns_train_esen_and_the_demo_sevennet_too():
    assert list(load_campaign("aqvolt26").trainings) == ["esen"]
    demo = load_campaign("demo")
    found = trainings_of(demo.trainings, demo.training)
    assert [t.trainer.name for t in found] == ["esen", "sevennet"]
    assert found[0].parameters == demo.training


def test_a_trainer_that_cannot_run_here_says_what_to_install():
    lacking = Trainer("a", "b", "aqvolt_flows.training.fine_tune_sevennet", "x", package="no_such.package")
    with pytest.raises(ResourceError, match=r"The trainer 'a' needs no_such.package; install it"):
        lacking.check(None)
    with pytest.raises(ResourceError, match="its module nowhere does not import"):
        Trainer("a", "b", "nowhere", "x").load()
    with pytest.raises(ResourceError, match=r"/nowhere/python does not run .*pip install mace-torch"):
        TRAINERS["mace"].check(MaceParameters(python="/nowhere/python", epochs=1))


def test_names_of_models_become_identities_where_a_campaign_has_potentials():
    campaign = Campaign(name="a", trainings={"t": {"trainer": "sevennet", "steps": 1, "start": "mine"}})
    campaign = campaign.model_copy(
        update={"exploration": campaign.exploration.model_copy(update={"potential": "mine"})}
    )
    found = with_models(campaign, lambda m: {"mine": "model-0a"}.get(m, m))
    assert found.exploration.potential == "model-0a"
    assert found.trainings["t"]["start"] == "model-0a"
    assert found.labeling == campaign.labeling
    assert with_models(Campaign(name="a"), lambda m: m) == Campaign(name="a")
