"""The training loop beside fairchem's own, memory against batch, several GPUs, and a two-stage run that is killed once.

Data are rattled, strained LiCl and LiF supercells of 8 to 64 atoms (mean about 17, as AQVolt26's), labeled by a smooth
pair potential; nothing is downloaded. Modes:

- default: for both stages, both materials and several ``max_atoms``, our unit and fairchem's ``MLIPTrainEvalUnit`` take
  the same steps on the same batches in the same process, through fairchem's own runner, as its command line does; at
  Table S1's sizes in the order ours, fairchem, fairchem, ours. Rows go to ``--out``/rows.json as they come; a second
  call does those that are missing.
- ``--largest``: the largest batch that fits, found from the memory of smaller ones and then tried.
- ``--gpus N``: both stages as real runs (torchrun) on N ranks, atoms/s from their own records.
- ``--two-stage``: the whole training with eSEN-L4, SIGKILLed once in stage 2; curve, records and document go to
  ``--out``.

    python tests/performance/training.py --device cuda --minutes 5 --out /tmp/training
    python tests/performance/training.py --device cuda --two-stage --out /tmp/two_stage
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
from training_data import LATTICES, release
from training_runs import CPU, real_runs, two_stage

from aqvolt_flows.schemas.parameters import TrainingParameters
from aqvolt_flows.training import esen
from aqvolt_flows.training.data import labelled, open_split
from aqvolt_flows.training.references import reference_energies

SIZES = {"direct": [10_000, 1_000, 2_000, 5_000], "conservative": [1_500, 1_000, 2_000, 5_000, 10_000]}
TABLE_S1 = {"direct": 10_000, "conservative": 1_500}


class Timer:
    """A callback that times steps from the first after the warm-up to the last, the device idle at both ends."""

    def __init__(self, warm: int, last: int, cuda: bool) -> None:
        self.warm, self.last, self.cuda, self.marks = warm, last, cuda, {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("on_"):
            return lambda *_: None
        raise AttributeError(name)

    @property
    def name(self) -> str:
        return "Timer"

    def on_train_step_end(self, state: Any, unit: Any) -> None:
        step = unit.train_progress.num_steps_completed
        if step in (self.warm, self.last):
            if self.cuda:
                import torch

                torch.cuda.synchronize()
            waits = state.train_state.iteration_timer.recorded_durations["data_wait_time"]
            self.marks[step] = (time.perf_counter(), sum(waits))


def configuration(arguments: argparse.Namespace, stage: str, folder: Path, max_atoms: int, steps: int) -> dict:
    sizes = CPU if arguments.device == "cpu" else {}
    parameters = TrainingParameters(**sizes)
    chosen = esen.stage_parameters(parameters, stage)
    chosen = chosen.model_copy(
        update={
            "steps": steps, "epochs": None, "max_atoms": max_atoms, "ranks": 1,
            "activation_checkpointing": arguments.activation_checkpointing,
        }
    )  # fmt: skip
    parameters = parameters.model_copy(update={stage: chosen})
    train, val = open_split(folder, "train"), open_split(folder, "val")
    references = reference_energies(labelled(val))
    start = Path("none") if stage == "conservative" else None
    out = arguments.out / "runs"
    config = esen.stage_config(
        stage, parameters, train.folder, val.folder, references, out, stage, arguments.device, start
    )
    runner = config["runner"]
    if stage == "conservative":  # the same network with random weights: no checkpoint is needed to time it
        model = esen._direct_model(parameters)
        changed = runner["train_eval_unit"]["model"]["overrides"]
        model["backbone"] |= changed["backbone"]
        model["pass_through_head_outputs"] = True
        model["heads"] = {"energy": {"module": esen.ENERGY_HEAD}}
        runner["train_eval_unit"]["model"] = model
    total = int(open_split(folder, "train").natoms.sum())
    repeats = int(
        np.ceil((steps + 2) * max_atoms / (0.9 * total))
    )  # no epoch ends, and no validation, while it is timed
    sampling = {"type": "explicit", "ratios": {f"{esen.TASK_NAME}.train": repeats}}
    runner["train_dataloader"]["dataset"]["combined_dataset_config"] = {"sampling": sampling}
    runner["evaluate_every_n_steps"] = None
    return config


def timed(config: dict, whose: str, arguments: argparse.Namespace, steps: int) -> dict[str, Any]:
    """Take ``steps`` steps through fairchem's runner and return rate, memory and waiting of all but the first."""
    import hydra
    import torch
    from omegaconf import OmegaConf

    cuda = arguments.device == "cuda"
    config = json.loads(json.dumps(config))
    unit = config["runner"]["train_eval_unit"]
    unit["job_config"] = {"debug": True, "logger": None}
    records = arguments.out / f"records-{whose}.jsonl"
    records.unlink(missing_ok=True)
    config["runner"]["callbacks"] = []
    if whose == "fairchem":
        unit["_target_"] = f"{esen._UNIT}.MLIPTrainEvalUnit"
        for name in ("guard", "accumulation"):
            unit.pop(name)
    torch.manual_seed(0)
    runner = hydra.utils.instantiate(OmegaConf.create(config["runner"]))
    timer = Timer(arguments.warm, steps, cuda)
    if whose == "ours":
        from aqvolt_flows.training.progress import ProgressCallback

        runner.callbacks = [ProgressCallback(str(records), every_n_steps=10), timer]
    else:
        runner.callbacks = [timer]
    runner.eval_dataloader = None
    sampler = runner.train_dataloader.batch_sampler
    sampler.set_epoch_and_start_iteration(0, 0)
    batches = list(sampler)[arguments.warm : steps]
    natoms = [int(np.sum(sampler.dataset.get_metadata("natoms", list(b)))) for b in batches]
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _fit(runner)
    (t0, w0), (t1, w1) = timer.marks[arguments.warm], timer.marks[steps]
    memory = (
        torch.cuda.max_memory_allocated() / 2**30
        if cuda
        else (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    )
    return {
        "atoms_per_s": sum(natoms) / (t1 - t0), "ms_per_step": 1e3 * (t1 - t0) / len(natoms), "memory_gib": memory,
        "data_wait_share": (w1 - w0) / (t1 - t0), "atoms_per_step": float(np.mean(natoms)),
    }  # fmt: skip


def _fit(runner: Any) -> None:
    """Do what ``TrainEvalRunner.run`` does, without a validation at the end of the last epoch."""
    from torchtnt.framework.train import train

    train(runner.train_eval_unit, runner.train_dataloader, max_steps=runner.max_steps, callbacks=runner.callbacks)


def cleared() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def prepared(arguments: argparse.Namespace) -> None:
    """Set up one rank as fairchem does."""
    from fairchem.core.common import distutils

    cpu = arguments.device == "cpu"
    distutils.setup(
        {
            "submit": False, "cpu": cpu, "distributed_backend": "gloo" if cpu else "nccl", "world_size": 1,
            "init_method": "tcp",
        }
    )  # fmt: skip


def throughput(arguments: argparse.Namespace) -> None:
    ends = time.monotonic() + 60 * arguments.minutes
    file = arguments.out / "rows.json"
    rows = json.loads(file.read_text()) if file.exists() else []
    done = {tuple(row["case"]) for row in rows}
    places = {f: release(arguments.out, [f], arguments.frames, 8) for f in LATTICES}
    prepared(arguments)
    sizes = {s: arguments.sizes or SIZES[s] for s in SIZES}
    cases = [(s, f, n) for rank in range(5) for s in SIZES for f in LATTICES for n in sizes[s][rank : rank + 1]]
    for case in cases:
        if case in done:
            continue
        if time.monotonic() > ends:
            print(f"out of time before {case}; call again to go on")
            break
        stage, formula, max_atoms = case
        config = configuration(arguments, stage, places[formula], max_atoms, arguments.steps)
        row: dict[str, Any] = {"case": list(case), "device": device_name(arguments)}
        order = ["ours", "fairchem"]
        if max_atoms == TABLE_S1[stage]:
            order += ["fairchem", "ours"]
        for whose in order:
            try:
                found = timed(config, whose, arguments, arguments.steps)
            except RuntimeError as error:
                if "out of memory" not in str(error):
                    raise
                found = {"out_of_memory": True}
            cleared()
            if "atoms_per_s" in found and found["atoms_per_s"] < row.get(whose, {}).get("atoms_per_s", 0):
                continue  # of two passes the faster
            row[whose] = found
        rows.append(row)
        file.write_text(json.dumps(rows, indent=1))
        print(line(row), flush=True)


def line(row: dict[str, Any]) -> str:
    ours, theirs = row["ours"], row["fairchem"]
    head = "{:13} {:5} {:6}".format(*row["case"])
    if "out_of_memory" in ours or "out_of_memory" in theirs:
        return f"{head}  out of memory: ours {'out_of_memory' in ours}, fairchem {'out_of_memory' in theirs}"
    return (
        f"{head} {ours['atoms_per_s']:9.0f} atoms/s (fairchem {theirs['atoms_per_s']:9.0f}, overhead "
        f"{100 * (theirs['atoms_per_s'] / ours['atoms_per_s'] - 1):5.1f} %) {ours['memory_gib']:6.1f} GiB (fairchem "
        f"{theirs['memory_gib']:6.1f}) waits {100 * ours['data_wait_share']:4.1f} %, {ours['ms_per_step']:7.1f} ms/step"
    )


def device_name(arguments: argparse.Namespace) -> str:
    import torch

    return torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"


def largest(arguments: argparse.Namespace) -> None:
    """Print the largest ``max_atoms`` that fits: from the memory of two smaller batches, then tried downward by 5 %."""
    import torch

    prepared(arguments)
    total = torch.cuda.get_device_properties(0).total_memory / 2**30
    arguments.warm, steps = 1, 3
    for stage, (low, high) in {"direct": (2_000, 6_000), "conservative": (400, 1_000)}.items():
        for formula in LATTICES:
            folder = release(arguments.out, [formula], arguments.frames, 8)

            def memory(n: int, folder: Path = folder, stage: str = stage) -> float | None:
                try:
                    config = configuration(arguments, stage, folder, n, steps)
                    return float(timed(config, "ours", arguments, steps)["memory_gib"])
                except RuntimeError as error:
                    if "out of memory" not in str(error):
                        raise
                    return None
                finally:
                    cleared()

            at_low, at_high = memory(low), memory(high)
            if at_low is None or at_high is None:
                print(f"{stage:13} {formula:5} not even {high} atoms fit")
                continue
            per_atom = (at_high - at_low) / (high - low)
            tried = int((total - 2.0 - at_high) / per_atom + high) // 100 * 100
            while (needed := memory(tried)) is None:
                tried = int(0.95 * tried) // 100 * 100
            print(
                f"{stage:13} {formula:5} {1024 * per_atom:6.2f} MiB an atom; {tried} atoms fit ({needed:.1f} of "
                f"{total:.1f} GiB)",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--minutes", type=float, default=5.0, help="start no further case after this")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=13)
    parser.add_argument("--warm", type=int, default=4, help="steps that are not timed")
    parser.add_argument("--sizes", type=int, nargs="+", help="max_atoms instead of 1,000 to 10,000")
    parser.add_argument("--activation-checkpointing", action="store_true")
    parser.add_argument("--largest", action="store_true")
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--two-stage", action="store_true")
    parser.add_argument("--two-stage-steps", type=int, nargs=2, default=[240, 120])
    parser.add_argument("--two-stage-atoms", type=int, nargs=2, default=[2_000, 1_000])
    parser.add_argument("--two-stage-batch", type=int, default=4_000)
    arguments = parser.parse_args()
    arguments.out = arguments.out.resolve()
    arguments.out.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.INFO)
    os.environ |= {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
    if arguments.two_stage:
        two_stage(arguments)
    elif arguments.gpus:
        real_runs(arguments)
    elif arguments.largest:
        largest(arguments)
    else:
        throughput(arguments)


if __name__ == "__main__":
    main()
