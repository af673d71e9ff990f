"""A loop in seconds: Lennard-Jones salts whose depth is learned, by jobs of the same form as the real ones.

The oracle has ε = 0.1 eV, the base potential 0.05 eV. A training fits ε to the forces of the release (least squares)
and is off by 30 %/√n with a sign and size that its seed draws: members differ, and less so with more labels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from aqvolt_flows.campaign import Campaign
from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials.registry import Family
from aqvolt_flows.schemas.base import Parameters
from aqvolt_flows.trainers import Trained, Trainer, TrainingTask

SIGMA, CUTOFF = 2.38, 6.0
FAMILY = Family(name="toy", pattern="toy:PATH", module="toy_loop", package="torch_sim", plain_data=True)
#: Seeds whose training fails, until they are taken out.
FAILING: set[int] = set()


def write_model(path: Path, epsilon: float, elements: tuple[int, ...] = (3, 9, 17)) -> str:
    path.write_text(json.dumps({"epsilon": epsilon, "elements": list(elements)}))
    return f"toy:{path}"


def load(model: str, device: str, dtype: str = "float32") -> Any:
    import torch
    from torch_sim.models.lennard_jones import LennardJonesModel

    from aqvolt_flows.potentials.checkpoints import split_pin
    from aqvolt_flows.potentials.torchsim import TorchSimPotential

    about = json.loads(split_pin(model.removeprefix("toy:"))[0].read_text())

    class Toy(TorchSimPotential):
        elements = frozenset(about["elements"])

        def ase_calculator(self) -> Any:
            raise NotImplementedError

        def build(self, neighbors: Any, max_atoms_per_call: Any) -> Any:
            return LennardJonesModel(
                sigma=SIGMA, epsilon=about["epsilon"], cutoff=CUTOFF, device=torch.device(device), dtype=torch.float64,
                compute_forces=True, compute_stress=True,
            )  # fmt: skip

    return Toy(model, device, "float64")


class ToyParameters(Parameters):
    seed: int = 0


PARAMETERS = ToyParameters
TRAINER = Trainer("toy", "a depth", "toy_loop", family="toy", suffix="json")


def architecture_of(_parameters: ToyParameters) -> str:
    return "toy"


def train(task: TrainingTask) -> Trained:
    from aqvolt_flows.datasets.loaded import load_release
    from aqvolt_flows.potentials import load_potential

    if task.parameters.seed in FAILING:
        raise InputError("it was told to fail")
    task.workdir.mkdir(parents=True, exist_ok=True)
    labels = list(load_release(task.release).atoms("train"))
    unit = load_potential(write_model(task.workdir / "unit.json", 1.0))
    ours = np.concatenate([e.forces for e in unit.evaluate(labels)]).ravel()
    theirs = np.concatenate([a.get_forces() for a in labels]).ravel()
    off = np.random.default_rng(task.parameters.seed).normal() * 0.3 / np.sqrt(len(labels))
    write_model(task.workdir / "model.json", float(ours @ theirs / (ours @ ours) * (1 + off)))
    progress = task.workdir / "progress.jsonl"
    progress.write_text("")
    return Trained(task.workdir / "model.json", progress)


def campaign(folder: Path, release: dict[str, Any] | None = None, **loop: Any) -> Campaign:
    mini = yaml.safe_load((Path(__file__).parents[1] / "integration" / "mini.yaml").read_text())
    for name, epsilon in (("oracle", 0.1), ("base", 0.05)):
        write_model(folder / f"{name}.json", epsilon)
    mini["exploration"] |= {"potential": f"toy:{folder / 'base.json'}", "n_steps": 20, "temperatures_k": [300.0, 900.0]}
    mini["exploration"] |= {"timestep_fs": 1.0, "min_length_a": 5.0}
    mini["labeling"] |= {"surrogate": f"toy:{folder / 'oracle.json'}", "max_energy_jump_ev": 0}
    mini["release"] |= {"max_cohesive_energy_ev": 1e6, "exports": [], "group_by": "frame"} | (release or {})
    mini["trainings"] = {"toy": {"trainer": "toy"}}
    mini["loop"] = {
        "members": 3, "max_labels": 8, "trust": {"lower_ev_per_a": 1e-4, "upper_ev_per_a": 1.0},
        "stop": {"max_rounds": 2}, "hold_out_fraction": 0.3,
    } | loop  # fmt: skip
    return Campaign(**mini)
