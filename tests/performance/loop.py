"""Measure the closed loop: what a committee costs, what a tick costs, and errors against labels by criterion.

- ``committee``: time of one evaluation of a batch by 1, 2, 4 models, SevenNet-MF-0 loaded as often.
- ``tick``: time of a tick that waits for labels, beside ``-n`` Fireworks of other frames, on an embedded database.
- ``curves``: loops with the criteria of ``--criteria`` and several seeds. SevenNet-MF-0/R2SCAN stands for DFT, CHGNet
  explores the first round, members are small eSENs trained from scratch. After each round the committee is compared
  with the oracle's forces on one test set for all: frames of the oracle's own runs with momenta that no loop has.
  Loops begin while ``--minutes`` are not over, and each round ends what it has begun.

Every part prints lines of JSON. Example: python tests/performance/loop.py curves --device cuda --minutes 25
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ORACLE, EXPLORER = "7net-mf-0/R2SCAN", "chgnet/r2scan"
SALTS = (("LiF", 4.0173), ("LiCl", 5.12954), ("LiBr", 5.5013), ("LiI", 6.0), ("NaCl", 5.6402))


def say(**row: Any) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def measure_committee(device: str, atoms: int, repeats: int) -> None:
    """Print the time of a batch for committees of several sizes."""
    import torch
    import torch_sim as ts
    from ase.build import bulk

    from aqvolt_flows.potentials import load_potential
    from aqvolt_flows.potentials.committee_torchsim import CommitteeModel

    def sync() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    potential = load_potential(ORACLE, device)
    crystal = bulk("LiCl", "rocksalt", a=5.13, cubic=True) * (3, 3, 3)
    systems = []
    while sum(map(len, systems)) < atoms:
        one = crystal.copy()
        one.rattle(0.05, seed=len(systems))
        systems.append(one)
    alone = None
    for size in (1, 2, 4):
        members = [potential.torchsim_model()] if size == 1 else [potential.build(None, None) for _ in range(size)]
        model = CommitteeModel(members) if size > 1 else members[0]
        state = ts.io.atoms_to_state(systems, device=model.device, dtype=model.dtype)
        model(state)
        times = []
        for _ in range(repeats):
            state.positions = state.positions + 1e-3 * torch.randn_like(state.positions)
            sync()
            begun = time.perf_counter()
            model(state)
            sync()
            times.append(time.perf_counter() - begun)
        median = float(np.median(times))
        alone = alone or median
        say(
            part="committee",
            device=device,
            atoms=sum(map(len, systems)),
            members=size,
            seconds=median,
            ratio=median / alone,
        )


def measure_tick(folder: Path, n: int) -> None:
    """Print the time of a tick that waits for labels beside many Fireworks."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import label_factory

    from aqvolt_flows.campaign import Campaign
    from aqvolt_flows.loop import rounds
    from aqvolt_flows.schemas.loop import RoundStep
    from aqvolt_flows.stores import Database
    from aqvolt_launch import chain, loop
    from aqvolt_launch.demo import database_for

    settings = project(folder)
    campaign = Campaign(name="loop", labeling={"labeler": "surrogate", "surrogate": EXPLORER})
    with database_for(settings):
        database = Database.connect(settings).in_campaign("loop")
        database.ensure_indexes()
        for first in range(0, n, 1000):
            database.upsert("frames", [label_factory.frame(i) for i in range(first, min(first + 1000, n))])
        begun = time.perf_counter()
        chain.submit_stage("label", campaign, settings)
        say(part="tick", fireworks=n, submitted_in_s=time.perf_counter() - begun)
        document = rounds.blank_round(campaign, 0, EXPLORER)
        facts = {"sample": {"sample_key": "none"}, "select": {"chosen": [f"frame-{i:04d}" for i in range(200)]}}
        steps = [RoundStep(name=s, facts=facts.get(s, {})) for s in ("explore", "sample", "select")]
        loop._create(database, document.model_copy(update={"steps": steps}))
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            found = loop.tick(settings, campaign)
            times.append(time.perf_counter() - begun)
        say(part="tick", fireworks=n, waiting=found.waiting, seconds=times)


def project(folder: Path) -> Any:
    from aqvolt_flows.settings import load_settings
    from aqvolt_launch.project.folder import init_project

    folder.mkdir(parents=True, exist_ok=True)
    init_project(folder, campaign="demo-loop")
    return load_settings(folder / "aqvolt.yaml")


def campaign_of(criterion: str, seed: int, a: argparse.Namespace) -> Any:
    from aqvolt_flows.campaign import Campaign

    salts = [
        {
            "name": name, "spacegroup": "Fm-3m", "a": length, "references": ["Wyckoff 1963"],
            "sites": [{"element": name[:2], "xyz": [0, 0, 0]}, {"element": name[2:], "xyz": [0.5, 0.5, 0.5]}],
        }
        for name, length in SALTS
    ]  # fmt: skip
    stage = {"steps": a.steps, "max_atoms": 400, "max_neighbors": 60, "learning_rate": 2e-3, "bf16": False}
    weights = {"energy_coefficient": 20, "force_coefficient": 20}
    return Campaign(
        name=f"{criterion}-{seed}",
        candidates={"require_elements": [], "prototypes": salts},
        exploration={
            "potential": EXPLORER, "temperatures_k": [300.0, 900.0, 1500.0], "n_steps": a.md_steps, "timestep_fs": 2.0,
            "stride": 10, "equilibration_ps": 0.0, "seed": 1000 * seed,
        },
        sampling={"encoder": "chgnet/r2scan", "structure_threshold": 0.05, "atom_threshold": 0.05},
        labeling={"labeler": "surrogate", "surrogate": ORACLE},
        release={"name": f"{criterion}-{seed}", "exports": ["aselmdb"]},
        training={
            "architecture": "eSEN-small", "n_layers": 2, "sphere_channels": 32, "hidden_channels": 32,
            "n_distance_basis": 32, "ema_decay": 0.99, "seed": 100 * seed, "direct": stage | weights,
            "conservative": stage | weights | {"stress_coefficient": 5},
        },
        loop={
            "members": a.members, "criterion": criterion, "max_labels": a.labels,
            "trust": {"lower_ev_per_a": 0.05, "upper_ev_per_a": 1.0}, "stop": {"max_rounds": a.rounds},
        },
    )  # fmt: skip


def test_set(device: str, steps: int) -> list[Any]:
    """Return frames of the oracle's own runs, with its forces."""
    from ase.build import bulk

    from aqvolt_flows.dynamics.npt import NpTRun
    from aqvolt_flows.dynamics.systems import System
    from aqvolt_flows.potentials import load_potential
    from aqvolt_flows.schemas.parameters import ExplorationParameters

    p = ExplorationParameters(temperatures_k=[900.0], n_steps=steps, stride=50, timestep_fs=2.0, equilibration_ps=0.0)
    systems = [
        System(f"{name}-{t:g}", bulk(name, "rocksalt", a=length, cubic=True), t, 77)
        for name, length in SALTS
        for t in (300.0, 900.0, 1500.0)
    ]
    outcomes = NpTRun(load_potential(ORACLE, device).torchsim_model(), systems, p).run()
    return [frame for o in outcomes for frame in o.frames[1:]]


def measure_curves(a: argparse.Namespace) -> None:
    """Run loops and print the committee's error on the test set after every round."""
    from aqvolt_flows.loop import rounds
    from aqvolt_flows.potentials import load_potential
    from aqvolt_flows.schemas.provenance import ArtifactRef
    from aqvolt_flows.stores import Database
    from aqvolt_launch import chain, loop, workers
    from aqvolt_launch.demo import database_for

    frames = test_set(a.device, a.md_steps)
    ends = time.time() + 60 * a.minutes
    say(part="curves", oracle=ORACLE, explorer=EXPLORER, test_frames=len(frames), device=a.device)
    for seed in range(a.seeds):
        for criterion in a.criteria:
            if time.time() > ends:
                say(part="curves", left_out=f"{criterion}-{seed}", why="no time left")
                continue
            settings = project(Path(a.folder) / f"{criterion}-{seed}")
            campaign = campaign_of(criterion, seed, a)
            with database_for(settings), workers.exported(settings):
                chain.submit_stage("candidates", campaign, settings)
                workers.work(settings, until_empty=True)
                loop.start(settings, campaign)
                seen = 0
                while time.time() < ends:
                    found = loop.tick(settings, campaign)
                    database = Database.connect(settings).in_campaign(campaign.name)
                    done = [d for d in rounds.rounds_of(database, campaign) if d.facts_of("train")][seen:]
                    for document in done:
                        seen += 1
                        path = database.artifacts.local_path(ArtifactRef(**document.facts_of("train")["committee"]))
                        potential = load_potential(f"committee:{path}", a.device)
                        given = potential.evaluate([f.to_atoms() for f in frames])
                        errors = [float(np.abs(g.forces - f.forces).mean()) for g, f in zip(given, frames, strict=True)]
                        draws = np.random.default_rng(0).choice(errors, (1000, len(errors))).mean(axis=1)
                        labels = sum(d.facts_of("build").get("valid", 0) for d in rounds.rounds_of(database, campaign))
                        say(
                            part="curves", criterion=criterion, seed=seed, round=document.round, labels=labels,
                            force_mae_ev_per_a=float(np.mean(errors)),
                            interval=np.percentile(draws, (2.5, 97.5)).tolist(),
                        )  # fmt: skip
                    if found.over:
                        say(part="curves", criterion=criterion, seed=seed, status=found.status, said=found.said)
                        break
                    workers.work(settings, until_empty=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("committee", "tick", "curves"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("-n", type=int, default=20_000, help="Fireworks beside the tick.")
    parser.add_argument("--atoms", type=int, default=1000, help="Atoms of the committee's batch.")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--criteria", nargs="+", default=["both", "random", "doubt", "2direct"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--labels", type=int, default=60, help="Of a round.")
    parser.add_argument("--steps", type=int, default=400, help="Of each stage of a training.")
    parser.add_argument("--md-steps", type=int, default=500)
    parser.add_argument("--folder", default="", help="Where projects go; a temporary one.")
    a = parser.parse_args()
    os.environ["AQVOLT_DEVICE"] = a.device
    with tempfile.TemporaryDirectory() as folder:
        a.folder = a.folder or folder
        if a.part == "committee":
            measure_committee(a.device, a.atoms, a.repeats)
        elif a.part == "tick":
            measure_tick(Path(a.folder) / "tick", a.n)
        else:
            measure_curves(a)


if __name__ == "__main__":
    main()
