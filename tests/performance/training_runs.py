"""Whole runs for ``training.py``: several GPUs, and two stages of which the second is killed once."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from training_data import release

from aqvolt_flows.schemas.parameters import TrainingParameters
from aqvolt_flows.training import esen

STAGES = ("direct", "conservative")
#: A network for trying the script on a CPU.
CPU = {"n_layers": 1, "sphere_channels": 16, "hidden_channels": 16, "n_distance_basis": 16}


def real_runs(arguments: argparse.Namespace) -> None:
    """Run both stages as jobs do, on ``--gpus`` ranks, and print the rates that they recorded."""
    from aqvolt_flows.training.data import source_of
    from aqvolt_flows.training.preflight import preflight
    from aqvolt_flows.training.stage_run import train_stage

    folder = release(arguments.out, ["LiCl", "LiF"], arguments.frames, 8)
    stages = {
        s: esen.stage_parameters(TrainingParameters(), s).model_dump()
        | {"steps": arguments.steps, "epochs": None, "ranks": arguments.gpus}
        for s in STAGES
    }
    parameters = TrainingParameters(**(CPU if arguments.device == "cpu" else {}), **stages)
    if arguments.sizes:
        stages = {s: values | {"max_atoms": arguments.sizes[0]} for s, values in stages.items()}
        parameters = TrainingParameters(**(CPU if arguments.device == "cpu" else {}), **stages)
    checked = preflight([source_of(folder)], parameters)
    work, start = arguments.out / f"gpus-{arguments.gpus}", None
    for stage in STAGES:
        done = train_stage(stage, parameters, checked, work, arguments.device, {}, start)
        start = done.checkpoint
        records = [json.loads(x) for x in (work / stage / "progress.jsonl").read_text().splitlines()]
        rates = [r["atoms_per_s"] for r in records if r["event"] == "train" and r["atoms_per_s"]]
        print(f"{stage:13} {arguments.gpus} ranks: {np.median(rates[1:] or rates):9.0f} atoms/s; {done.progress.batch}")


WORKER = """
import json, logging, sys
from aqvolt_flows.makers import TrainMaker
logging.basicConfig(level=logging.INFO)
given = json.loads(sys.argv[1])
maker = TrainMaker(parameters=given["parameters"], device=given["device"])
print(TrainMaker.train.original(maker, given["release"]).model_dump_json(indent=1), file=open("model.json", "w"))
"""


def two_stage(arguments: argparse.Namespace) -> None:
    """Train in two stages, kill everything once in stage 2, finish, and write what a reader looks at."""
    folder = release(arguments.out, ["LiCl", "LiF"], arguments.frames, 100)
    direct, conservative = arguments.two_stage_steps
    stages = {
        "direct": {
            "steps": direct,
            "max_atoms": arguments.two_stage_atoms[0],
            "batch_atoms": arguments.two_stage_batch,
        },
        "conservative": {"steps": conservative, "max_atoms": arguments.two_stage_atoms[1]},
    }
    for stage, values in stages.items():
        stages[stage] = esen.stage_parameters(TrainingParameters(), stage).model_dump() | {
            "epochs": None, "ranks": 1, **values
        }  # fmt: skip
    parameters = {**(CPU if arguments.device == "cpu" else {}), "ema_decay": 0.98, **stages}
    given = json.dumps({"parameters": parameters, "device": arguments.device, "release": str(folder)})
    command = [sys.executable, "-c", WORKER, given]
    started = time.monotonic()
    worker = subprocess.Popen(command, cwd=arguments.out, start_new_session=True)
    while worker.poll() is None and not list(
        arguments.out.glob("training-*/conservative/checkpoints/step_*/.metadata")
    ):
        time.sleep(0.2)
    while worker.poll() is None and max(_steps(arguments.out), default=0) < conservative // 2:
        time.sleep(0.2)
    if worker.poll() is not None:
        sys.exit("the worker ended before it could be killed")
    at = max(_steps(arguments.out))
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    print(f"killed at step {at} of stage 2 after {time.monotonic() - started:.0f} s")
    subprocess.run(command, cwd=arguments.out, check=True)
    document = json.loads((arguments.out / "model.json").read_text())
    for stage in document["stages"]:
        print({k: stage[k] for k in ("stage", "steps", "attempts", "seconds", "batch", "best", "n_skipped", "metrics")})
    print(f"{document['status']}, {time.monotonic() - started:.0f} s in all; {curve(arguments.out)}")


def _steps(out: Path) -> list[int]:
    found = []
    for file in out.glob("training-*/conservative/progress.jsonl"):
        for text in file.read_text().splitlines():
            try:
                found.append(int(json.loads(text)["step"]))
            except ValueError:
                continue
    return found


def curve(out: Path) -> Path:
    """Draw loss, learning rate and validation errors of both stages against the step."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(13, 7))
    for row, stage in zip(axes, STAGES, strict=True):
        (file,) = out.glob(f"training-*/{stage}/progress.jsonl")
        (out / f"progress-{stage}.jsonl").write_bytes(file.read_bytes())
        records = [json.loads(text) for text in file.read_text().splitlines()]
        steps = dict(sorted({r["step"]: r for r in records if r["event"] == "train"}.items()))
        evals = dict(sorted({r["step"]: r["metrics"] for r in records if r["event"] == "eval"}.items()))
        row[0].semilogy(steps.keys(), [r["loss"] for r in steps.values()])
        row[0].set(xlabel="step", ylabel=f"loss, stage {stage}")
        row[1].semilogy(steps.keys(), [r["gradient_norm"] for r in steps.values()], label="gradient norm")
        row[1].semilogy(steps.keys(), [r["learning_rate"] for r in steps.values()], label="learning rate")
        row[1].legend()
        for name, unit in (("energy_per_atom_mae", "eV/atom"), ("forces_mae", "eV/Å"), ("stress_mae", "eV/Å³")):
            if any(name in m for m in evals.values()):
                row[2].semilogy(evals.keys(), [m[name] for m in evals.values()], "o-", ms=3, label=f"{name}, {unit}")
        row[2].legend()
    figure.tight_layout()
    figure.savefig(out / "curve.png", dpi=110)
    return out / "curve.png"
