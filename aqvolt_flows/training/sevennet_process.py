"""The process of a SevenNet fine-tuning: sevenn's trainer, step by step, with checkpoints and records; imports torch.

``python -m aqvolt_flows.training.sevennet_process config.json`` in a run folder. A killed run resumes from
``state.pt``; the weights of the step with the lowest validation loss are kept.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from aqvolt_flows.aside import written_aside
from aqvolt_flows.schemas.trainings import SevenNetParameters
from aqvolt_flows.training.fine_tune import frames_of, steps_of
from aqvolt_flows.training.fine_tune_sevennet import WEIGHTS
from aqvolt_flows.training.records import Errors, Recorder, batches_of, fit_shifts
from aqvolt_flows.training.stages import PROGRESS

STATE = "state.pt"
#: Steps in a row whose loss or gradient is not finite, after which the training is given up.
MAX_SKIPPED = 10
#: Frames named in the record of a step that was left out.
MAX_NAMED = 20
#: Share of a run between two states on disk.
STATES = 10
#: sevenn keeps stresses as xx, yy, zz, xy, yz, zx with the opposite sign; ASE's order is xx, yy, zz, yz, xz, xy.
_ASE_ORDER = [0, 1, 2, 4, 5, 3]


class _NotFinite(Exception):  # noqa: N818 - it ends one step, it is no error
    """Raised inside the optimizer's step, which is then left out."""


class _Recorded:
    """A loss of sevenn that remembers its last value."""

    def __init__(self, definition: Any) -> None:
        self.definition, self.last = definition, math.nan

    def __getattr__(self, name: str) -> Any:
        return getattr(self.definition, name)

    def get_loss(self, batch: Any, model: Any = None) -> Any:
        found = self.definition.get_loss(batch, model)
        self.last = float(found.detach())
        return found


class _Run:
    """One fine-tuning in the current folder."""

    def __init__(self, given: dict[str, Any]) -> None:
        from sevenn.util import load_checkpoint

        self.given, self.p = given, SevenNetParameters(**given["parameters"])
        self.record = Recorder(PROGRESS)
        torch.manual_seed(self.p.seed)
        checkpoint = load_checkpoint(given["checkpoint"])
        self.config = checkpoint.config
        model = checkpoint.build_model()
        self._check_modality(model)
        self.frames = {name: list(frames_of(Path(given[name]))) for name in ("train", "val")}
        self._check_elements(model)
        self.graphs = {name: self._graphs(frames, float(model.cutoff)) for name, frames in self.frames.items()}
        self.sizes = {name: [len(f) for f in frames] for name, frames in self.frames.items()}
        self.batches = len(self._batches(1))
        self.steps = steps_of(self.p, self.batches)
        self.norm = math.nan
        self.trainer = self._trainer(model)

    def _check_modality(self, model: Any) -> None:
        known, named = list(model.modal_map or {}), self.given["modality"]
        if named not in known and (known or named):
            raise SystemExit(f"The start has the modalities {', '.join(known) or 'none'}, and not {named!r}; name one.")

    def _check_elements(self, model: Any) -> None:
        there = {int(z) for frames in self.frames.values() for atoms in frames for z in atoms.numbers}
        strange = sorted(there - {int(z) for z in model.type_map})
        if strange:
            names = ", ".join(chemical_symbols[z] for z in strange)
            raise SystemExit(f"The start was not trained on {names}, which the release contains; leave it out.")

    def _trainer(self, model: Any) -> Any:
        from sevenn.train.loss import get_loss_functions_from_config
        from sevenn.train.trainer import Trainer

        p = self.p
        chosen = {
            "loss": "huber",
            "loss_param": {"delta": p.huber_delta},
            "force_loss_weight": p.force_coefficient,
            "stress_loss_weight": p.stress_coefficient,
            "is_train_stress": p.stress_coefficient > 0,
        }
        losses = [(_Recorded(definition), weight) for definition, weight in get_loss_functions_from_config(chosen)]
        losses[0] = (losses[0][0], p.energy_coefficient)
        trainer = Trainer(
            model,
            losses,
            torch.optim.AdamW,
            {"lr": p.learning_rate, "weight_decay": p.weight_decay},
            torch.optim.lr_scheduler.CosineAnnealingLR,
            {"T_max": self.steps, "eta_min": 0.01 * p.learning_rate},
            device=self.given["device"],
        )
        trainer.optimizer.register_step_pre_hook(self._before_step)
        return trainer

    def _before_step(self, *_: Any) -> None:
        """Cut the gradient, and leave the step out if it is not finite."""
        self.norm = float(torch.nn.utils.clip_grad_norm_(self.trainer.model.parameters(), self.p.clip_grad_norm))
        if not math.isfinite(self.norm) or not math.isfinite(self._loss()):
            raise _NotFinite

    def _loss(self) -> float:
        return sum(weight * loss.last for loss, weight in self.trainer.loss_functions)

    def _graphs(self, frames: list[Any], cutoff: float) -> list[Any]:
        import sevenn._keys as key
        from sevenn.atom_graph_data import AtomGraphData
        from sevenn.train.dataload import atoms_to_graph

        graphs = []
        for atoms in frames:
            graph = AtomGraphData.from_numpy_dict(atoms_to_graph(atoms, cutoff, transfer_info=False, y_from_calc=True))
            if self.given["modality"] is not None:
                graph[key.DATA_MODALITY] = self.given["modality"]
            graphs.append(graph)
        return graphs

    def _batches(self, epoch: int) -> list[list[int]]:
        return batches_of(self.sizes["train"], self.p.max_atoms, self.p.seed, epoch)

    def _batch(self, name: str, indices: list[int]) -> Any:
        from torch_geometric.loader.dataloader import Collater

        return Collater([self.graphs[name][0]])([self.graphs[name][i] for i in indices])

    def fit_references(self) -> dict[str, float]:
        """Shift the energies per element to the labels' and return the shifts by symbol, eV."""
        if not self.p.fit_references:
            return {}
        every = max(1, -(-len(self.sizes["train"]) // self.p.max_reference_frames))
        numbers, residuals = [], []
        for index, (_, found) in self._predicted("train", range(0, len(self.sizes["train"]), every)):
            atoms = self.frames["train"][index]
            numbers.append(atoms.numbers)
            residuals.append(float(atoms.calc.results["energy"]) - found[0])
        shifts = fit_shifts(numbers, residuals)
        network = self.trainer.model
        values = network.rescale_atomic_energy.shift.data
        for z, shift in shifts.items():
            kind = network.type_map[z]
            if values.dim() == 2:  # one row a modality
                values[network.modal_map[self.given["modality"]], kind] += shift
            elif values.numel() == 1:
                return {}
            else:
                values[kind] += shift
        return {chemical_symbols[z]: shift for z, shift in shifts.items()}

    def evaluate(self) -> tuple[dict[str, float], float]:
        """Return errors on the validation split, and the training's loss there."""
        errors, losses = Errors(), 0.0
        for index, (loss, (energy, forces, stress)) in self._predicted("val", range(len(self.sizes["val"]))):
            losses += loss
            errors.add(energy, forces, stress, self.frames["val"][index])
        return errors.metrics(), losses / max(1, errors.n)

    def _predicted(self, name: str, chosen: Sequence[int]) -> Iterator[tuple[int, tuple[float, Any]]]:
        """Yield index, and loss with (energy in eV, forces in eV/Å, stress in eV/Å³ as ASE has it), of structures."""
        import sevenn._keys as key

        network, sizes = self.trainer.model.eval(), self.sizes[name]
        for places in batches_of([sizes[i] for i in chosen], self.p.max_atoms, 0, 0, shuffle=False):
            indices = [chosen[place] for place in places]
            output = network(self._batch(name, indices).to(self.trainer.device))
            losses = [weight * float(d.get_loss(output, network).detach()) for d, weight in self.trainer.loss_functions]
            energies = output[key.PRED_TOTAL_ENERGY].detach().cpu().double().numpy()
            forces = output[key.PRED_FORCE].detach().cpu().double().numpy()
            stresses = -output[key.PRED_STRESS].detach().cpu().double().numpy().reshape(-1, 6)[:, _ASE_ORDER]
            ends = np.cumsum([sizes[i] for i in indices])
            for place, (index, end) in enumerate(zip(indices, ends, strict=True)):
                found = float(energies[place]), forces[end - sizes[index] : end], stresses[place]
                yield index, (sum(losses), found)

    def save(self, step: int, best: tuple[float, Any], shifts: dict[str, float]) -> None:
        """Write the state to go on from, and the best weights so far."""
        with written_aside(STATE) as aside:
            torch.save(
                {
                    "step": step,
                    "best_loss": best[0],
                    "best": best[1],
                    "shifts": shifts,
                    "model": self.trainer.model.state_dict(),
                    "optimizer": self.trainer.optimizer.state_dict(),
                    "scheduler": self.trainer.scheduler.state_dict(),
                },
                aside,
            )

    def resume(self) -> tuple[int, tuple[float, Any], dict[str, float]]:
        """Return where the run stands: steps done, best loss and weights, shifts."""
        if not Path(STATE).is_file():
            metrics, _ = self.evaluate()
            self.record.write("eval", 0, metrics=metrics, sources={})
            shifts = self.fit_references()
            _, loss = self.evaluate()
            return 0, (loss, _copy(self.trainer.model)), shifts
        state = torch.load(STATE, map_location=self.trainer.device, weights_only=True)
        self.trainer.load_state_dicts(state["model"], state["optimizer"], state["scheduler"])
        return int(state["step"]), (float(state["best_loss"]), state["best"]), dict(state["shifts"])

    def run(self) -> None:
        """Train to the end and write the weights."""
        done, best, shifts = self.resume()
        n_parameters = sum(q.numel() for q in self.trainer.model.parameters())
        self.record.write(
            "start",
            done,
            n_parameters=n_parameters,
            ranks=1,
            accumulation=1,
            atoms_per_step_limit=self.p.max_atoms,
            shifts=shifts,
        )
        every, keep = max(1, self.steps // self.p.evaluations), max(1, self.steps // STATES)
        skipped = 0
        for step in range(done + 1, self.steps + 1):
            epoch, place = divmod(step - 1, self.batches)
            epochs_batches = self._batches(epoch + 1)
            indices = epochs_batches[place % len(epochs_batches)]
            skipped = 0 if self._step(step, epoch + 1, indices) else skipped + 1
            if skipped >= MAX_SKIPPED:
                raise SystemExit(
                    f"The training diverged: {skipped} steps in a row up to step {step} had a loss or gradient that is "
                    "not finite; lower learning_rate."
                )
            if step % every == 0 or step == self.steps:
                metrics, loss = self.evaluate()
                if loss < best[0]:
                    best = (loss, _copy(self.trainer.model))
                self.record.write("eval", step, metrics=metrics, sources={}, loss=loss, best=loss <= best[0])
            if step % keep == 0 or step == self.steps:
                self.save(step, best, shifts)
        self._write_weights(best[1])
        self.record.write("end", self.steps)

    def _step(self, step: int, epoch: int, indices: list[int]) -> bool:
        """Make one optimizer step and return whether it was made."""
        begun = time.perf_counter()
        batch = self._batch("train", indices)
        ready = time.perf_counter()
        trainer = self.trainer
        rate = trainer.get_lr()
        try:
            trainer.run_one_epoch([batch], is_train=True)
        except _NotFinite:
            named = [self.frames["train"][i].info["frame_id"] for i in indices[:MAX_NAMED]]
            norm = self.norm if math.isfinite(self.norm) else None
            self.record.write("skipped", step, reason="not_finite", gradient_norm=norm, frame_ids=named)
            trainer.scheduler_step()
            return False
        trainer.scheduler_step()
        took = time.perf_counter() - begun
        atoms = sum(self.sizes["train"][i] for i in indices)
        names = ("energy", "forces", "stress")
        losses = {name: loss.last for name, (loss, _) in zip(names, trainer.loss_functions, strict=False)}
        cuda = trainer.device.type == "cuda"
        self.record.write(
            "train",
            step,
            epoch=epoch,
            loss=self._loss(),
            losses=losses,
            learning_rate=rate,
            gradient_norm=self.norm,
            atoms=atoms,
            atoms_per_s=atoms / took,
            data_wait_share=(ready - begun) / took,
            memory_gib=torch.cuda.max_memory_allocated(trainer.device) / 2**30 if cuda else None,
            skipped=0,
        )
        return True

    def _write_weights(self, best: Any) -> None:
        """Write a checkpoint as sevenn does, of plain values and tensors only."""
        import sevenn

        config = _plain(self.config) | {"version": sevenn.__version__, "device": "auto"}
        with written_aside(WEIGHTS) as aside:
            torch.save(
                {"model_state_dict": best, "config": config, "epoch": self.steps // max(1, self.batches)},
                aside,
            )


def _copy(model: Any) -> dict[str, Any]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _plain(value: Any) -> Any:
    """Return a configuration without arrays and tensors: what they hold is in the weights."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return value.tolist()
    return value


def main(config_file: str) -> None:
    """Train as the configuration in the current folder says."""
    _Run(json.loads(Path(config_file).read_text())).run()


if __name__ == "__main__":
    main(sys.argv[1])
