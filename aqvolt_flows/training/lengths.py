"""How long a training is: steps, warm-up, memory of the averaged weights, atoms, edges, hours and GiB.

The exported weights are an exponential moving average over optimizer steps, begun at the weights after the first step:
after ``N`` steps, ``decay^(N - 1)`` of it are those. A run shorter than ``1 / (1 - decay)`` steps exports more of its
start than of what it learned, and is refused, as is one that ends within its warm-up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.parameters import StageParameters, TrainingParameters
from aqvolt_flows.training.edges import EdgeCount
from aqvolt_flows.training.layout import micro_batches
from aqvolt_flows.training.packing import drawn, packed
from aqvolt_flows.training.preflight import Checked

STAGES = ("direct", "conservative")
#: Atoms that one H100 (80 GB) trains on per second with the network of Table S1, and at what that was measured; rates
#: of the conservative stage follow the edges (1,535 for LiF, 2,626 for LiCl). A campaign's ``gpu_atoms_per_s`` goes
#: before them.
GPU_ATOMS_PER_S = {"direct": 14_700.0, "conservative": 1_940.0}
MEASURED_AT = {
    "direct": "measured on an H100 at 10,000 atoms of LiCl per batch",
    "conservative": "measured on an H100 at 1,000 atoms of LiCl and LiF per batch",
}
#: Memory of a training step at Table S1's sizes, counted on a CPU: MiB per edge, bf16 without and FP32 with a second
#: backward pass (3 MiB an atom at 31 edges, 550 KiB an edge).
MIB_PER_EDGE = {"direct": 3.0 / 31, "conservative": 550 / 1024}
#: Layers × channels that the numbers above belong to.
TABLE_S1_SIZE = 4 * 128


@dataclass(frozen=True)
class StageLength:
    """One stage of a training in numbers.

    Attributes
    ----------
    steps, steps_per_epoch, epochs
        Optimizer steps, and passes over the training set.
    batch_atoms
        Atoms of an optimizer step at most, accumulated micro-batches included.
    frames_seen, atoms_seen
        Over the whole stage.
    warmup_steps
        Until the learning rate reaches its peak.
    ema_memory_steps, start_weights_left
        ``1 / (1 - decay)``, and the share of the weights after the first step in those that are exported.
    gpu_atoms_per_s, rate_from, gpu_hours, hours
        Atoms per second and GPU, whose number it is, and what follows; ``hours`` with all ranks.
    given_in
        ``steps`` or ``epochs``: which of them the campaign sets.
    edges_per_atom, edges_per_batch
        Of a sample of the training set, and of the fullest batch of one rank; None where nothing was counted.
    memory_gib
        Estimate for one rank; None where edges were not counted.
    """

    stage: str
    steps: int
    steps_per_epoch: int
    epochs: float
    batch_atoms: int
    frames_seen: int
    atoms_seen: int
    warmup_steps: int
    ema_memory_steps: int
    start_weights_left: float
    gpu_atoms_per_s: float
    rate_from: str
    gpu_hours: float
    hours: float
    given_in: str = "epochs"
    edges_per_atom: float | None = None
    edges_per_batch: int | None = None
    memory_gib: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers, rounded for people; what was not counted is left out."""
        values = {k: v for k, v in asdict(self).items() if v is not None and k not in ("stage", "given_in")}
        return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in values.items()}

    def faults(self, decay: float) -> list[str]:
        """Return sentences that say why this stage is too short, and what to set."""
        said = []
        where = f"training.{self.stage}"
        if self.steps < self.ema_memory_steps:
            fitting = max(0.1, 1 - 10 / self.steps)
            least = self.ema_memory_steps
            if self.given_in == "epochs":
                least = -(-least // self.steps_per_epoch)
            said.append(
                f"{where} has {self.steps} steps, fewer than the {self.ema_memory_steps} that the averaged weights "
                f"remember (ema_decay = {decay:g}): {self.start_weights_left:.0%} of what is exported would be the "
                f"weights after the first step; set {where}.{self.given_in} to at least {least}, or training.ema_decay "
                f"to {fitting:.3g}"
            )
        if self.steps <= self.warmup_steps:
            said.append(
                f"{where} has {self.steps} steps and a warm-up of {self.warmup_steps}: the learning rate would not "
                f"reach its peak; set more epochs or steps, or a smaller {where}.warmup_epochs"
            )
        return said


def stage_length(
    stage: str,
    parameters: TrainingParameters,
    natoms: Sequence[NDArray[np.int64]],
    edges: EdgeCount | None = None,
) -> StageLength:
    """Return one stage in numbers.

    Parameters
    ----------
    stage
        ``direct`` or ``conservative``.
    parameters
        Batches and lengths; weights of the mixture, in the order of ``natoms``.
    natoms
        Sizes of the training frames, one array per source.
    edges
        Of a sample under this stage's cap.
    """
    chosen: StageParameters = getattr(parameters, stage)
    weights = [part.weight for part in parameters.mixture] or [1.0] * len(natoms)
    sizes = np.concatenate([np.asarray(n, dtype=np.int64) for n in natoms])
    epoch = sizes[drawn([len(n) for n in natoms], weights, parameters.seed, 0)]
    micro = micro_batches(chosen)
    per_epoch = max(1, -(-len(packed(epoch, chosen.max_atoms)) // micro))
    steps = chosen.steps or per_epoch * int(chosen.epochs or 1)
    epochs = steps / per_epoch
    rate = chosen.gpu_atoms_per_s or GPU_ATOMS_PER_S[stage]
    seen = round(epochs * int(epoch.sum()))
    batch_edges = None if edges is None else round(edges.per_atom * min(chosen.max_atoms, int(epoch.sum())))
    return StageLength(
        stage,
        steps,
        per_epoch,
        epochs,
        chosen.max_atoms * micro,
        round(epochs * len(epoch)),
        seen,
        max(1, int(chosen.warmup_epochs * per_epoch)),
        round(1 / (1 - parameters.ema_decay)),
        parameters.ema_decay ** (steps - 1),
        rate,
        f"training.{stage}.gpu_atoms_per_s" if chosen.gpu_atoms_per_s else MEASURED_AT[stage],
        seen / rate / 3600,
        seen / rate / 3600 / chosen.ranks,
        "steps" if chosen.steps else "epochs",
        None if edges is None else edges.per_atom,
        batch_edges,
        None if batch_edges is None else memory_gib(stage, parameters, batch_edges),
    )


def memory_gib(stage: str, parameters: TrainingParameters, edges: int) -> float:
    """Return an estimate of the memory of one training step, GiB: proportional to edges, layers and channels."""
    size = parameters.n_layers * (parameters.sphere_channels + parameters.hidden_channels) / 2
    return edges * MIB_PER_EDGE[stage] * size / TABLE_S1_SIZE / 1024


def training_lengths(
    parameters: TrainingParameters,
    natoms: Sequence[NDArray[np.int64]],
    edges: Mapping[str, EdgeCount] | None = None,
) -> list[StageLength]:
    """Return both stages in numbers; see :func:`stage_length`."""
    return [stage_length(stage, parameters, natoms, (edges or {}).get(stage)) for stage in STAGES]


def too_short(parameters: TrainingParameters, lengths: Sequence[StageLength]) -> list[str]:
    """Return sentences that say which stage is too short for its average or warm-up, and what to set."""
    return [sentence for length in lengths for sentence in length.faults(parameters.ema_decay)]


def refuse_short(parameters: TrainingParameters, checked: Checked) -> None:
    """Refuse a training that is too short for what it exports.

    Raises
    ------
    InputError
        With the sentences of :func:`too_short`.
    """
    faults = too_short(parameters, training_lengths(parameters, checked.natoms("train")))
    if faults:
        raise InputError(f"{'; '.join(faults)}. Nothing was trained.")
