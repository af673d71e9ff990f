"""How a stage's batch is spread: nodes, ranks, and micro-batches that are accumulated."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from aqvolt_flows.errors import ResourceError
from aqvolt_flows.schemas.parameters import StageParameters

#: Every rank runs this module.
ENTRY = "aqvolt_flows.training.torchrun"


@dataclass(frozen=True)
class Layout:
    """Who computes one optimizer step.

    Attributes
    ----------
    nodes, ranks_per_node
        Processes; one GPU each.
    accumulation
        Micro-batches that each rank computes before the optimizer steps.
    max_atoms
        Most atoms of a micro-batch.
    """

    nodes: int = 1
    ranks_per_node: int = 1
    accumulation: int = 1
    max_atoms: int = 0

    @property
    def ranks(self) -> int:
        """Processes of all nodes."""
        return self.nodes * self.ranks_per_node

    @property
    def atoms_per_step_limit(self) -> int:
        """Most atoms of one optimizer step; batches hold whole structures and are somewhat smaller."""
        return self.ranks * self.accumulation * self.max_atoms

    def as_dict(self) -> dict[str, int]:
        """Return the fields and what follows from them."""
        return asdict(self) | {"ranks": self.ranks, "atoms_per_step_limit": self.atoms_per_step_limit}


def micro_batches(stage: StageParameters) -> int:
    """Return how many micro-batches of ``max_atoms`` make one optimizer step.

    Without ``batch_atoms`` it is the number of ranks; with it, the multiple of the ranks that comes closest.
    """
    if stage.batch_atoms is None:
        return stage.ranks
    return stage.ranks * max(1, round(stage.batch_atoms / (stage.ranks * stage.max_atoms)))


def layout_for(stage: StageParameters, devices: int, nodes: int = 1, at_most: int = 2**31) -> Layout:
    """Return the layout of a stage on what there is; the batch of one optimizer step is always the same.

    As many ranks are taken as the stage wants, or the most that divide the micro-batches of a step evenly over the
    devices there are; the others are accumulated.

    Parameters
    ----------
    stage
        Wants ``ranks`` and a batch.
    devices
        GPUs (or cores, for training on CPUs) of one node.
    nodes
        Nodes of the allocation; all have as many devices.
    at_most
        Ranks.

    Raises
    ------
    ResourceError
        If there is no device.
    """
    if devices < 1 or nodes < 1:
        raise ResourceError(
            f"There are {devices} devices on {nodes} nodes; training needs one: check CUDA_VISIBLE_DEVICES, or "
            "set device: cpu."
        )
    micro = micro_batches(stage)
    for ranks in range(max(1, min(stage.ranks, devices * nodes, at_most)), 0, -1):
        if micro % ranks:
            continue
        for used in range(1, nodes + 1):
            if ranks % used == 0 and ranks // used <= devices:
                return Layout(used, ranks // used, micro // ranks, stage.max_atoms)
    raise AssertionError("one rank always divides the micro-batches")


def allocated_nodes(environment: Mapping[str, str] | None = None) -> int:
    """Return the nodes of this process's Slurm allocation; 1 outside one."""
    values = os.environ if environment is None else environment
    count = values.get("SLURM_JOB_NUM_NODES") or values.get("SLURM_NNODES") or "1"
    return int(count) if count.isdigit() and "SLURM_JOB_ID" in values else 1


def command(layout: Layout, config_file: Path, environment: Mapping[str, str] | None = None) -> list[str]:
    """Return how to start the trainer: one process, torchrun on this machine, or one torchrun per node under srun.

    The nodes find each other through torchrun's own rendezvous (c10d) on this machine, which must be one of the
    allocation's. Nothing is submitted: ``srun`` starts a step inside the allocation that the worker runs in.
    """
    values = os.environ if environment is None else environment
    python = sys.executable
    if layout.ranks == 1:
        return [python, "-m", ENTRY, str(config_file)]
    torchrun = [python, "-m", "torch.distributed.run", f"--nproc-per-node={layout.ranks_per_node}"]
    if layout.nodes == 1:
        return [*torchrun, "--standalone", "-m", ENTRY, str(config_file)]
    host = values.get("SLURMD_NODENAME") or socket.gethostname()
    rendezvous = [
        f"--nnodes={layout.nodes}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={host}:{_free_port()}",
        f"--rdzv-id={values.get('SLURM_JOB_ID', '0')}",
    ]
    srun = ["srun", f"--nodes={layout.nodes}", f"--ntasks={layout.nodes}", "--ntasks-per-node=1"]
    # --overlap: the worker may itself be a step; without it this step would wait for the worker's resources.
    srun += ["--overlap", "--kill-on-bad-exit=1", "--cpu-bind=none", "--export=ALL"]
    return [*srun, *torchrun, *rendezvous, "-m", ENTRY, str(config_file)]


def ends_at(
    walltime_s: float | None, stop_before_s: float, started: float, environment: Mapping[str, str] | None = None
) -> float | None:
    """Return when a trainer must have ended, as ``time.time()`` counts; None: never.

    Parameters
    ----------
    walltime_s
        Seconds that a launch may take; None: no limit.
    stop_before_s
        Kept free before the end of the Slurm allocation, for the last checkpoint.
    started
        When the launch began.
    environment
        Where Slurm (22.05 and later) says when the allocation ends; by default this process's.
    """
    ends = [] if walltime_s is None else [started + walltime_s]
    slurm = (os.environ if environment is None else environment).get("SLURM_JOB_END_TIME", "")
    if slurm.isdigit():
        ends.append(float(slurm) - stop_before_s)
    return min(ends, default=None)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        port: int = one.getsockname()[1]
        return port
