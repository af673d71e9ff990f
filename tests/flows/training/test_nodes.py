"""Several nodes: one torchrun a node under srun, which find each other; a stand-in srun starts them on this machine."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from fairchem_runner import TOY, runner

from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.parameters import TrainingParameters
from aqvolt_flows.training.data import open_split, source_of
from aqvolt_flows.training.layout import Layout, allocated_nodes, layout_for
from aqvolt_flows.training.preflight import preflight
from aqvolt_flows.training.stage_run import batches_at_least, train_stage, val_limit
from aqvolt_flows.training.stages import load_checkpoint, read_progress

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


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.filterwarnings("ignore")  # of fairchem, which runs in this process too
def test_two_nodes_train_as_one_rank_that_accumulates(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Same batches, same steps; the one rank runs in this process."""
    values = TOY | {"direct": TOY["direct"] | {"steps": 4, "batch_atoms": 48, "ranks": 2}}
    parameters = TrainingParameters(**values)
    assert layout_for(parameters.direct, 1) == Layout(1, 1, 2, 24)
    with runner(release, tmp_path / "one", stage={"steps": 4, "batch_atoms": 48}) as made:
        assert made.train_eval_unit.accumulation == 2
        made.run()
    one = read_progress(tmp_path / "one/direct/progress.jsonl")

    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(SRUN)
    srun.chmod(srun.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{srun.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.setenv("SLURMD_NODENAME", "localhost")
    assert layout_for(parameters.direct, 1, allocated_nodes()) == Layout(2, 1, 1, 24)
    monkeypatch.setattr("aqvolt_flows.training.stage_run.os.cpu_count", lambda: 1)
    checked = preflight([source_of(release)], parameters)
    done = train_stage("direct", parameters, checked, tmp_path / "two", "cpu", {"OMP_NUM_THREADS": "1"})
    two = done.progress

    assert "--rdzv-id=77" in (tmp_path / "two/direct/srun.log").read_text()
    assert (one.batch["ranks"], one.batch["accumulation"]) == (1, 2)
    assert (two.batch["ranks"], two.batch["accumulation"]) == (2, 1)
    assert one.batch["atoms_per_step_limit"] == two.batch["atoms_per_step_limit"] == 48
    assert one.batch["atoms_per_step_mean"] == two.batch["atoms_per_step_mean"]
    assert dict(two.losses) == pytest.approx(dict(one.losses), rel=1e-4)
    assert two.evaluations[-1][1] == pytest.approx(one.evaluations[-1][1], rel=1e-3)
    final = "direct/checkpoints/final/inference_ckpt.pt"
    states = [load_checkpoint(tmp_path / name / final).ema_state_dict for name in ("one", "two")]
    moved = max(float(abs(v - states[1][k]).max()) for k, v in states[0].items())
    assert moved < 2e-4  # of weights of about 1; Adam divides a gradient near zero by itself
    events = [json.loads(x)["event"] for x in (tmp_path / "two/direct/progress.jsonl").read_text().splitlines()]
    assert events.count("end") == events.count("start") == 1  # one rank writes


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
