"""Fine-tuning of a conservative fairchem checkpoint (eSEN, UMA) on a release with fairchem's own trainer.

Backbone and energy head keep their weights, and so does the scale of the targets. The element references of the
checkpoint are shifted to the labels by least squares first. fairchem's ``initialize_finetuning_model`` starts from the
last weights of the checkpoint, inference uses the averaged ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import file_sha256
from aqvolt_flows.potentials.checkpoints import parse_name
from aqvolt_flows.potentials.registry import FAMILIES, located
from aqvolt_flows.potentials.trained import string_of
from aqvolt_flows.schemas.parameters import StageParameters, TrainingParameters
from aqvolt_flows.schemas.trainings import FairChemParameters
from aqvolt_flows.trainers import Trained, TrainingTask
from aqvolt_flows.training.data import Split
from aqvolt_flows.training.esen import TASK_NAME, stage_config
from aqvolt_flows.training.fine_tune import compare_held_out, residuals_of, splits_for
from aqvolt_flows.training.records import fit_shifts, versions_of
from aqvolt_flows.training.references import MAX_ELEMENTS, References
from aqvolt_flows.training.stage_run import device_for, layout_here
from aqvolt_flows.training.stages import PROGRESS, load_checkpoint, run_stage

PARAMETERS = FairChemParameters
RUN = "fine-tune"


def architecture_of(parameters: FairChemParameters) -> str:
    """Return what documents call the network."""
    return f"{Path(parameters.start).name} fine-tuned"


def start_of(parameters: FairChemParameters) -> str:
    """Return the model string that it starts from."""
    return parameters.start


def checkpoint_of(start: str) -> tuple[Path, str | None]:
    """Return checkpoint and task of a fairchem model string of this machine.

    Raises
    ------
    InputError
        If the string is of another family.
    """
    place = located(start)
    if not FAMILIES["fairchem"].owns(place):
        raise InputError(
            f"The fairchem trainer cannot start from {start!r}; give fairchem:PATH, fairchem:PATH#TASK or an eSEN "
            "model that was trained here."
        )
    given = parse_name(place.removeprefix("fairchem:"))
    return given.path, given.channel


def references_in(checkpoint: Path, task: str) -> References:
    """Return element references and scale that a checkpoint was trained with.

    Raises
    ------
    InputError
        If it has no energy of that task, no element references, or targets on different scales.
    """
    config = _plain(load_checkpoint(checkpoint).tasks_config)
    mine = [t for t in config if task in t["datasets"]]
    energy = next((t for t in mine if t["property"] == "energy"), None)
    if energy is None:
        seen = ", ".join(sorted({d for t in config for d in t["datasets"]}))
        raise InputError(f"{checkpoint} has no energy of the task {task!r}; its tasks are {seen}.")
    scales = {round(float(t["normalizer"]["rmsd"]), 12) for t in mine if t.get("normalizer")}
    if len(scales) != 1:
        raise InputError(
            f"{checkpoint} scales energy, forces and stress of {task!r} by {sorted(scales)}; expected one number, or "
            "forces would not be the gradient of the energy."
        )
    values = [0.0] * MAX_ELEMENTS
    given = (energy.get("element_references") or {}).get("element_references") or {}
    for z, value in enumerate((given.get("_args_") or [[]])[0][:MAX_ELEMENTS]):
        values[z] = float(value)
    return References(tuple(values), scales.pop())


def shifted(references: References, shifts: Mapping[int, float]) -> References:
    """Return references with the shifts of :func:`aqvolt_flows.training.records.fit_shifts` added."""
    energies = [e + shifts.get(z, 0.0) for z, e in enumerate(references.element_energies)]
    return References(tuple(energies), references.force_rms)


def config_of(
    task: TrainingTask, checkpoint: Path, name: str, train: Split, val: Split, references: References
) -> dict[str, Any]:
    """Return fairchem's configuration of the fine-tuning; ``name`` is the task inside the checkpoint."""
    parameters = _as_training(task.parameters)
    kind, _ = device_for(parameters, "conservative", task.device)
    config = stage_config(
        "conservative",
        parameters,
        train.folder,
        val.folder,
        references,
        task.workdir,
        RUN,
        kind,
        checkpoint,
        layout_here(parameters.conservative, kind),
    )
    renamed: dict[str, Any] = _renamed(config, TASK_NAME, name)
    return renamed


def train(task: TrainingTask) -> Trained:
    """Fine-tune in ``task.workdir``; a killed run resumes from its newest checkpoint."""
    from aqvolt_flows.potentials import load_potential

    p: FairChemParameters = task.parameters
    start = task.start or p.start
    checkpoint, _ = checkpoint_of(start)
    train_split, val_split, validated_on = splits_for(task.release, p.max_atoms)
    potential: Any = load_potential(start, task.device)
    name = str(potential.task)
    references = references_in(checkpoint, name)
    if p.fit_references:
        residuals = residuals_of(train_split, start, task.device, p.max_reference_frames)
        references = shifted(references, fit_shifts(*residuals))
    config = config_of(task, checkpoint, name, train_split, val_split, references)
    environment = device_for(_as_training(p), "conservative", task.device)[1]
    result = run_stage(config, task.workdir, RUN, environment, ends_at=task.ends_at)
    trained = string_of("fairchem", result.checkpoint, name, file_sha256(result.checkpoint))
    return Trained(
        result.checkpoint,
        task.workdir / RUN / PROGRESS,
        validated_on=validated_on,
        references={chemical_symbols[z]: e for z, e in enumerate(references.element_energies) if e},
        force_rms=references.force_rms,
        held_out=compare_held_out(task.release, start, trained, task.device),
        versions=versions_of(),
    )


def _as_training(p: FairChemParameters) -> TrainingParameters:
    """Return the parameters of the conservative stage; the architecture is the checkpoint's."""
    stage = StageParameters(
        steps=p.steps,
        epochs=p.epochs,
        max_atoms=p.max_atoms,
        ranks=p.ranks,
        max_neighbors=p.max_neighbors,
        learning_rate=p.learning_rate,
        bf16=False,
        energy_coefficient=p.energy_coefficient,
        force_coefficient=p.force_coefficient,
        stress_coefficient=p.stress_coefficient,
    )
    return TrainingParameters(
        architecture="fine-tuned",
        weight_decay=p.weight_decay,
        clip_grad_norm=p.clip_grad_norm,
        ema_decay=p.ema_decay,
        seed=p.seed,
        conservative=stage,
    )


def _renamed(value: Any, old: str, new: str) -> Any:
    """Return a configuration in which every key and value that is the name ``old`` is ``new``."""
    if isinstance(value, dict):
        return {(new if k == old else k): _renamed(v, old, new) for k, v in value.items()}
    if isinstance(value, list):
        return [_renamed(v, old, new) for v in value]
    return new if isinstance(value, str) and value == old else value


def _plain(config: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
