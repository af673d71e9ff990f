"""Whatever people have as a model: calculators, recipes, torch-sim models, strings; and what is no model."""

from __future__ import annotations

import json
from pathlib import Path

import argon
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from monty.json import MontyDecoder, MontyEncoder
from torch_sim.models.lennard_jones import LennardJonesModel

from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials import given
from aqvolt_flows.potentials.given import (
    CalculatorPotential,
    CalculatorRecipe,
    GivenModel,
    as_potential,
    check_model_given,
    model_name,
    storable,
    trial_failure,
)
from aqvolt_flows.potentials.given_torchsim import CalculatorModel

LJ = {"sigma": argon.SIGMA, "epsilon": argon.EPSILON, "rc": argon.CUTOFF}


class Picky(Calculator):
    """Knows cells up to a volume, and is made with an object that its parameters do not hold."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, network=None, largest=100.0):
        super().__init__()
        self.network, self.largest = network, largest

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if atoms.get_volume() > self.largest:
            raise RuntimeError("too large a cell")
        self.results = {"energy": 1.0, "forces": np.zeros((len(atoms), 3)), "stress": np.zeros(6)}


def test_a_calculator_gives_its_own_numbers_also_through_torch_sim():
    import torch_sim as ts

    systems = [bulk("Cu", cubic=True), bulk("Ag")]
    for s in systems:
        s.rattle(0.05, seed=1)
    potential = as_potential(EMT())
    out = potential.torchsim_model()(ts.io.atoms_to_state(systems, device=torch.device("cpu"), dtype=torch.float64))
    first = 0
    for i, (system, found) in enumerate(zip(systems, potential.evaluate(systems), strict=True)):
        atoms = system.copy()
        atoms.calc = EMT()
        assert found.energy == pytest.approx(atoms.get_potential_energy()) == pytest.approx(float(out["energy"][i]))
        np.testing.assert_allclose(found.forces, atoms.get_forces(), atol=1e-10)
        np.testing.assert_allclose(out["forces"][first : first + len(atoms)], atoms.get_forces(), atol=1e-8)
        stress = out["stress"][i].numpy()
        np.testing.assert_allclose(stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]], atoms.get_stress(), atol=1e-8)
        first += len(atoms)


def test_a_calculator_that_raises_ends_one_system_only():
    import torch_sim as ts

    model = CalculatorModel(CalculatorPotential(Picky()))
    small, large = bulk("Cu"), bulk("Cu", cubic=True) * 2
    out = model(ts.io.atoms_to_state([small, large], device=model.device, dtype=model.dtype))
    assert torch.isfinite(out["energy"]).tolist() == [True, False]
    assert torch.isfinite(out["forces"]).all(dim=1).tolist() == [True] + [False] * 32
    why = trial_failure(as_potential(Picky()), large)
    assert (why.reason, why.message) == ("model_error", "ase:Picky: RuntimeError: too large a cell")
    assert trial_failure(as_potential(Picky()), small) is None


def test_a_recipe_survives_json_and_a_calculator_becomes_one():
    for model in (CalculatorRecipe("ase.calculators.lj:LennardJones", LJ), storable(LennardJones(**LJ))):
        again = json.loads(json.dumps(model, cls=MontyEncoder), cls=MontyDecoder)
        assert isinstance(again, CalculatorRecipe)
        assert as_potential(again).calculator().parameters["sigma"] == argon.SIGMA
        assert model_name(again) == "ase:LennardJones"


def test_an_object_that_cannot_be_described_is_found_here_and_named_elsewhere(monkeypatch):
    network = Picky(network=object())
    text = json.dumps(storable(network), cls=MontyEncoder)
    assert json.loads(text, cls=MontyDecoder).model is network
    monkeypatch.setattr(given, "_LIVE", {})
    with pytest.raises(
        InputError, match=r"was given as an object in another process.*give a model string, or Calculator"
    ):
        json.loads(text, cls=MontyDecoder)
    with pytest.raises(InputError, match="its parameters do not say how it was made"):
        CalculatorRecipe.of(network)
    with pytest.raises(InputError, match="cannot be made"):
        CalculatorRecipe("ase.calculators.lj:LennardJones2").make()


def test_torch_sim_models_and_potentials_pass():
    model = argon.model()
    assert model_name(model) == "torch-sim:LennardJonesModel"
    potential = as_potential(GivenModel(model))
    assert as_potential(potential) is potential
    [found] = potential.evaluate([bulk("Ar", cubic=True)])
    atoms = bulk("Ar", cubic=True)
    atoms.calc = LennardJones(**LJ)
    assert found.energy == pytest.approx(atoms.get_potential_energy(), abs=0.05)  # ASE shifts at the cutoff
    with pytest.raises(InputError, match="computes no stress"):
        as_potential(
            LennardJonesModel(sigma=3.4, epsilon=0.01, cutoff=8.0, device=torch.device("cpu"), dtype=torch.float64)
        )  # fmt: skip


@pytest.mark.parametrize(
    "what", [5, [], {}, object(), EMT, Path("a.pt")], ids=["number", "list", "dict", "object", "class", "path"]
)
def test_anything_else_is_named(what):
    with pytest.raises(InputError, match=r"given as model; (expected a model string|write it as)"):
        check_model_given(what)
    with pytest.raises(InputError, match=r"given as model; (expected a model string|write it as)"):
        as_potential(what)


def test_a_model_string_gives_the_calculator_that_other_benchmarks_take() -> None:
    from ase.build import bulk

    from aqvolt_flows.potentials import ase_calculator, load_potential

    crystal = bulk("LiCl", "rocksalt", a=5.1)
    # ml-peg passes model, device and default_dtype by these names
    crystal.calc = ase_calculator(model="chgnet/r2scan", device="cpu", default_dtype="float32")
    (found,) = load_potential("chgnet/r2scan").evaluate([crystal])
    assert crystal.get_potential_energy() == pytest.approx(found.energy, abs=1e-4)
