"""Several nodes: one torchrun a node under srun, which find each other; a stand-in srun starts them on this machine."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.parameters import TrainingParameters
from aqvolt_flows.training.data import labelled, open_split
from aqvolt_flows.training.esen import reference_energies, stage_config
from aqvolt_flows.training.layout import Layout, layout_for
from aqvolt_flows.training.stage_run import batches_at_least, val_limit
from aqvolt_flows.training.stages import StageResult, StageStoppedError, load_checkpoint, run_stage

#: Starts the command once per node, as srun does: each with its place in the step; ends when all have.
SRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys
options = [a for a in sys.argv[1:] if a.startswith("--")]
command = sys.argv[1 + next(i for i, a in enumerate(sys.argv[1:]) if not a.startswith("--")):]
given = dict(o.removeprefix("--").split("=") for o in options if "=" in o)
assert given["ntasks"] == given["nodes"] and given["ntasks-per-node"] == "1", given
tasks = [
    subprocess.Popen(command, env=os.environ | {{"SLURM_PROCID": str(n), "SLURM_NODEID": str(n), "SLURM_LOCALID": "0"}})
    for n in range(int(given["nodes"]))
]
open("srun.log", "a").write(" ".join(sys.argv[1:]) + "\\n")
signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks])
sys.exit(max(abs(task.wait()) for task in tasks))
"""
STAGE = {"steps": 5, "max_atoms": 24, "max_neighbors": 60, "bf16": False, "learning_rate": 1e-3, "batch_atoms": 48}
COEFFICIENTS = {"energy_coefficient": 10, "force_coefficient": 30}
TOY: dict[str, Any] = {
    "architecture": "eSEN-toy", "n_layers": 1, "sphere_channels": 8, "hidden_channels": 8, "n_distance_basis": 8,
    "cutoff_a": 5.0, "ema_decay": 0.8, "direct": STAGE | COEFFICIENTS | {"ranks": 2},
    "conservative": STAGE | COEFFICIENTS | {"stress_coefficient": 5},
}  # fmt: skip


def trained(release: Path, workdir: Path, layout: Layout, ends_at: float | None = None) -> StageResult:
    parameters = TrainingParameters(**TOY)
    train, val = open_split(release, "train"), open_split(release, "val")
    references = reference_energies(labelled(train))
    config = stage_config(
        "direct", parameters, train.folder, val.folder, references, workdir, "direct", "cpu", None, layout
    )
    config["runner"]["eval_dataloader"]["batch_sampler_fn"]["max_atoms"] = val_limit(val, 24, 2)
    return run_stage(config, workdir, "direct", {"OMP_NUM_THREADS": "1"}, ends_at=ends_at)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_nodes_train_as_one_rank_that_accumulates_and_is_stopped_once(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Same batches, same steps; the one rank is told to stop after two steps and goes on."""
    parameters = TrainingParameters(**TOY)
    assert layout_for(parameters.direct, 1) == Layout(1, 1, 2, 24)
    with pytest.raises(StageStoppedError, match="after 2 steps"):
        trained(release, tmp_path / "one", Layout(1, 1, 2, 24), time.time())
    one = trained(release, tmp_path / "one", Layout(1, 1, 2, 24))

    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(SRUN)
    srun.chmod(srun.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{srun.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.setenv("SLURMD_NODENAME", "localhost")
    assert layout_for(parameters.direct, 1, 2) == Layout(2, 1, 1, 24)
    two = trained(release, tmp_path / "two", Layout(2, 1, 1, 24))

    assert "--rdzv-id=77" in (tmp_path / "two/direct/srun.log").read_text()
    assert (one.progress.batch["ranks"], one.progress.batch["accumulation"]) == (1, 2)
    assert (two.progress.batch["ranks"], two.progress.batch["accumulation"]) == (2, 1)
    assert one.progress.batch["atoms_per_step_limit"] == two.progress.batch["atoms_per_step_limit"] == 48
    assert one.progress.batch["atoms_per_step_mean"] == two.progress.batch["atoms_per_step_mean"]
    assert dict(two.progress.losses) == pytest.approx(dict(one.progress.losses), rel=1e-4)
    final = [found.progress.evaluations[-1][1] for found in (one, two)]
    assert final[1] == pytest.approx(final[0], rel=1e-3)
    states = [load_checkpoint(found.checkpoint).ema_state_dict for found in (one, two)]
    moved = max(float(abs(v - states[1][k]).max()) for k, v in states[0].items())
    assert moved < 2e-4  # of weights of about 1; Adam divides a gradient near zero by itself
    assert [json.loads(x)["event"] for x in (tmp_path / "two/direct/progress.jsonl").read_text().splitlines()].count(
        "end"
    ) == 1  # one rank writes


def test_every_rank_has_a_validation_batch_or_a_sentence(release: Path):
    val = open_split(release, "val")  # four structures of 8, 2, 2 and 2 atoms
    assert sorted(val.natoms) == [2, 2, 2, 8]
    assert val_limit(val, 10_000, 1) == 14
    assert val_limit(val, 10_000, 2) == 8
    assert batches_at_least(val, 8) == 2
    with pytest.raises(InputError, match=r"4 structures with 14 atoms, too few .* 32 ranks .*set ranks to 2"):
        val_limit(val, 10_000, 32)


def test_there_are_no_more_ranks_than_batches(release: Path):
    train = open_split(release, "train")
    total = int(np.sum(train.natoms))
    assert batches_at_least(train, total) == 1
    assert layout_for(TrainingParameters().direct, 8, 1, batches_at_least(train, 10_000)) == Layout(1, 1, 8, 10_000)
