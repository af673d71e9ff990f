"""A loop in seconds: Lennard-Jones salts whose depth is learned, by jobs of the same form as the real ones.

The oracle has ε = 0.1 eV, the base potential 0.05 eV. A training fits ε to the forces of the release (least squares)
and is off by 30 %/√n with a sign and size that its seed draws: members differ, and less so with more labels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jobflow import Maker

from aqvolt_flows.campaign import Campaign
from aqvolt_flows.jobs import campaign_job
from aqvolt_flows.models import ResolvedModel
from aqvolt_flows.potentials.registry import Family
from aqvolt_flows.releases import latest_release, release_folder
from aqvolt_flows.schemas.model import ModelDocument
from aqvolt_flows.schemas.provenance import ArtifactRef, Failure
from aqvolt_flows.stores import Database
from aqvolt_flows.training.jobs import model_id_of, train_key
from aqvolt_flows.work import Plan, WorkItem, bind

SIGMA, CUTOFF = 2.38, 6.0
FAMILY = Family(name="toy", pattern="toy:PATH", module="toy_loop", package="torch_sim", distribution="pytest")
#: Seeds whose training fails, until they are taken out.
FAILING: set[int] = set()


def write_model(path: Path, epsilon: float, elements: tuple[int, ...] = (3, 9, 17)) -> str:
    path.write_text(json.dumps({"epsilon": epsilon, "elements": list(elements)}))
    return f"toy:{path}"


def load(model: str, device: str, dtype: str = "float32") -> Any:
    import torch
    from torch_sim.models.lennard_jones import LennardJonesModel

    from aqvolt_flows.potentials.torchsim import TorchSimPotential

    about = json.loads(Path(model.removeprefix("toy:")).read_text())

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


def plan_train(campaign: Campaign, database: Database, _claimed: Any = frozenset()) -> Plan:
    release = latest_release(database, campaign.release.name)
    if release is None:
        return Plan("train", [], ["there is no release yet"])
    seed, key = campaign.training.seed, train_key(campaign.training, release["content_hash"])
    make = bind(ToyTrainMaker(seed=seed).make, release["release_id"], release["content_hash"], key)
    done = database["models"].find_one({"key": key}) is not None
    return Plan("train", [WorkItem("train", key, f"toy {seed}", make, category="gpu", done=done)])


@dataclass
class ToyTrainMaker(Maker):
    name: str = "toy training"
    seed: int = 0

    @campaign_job()
    def make(self, database: Database, release_id: str, content_hash: str, key: str) -> str:
        from aqvolt_flows.datasets.loaded import load_release
        from aqvolt_flows.potentials import load_potential

        about = {
            "key": key, "model_id": model_id_of(key), "release_id": release_id, "content_hash": content_hash,
            "architecture": "toy",
        }  # fmt: skip
        if self.seed in FAILING:
            failure = Failure(reason="diverged", message="it was told to fail")
            database.upsert("models", [ModelDocument(status="failed", failure=failure, **about)])
            return "failed"
        release = load_release(release_folder(database, database.find_by_ids("releases", [release_id])[0]))
        labels = list(release.atoms("train"))
        unit = load_potential(write_model(Path("unit.json"), 1.0).replace("toy:", f"toy:{Path.cwd()}/"))
        ours = np.concatenate([e.forces for e in unit.evaluate(labels)]).ravel()
        theirs = np.concatenate([a.get_forces() for a in labels]).ravel()
        off = np.random.default_rng(self.seed).normal() * 0.3 / np.sqrt(len(labels))
        write_model(Path("model.json"), float(ours @ theirs / (ours @ ours) * (1 + off)))
        checkpoint = database.artifacts.put_file("model.json", "json")
        database.upsert("models", [ModelDocument(status="trained", checkpoint=checkpoint, **about)])
        return "trained"


def resolve(database: Database, model: str) -> ResolvedModel:
    document = database["models"].find_one({"model_id": model})
    reference = ArtifactRef(**document["checkpoint"])
    return ResolvedModel(model, f"toy:{database.artifacts.local_path(reference)}", reference.sha256, model)


def campaign(folder: Path, **loop: Any) -> Campaign:
    mini = yaml.safe_load((Path(__file__).parents[1] / "integration" / "mini.yaml").read_text())
    for name, epsilon in (("oracle", 0.1), ("base", 0.05)):
        write_model(folder / f"{name}.json", epsilon)
    mini["exploration"] |= {"potential": f"toy:{folder / 'base.json'}", "n_steps": 20, "temperatures_k": [300.0, 900.0]}
    mini["exploration"] |= {"timestep_fs": 1.0, "min_length_a": 5.0}
    mini["labeling"] |= {"surrogate": f"toy:{folder / 'oracle.json'}", "max_energy_jump_ev": 0}
    mini["release"] |= {"max_cohesive_energy_ev": 1e6, "exports": [], "group_by": "frame"}
    mini["loop"] = {
        "members": 3, "max_labels": 8, "trust": {"lower_ev_per_a": 1e-4, "upper_ev_per_a": 1.0},
        "stop": {"max_rounds": 2}, "hold_out_fraction": 0.3,
    } | loop  # fmt: skip
    return Campaign(**mini)
