"""fairchem's training unit with accumulated gradients and a look at loss and gradient before each step; imports torch.

What fairchem's unit lacks and this one adds: a batch of several micro-batches, each task's loss divided by its number
of samples in all of them on all ranks; a :class:`~aqvolt_flows.training.guard.Guard` before the optimizer; and a report
of every step. Model, optimizer, schedule, averaged weights and checkpoints are fairchem's.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from fairchem.core.common import distutils
from fairchem.core.units.mlip_unit.mlip_unit import MLIPTrainEvalUnit, compute_loss, set_sampler_state
from fairchem.core.units.mlip_unit.utils import tf32_context_manager

from aqvolt_flows.training.guard import Guard, Verdict

logger = logging.getLogger(__name__)

#: Frames named of a step that was skipped.
MAX_NAMED = 20


class DivergenceError(Exception):
    """The training cannot go on; what is good of it is in the checkpoints."""


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step was.

    Attributes
    ----------
    losses
        Terms of the loss by task, coefficients included, over all ranks and micro-batches.
    gradient_norm
        Before clipping.
    learning_rate
        That the step was taken with.
    atoms
        Of all ranks and micro-batches.
    waited_s, seconds
        Time this rank waited for data; time since the step before.
    frame_ids
        Of this step, where it was not taken; at most :data:`MAX_NAMED` of each rank.
    """

    step: int
    epoch: float
    losses: dict[str, float]
    gradient_norm: float
    learning_rate: float
    atoms: int
    waited_s: float
    seconds: float
    verdict: Verdict
    skips: int
    frame_ids: list[str] = field(default_factory=list)


def samples_of(tasks: Sequence[Any], batch: Any) -> list[int]:
    """Return by how many samples each task's loss is divided in one batch: those fairchem's ``DDPMTLoss`` counts.

    Energies, or components of a stress, that are finite; atoms that are free and whose force is finite; with reduction
    ``per_structure`` the structures that have such an atom.
    """
    counts = []
    for task in tasks:
        mask = torch.isfinite(batch[task.name])
        if task.level == "atom":
            mask = mask.all(dim=1)
            if task.train_on_free_atoms:
                mask = mask & (batch.fixed == 0)
        if task.loss_fn.reduction == "per_structure":
            structures = torch.repeat_interleave(torch.arange(batch.natoms.numel()), batch.natoms)
            counts.append(int(torch.count_nonzero(torch.bincount(structures[mask]))))
        else:
            counts.append(int(mask.sum()))
    return counts


class AccumulatingUnit(MLIPTrainEvalUnit):
    """fairchem's training unit, several micro-batches a step, each step judged before it is taken.

    Parameters
    ----------
    accumulation
        Micro-batches that each rank computes before the optimizer steps; the last step of an epoch may have fewer.
    guard
        Fields of :class:`~aqvolt_flows.training.guard.Guard`.
    **unit
        As fairchem's unit takes them. Losses are normalized over data-parallel ranks; fully sharded models are not
        supported.
    """

    def __init__(self, *, accumulation: int = 1, guard: Mapping[str, Any] | None = None, **unit: Any) -> None:
        super().__init__(**unit)
        self.accumulation = int(accumulation)
        self.guard = Guard(**(guard or {}))
        self.last: StepReport | None = None
        #: Set by whoever wants the training to stop on this rank; :attr:`stop_agreed` says that some rank did.
        self.stop_wanted = False
        self.stop_agreed = False
        self.metrics: dict[str, float] = {}
        self.sources: dict[str, dict[str, float]] = {}
        self._waited = 0.0
        self._totals: dict[str, float] | None = None
        self._raw: dict[str, Any] = {}
        for task in self.tasks:
            original = task.loss_fn._ddp_mean
            # On the object, not its class: the class is part of the checkpoint, which must load without this package.
            task.loss_fn._ddp_mean = functools.partial(self._mean, task.name, original)

    # ------------------------------------------------------------------ lengths

    def steps_per_epoch(self, state: Any) -> int:
        """Return the optimizer steps of an epoch."""
        return -(-len(state.train_state.dataloader) // self.accumulation)

    def load_scheduler(self, train_dataloader_size: int) -> None:
        """Make the schedule, which counts optimizer steps."""
        super().load_scheduler(-(-train_dataloader_size // self.accumulation))

    def on_train_start(self, state: Any) -> None:
        """Load the state, if there is one, and put the sampler to the first micro-batch that is not yet trained on."""
        super().on_train_start(state)
        progress = self.train_progress
        if 0 < self.steps_per_epoch(state) <= progress.num_steps_completed_in_epoch:
            progress.increment_epoch()
        set_sampler_state(
            state, progress.num_epochs_completed, progress.num_steps_completed_in_epoch * self.accumulation
        )
        self._previous = time.perf_counter()

    def get_next_train_batch(self, state: Any, data_iter: Iterator[Any]) -> list[Any]:  # noqa: ARG002
        """Return the micro-batches of one optimizer step; what is left of the epoch, at its end."""
        started = time.perf_counter()
        batches = [next(data_iter)]
        while len(batches) < self.accumulation:
            try:
                batches.append(next(data_iter))
            except StopIteration:
                break
        self._waited = time.perf_counter() - started
        return batches

    # ------------------------------------------------------------------ one step

    def train_step(self, state: Any, data: list[Any]) -> None:
        """Accumulate the gradients of the micro-batches, judge them, and step or not."""
        progress = self.train_progress
        try:
            atoms = self.accumulate(data)
            report_values = self._norms()
        except Exception:
            logger.exception("Step %d failed, frames %s.", progress.num_steps_completed, names(data))
            raise
        losses, norm = report_values
        verdict = self.guard.judge(losses, norm)
        # Attributes, not scheduler.get_lr(): that recomputes them and warns outside of a step.
        rate = float(self.optimizer.param_groups[0]["lr"])
        if verdict.action == "step":
            self.optimizer.step()
            if self.ema_model is not None:
                self.ema_model.update_parameters(self.model)
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()
        self.last_loss, self.last_grad_norm = sum(losses.values()), norm
        now = time.perf_counter()
        self.last = StepReport(
            step=progress.num_steps_completed + 1,
            epoch=progress.num_epochs_completed
            + (progress.num_steps_completed_in_epoch + 1) / self.steps_per_epoch(state),
            losses=losses,
            gradient_norm=norm,
            learning_rate=rate,
            atoms=atoms,
            waited_s=self._waited,
            seconds=now - self._previous,
            verdict=verdict,
            skips=self.guard.skips,
            frame_ids=[] if verdict.action == "step" else self._all_names(data),
        )
        self._previous = now
        if verdict.action == "stop":
            raise DivergenceError(f"At step {self.last.step} {verdict.reason}.")

    def accumulate(self, batches: Sequence[Any]) -> int:
        """Leave the gradient of all micro-batches of all ranks in ``.grad``; return their number of atoms."""
        atoms = self._count(batches)
        self._raw = {}
        self.optimizer.zero_grad()
        try:
            for place, batch in enumerate(batches):
                together = place == len(batches) - 1
                with contextlib.nullcontext() if together else self.model.no_sync():
                    self._backward(batch)
        finally:
            self._totals = None
        return atoms

    def _count(self, batches: Sequence[Any]) -> int:
        """Set the samples of each task in this step, and whether some rank wants to stop; return the atoms."""
        counts = [samples_of(self.tasks, batch) for batch in batches]
        mine = [sum(column) for column in zip(*counts, strict=True)]
        mine += [sum(int(batch.natoms.sum()) for batch in batches), int(self.stop_wanted)]
        every = mine
        if distutils.get_world_size() > 1:
            device = distutils.get_device_for_local_rank()
            every = distutils.all_reduce(torch.tensor(mine, dtype=torch.int64, device=device)).tolist()
        *totals, atoms, stops = every
        self._totals = {task.name: max(total, 1) for task, total in zip(self.tasks, totals, strict=True)}
        self.stop_agreed = stops > 0
        return int(atoms)

    def _mean(self, name: str, original: Any, num_samples: Any, loss: Any) -> Any:
        """Stand in for ``DDPMTLoss._ddp_mean``: divide by the samples of the whole step; validation as fairchem does.

        DDP averages gradients over ranks, hence the number of ranks as a factor.
        """
        if self._totals is None:
            return original(num_samples, loss)
        mean = loss * distutils.get_world_size() / self._totals[name]
        self._raw[name] = self._raw.get(name, 0) + mean.detach()
        return mean

    def _backward(self, batch: Any) -> None:
        device = distutils.get_device_for_local_rank()
        on_device = batch.to(device)
        with (
            tf32_context_manager(self.tf32),
            torch.autocast(device_type=device, enabled=self.autocast_enabled, dtype=self.autocast_dtype),
        ):
            predictions = self.model.forward(on_device)
            losses = compute_loss(self.tasks, predictions, on_device)
        with tf32_context_manager(self.tf32):
            sum(losses.values()).backward()

    def _norms(self) -> tuple[dict[str, float], float]:
        """Clip the gradient; return the terms of the loss over all ranks, and the gradient's norm before clipping."""
        limit = self.clip_grad_norm if self.clip_grad_norm is not None else torch.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=limit)
        terms = torch.stack([self._raw[t.name].float() * t.loss_fn.coefficient for t in self.tasks])
        if distutils.get_world_size() > 1:
            terms = distutils.all_reduce(terms, average=True)
        *values, size = torch.cat([terms, norm.detach().float().reshape(1)]).tolist()
        return {task.name: value for task, value in zip(self.tasks, values, strict=True)}, size

    def _all_names(self, batches: Sequence[Any]) -> list[str]:
        gathered = distutils.gather_objects(names(batches))
        return [name for rank in gathered or [] for name in rank]

    # ------------------------------------------------------------------ validation

    def on_eval_epoch_end(self, state: Any) -> None:  # noqa: ARG002
        """Add up the metrics of all ranks, over all sources and of each."""
        device = distutils.get_device_for_local_rank()
        sums: dict[str, list[float]] = {}
        sources: dict[str, dict[str, float]] = {}
        for task, datasets in self.eval_unit.running_metrics.items():
            for source, by_name in datasets.items():
                for name, metric in by_name.items():
                    total = float(distutils.all_reduce(float(metric.total), device=device))
                    number = float(distutils.all_reduce(float(metric.numel), device=device))
                    if number:
                        whole = sums.setdefault(f"{task}_{name}", [0.0, 0.0])
                        whole[0] += total
                        whole[1] += number
                        release = source.partition(".")[2]  # fairchem's name of a source is TASK.RELEASE
                        sources.setdefault(release, {})[f"{task}_{name}"] = total / number
        self.metrics = {name: total / number for name, (total, number) in sums.items()}
        self.sources = sources if len(sources) > 1 else {}
        logger.info("Validation at step %d: %s", self.train_progress.num_steps_completed, self.metrics)


def names(batches: Sequence[Any]) -> list[str]:
    """Return the frame ids of micro-batches, at most :data:`MAX_NAMED`."""
    found = [str(name) for batch in batches for name in (getattr(batch, "sid", None) or [])]
    return found[:MAX_NAMED]
