"""fairchem configurations of the two-stage eSEN training: plain values in, plain dictionaries out.

Stage ``direct`` pre-trains with a force head; stage ``conservative`` drops that head and fine-tunes
energy, forces = -dE/dx and stress = dE/dε / V (AQVolt26, section 2.3 and Table S1; eSEN: arXiv:2502.12147).
Sizes, graph, precision, learning rates and batch sizes are Table S1's and arrive as
:class:`~aqvolt_flows.schemas.parameters.TrainingParameters`; what the paper leaves open is fixed here as
constants, taken from fairchem's UMA release configurations (facebookresearch/fairchem,
``configs/uma/training_release``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.parameters import StageParameters, TrainingParameters
from aqvolt_flows.training.layout import Layout, layout_for
from aqvolt_flows.training.references import MAX_ELEMENTS, References

StageName = Literal["direct", "conservative"]
Device = Literal["cpu", "cuda"]

#: The dataset's name inside fairchem; inference through UMA's interfaces accepts only UMA's task names.
TASK_NAME = "omat"
#: Cosine schedule: starts at this fraction of the peak, ends at this fraction.
WARMUP_FACTOR, LR_MIN_FACTOR = 0.2, 0.01
#: Maximum number of steps between two checkpoints; a killed run resumes from the last one.
MAX_CHECKPOINT_INTERVAL = 1000
#: Energy head of both stages; its parameters are the same with and without gradients.
ENERGY_HEAD = "fairchem.core.models.uma.escn_md.MLP_EFS_Head"
FORCE_HEAD = "fairchem.core.models.uma.escn_md.Linear_Force_Head"

_UNIT = "fairchem.core.units.mlip_unit.mlip_unit"
_NORMALIZER = "fairchem.core.modules.normalization"


def stage_parameters(parameters: TrainingParameters, stage: str) -> StageParameters:
    """Return the parameters of stage ``direct`` or ``conservative``."""
    if stage not in ("direct", "conservative"):
        raise InputError(f"There is no training stage {stage!r}; known are direct and conservative.")
    return parameters.direct if stage == "direct" else parameters.conservative


def checkpoint_interval(stage: StageParameters) -> int:
    """Return the steps between checkpoints: a third of a short run, at most ``MAX_CHECKPOINT_INTERVAL``."""
    return min(MAX_CHECKPOINT_INTERVAL, max(1, (stage.steps or 3 * MAX_CHECKPOINT_INTERVAL) // 3))


def stage_config(
    stage: StageName,
    parameters: TrainingParameters,
    train: Path,
    val: Path,
    references: References,
    workdir: Path,
    timestamp_id: str,
    device: Device = "cpu",
    starting_checkpoint: Path | None = None,
    layout: Layout | None = None,
    mixture: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> dict[str, Any]:
    """Return the complete fairchem configuration of one stage, ready to be written as YAML.

    Parameters
    ----------
    stage
        ``direct`` or ``conservative``.
    train, val
        Folders with ``*.aselmdb`` and ``metadata.npz``.
    references
        From :mod:`~aqvolt_flows.training.references` of the training split; the same for both stages.
    workdir, timestamp_id
        fairchem writes to ``workdir/timestamp_id``, and resumes from what it finds there.
    starting_checkpoint
        The stage-1 checkpoint without its force head; stage 2 needs it, stage 1 must not have it.
    layout
        Ranks and accumulation; by default as many ranks as the stage wants, on one node.
    mixture
        From :func:`aqvolt_flows.training.mixture.selection`, read instead of ``train`` and ``val``.

    Raises
    ------
    InputError
        If the starting checkpoint is missing or too much, or the stage is unknown.
    """
    chosen = stage_parameters(parameters, stage)
    if (stage == "conservative") != (starting_checkpoint is not None):
        raise InputError(
            f"Stage {stage} was given the starting checkpoint {starting_checkpoint}; stage conservative starts from "
            "stage direct's checkpoint without its force head, and stage direct from none."
        )
    if stage == "direct":
        model = _direct_model(parameters)
    else:
        model = _conservative_model(parameters, str(starting_checkpoint))
    layout = layout or layout_for(chosen, chosen.ranks)
    job = {
        "run_dir": str(workdir),
        "run_name": f"{parameters.architecture}-{stage}",
        "timestamp_id": timestamp_id,
        "device_type": device.upper(),
        "seed": parameters.seed,
        "deterministic": device == "cpu",
        "debug": True,  # fairchem's switch for "log to no experiment tracker"
        "scheduler": {"mode": "LOCAL", "num_nodes": layout.nodes, "ranks_per_node": layout.ranks_per_node},
    }
    runner = _runner(stage, parameters, train, val, references, model, job, device)
    runner["train_eval_unit"]["accumulation"] = layout.accumulation
    if mixture is not None:
        for split, loader in (("train", "train_dataloader"), ("val", "eval_dataloader")):
            runner[loader] |= _mixed(stage, parameters, mixture[split], split)
    return {"job": job, "runner": runner}


def _runner(
    stage: StageName,
    parameters: TrainingParameters,
    train: Path,
    val: Path,
    references: References,
    model: dict[str, Any],
    job: dict[str, Any],
    device: Device,
) -> dict[str, Any]:
    chosen = stage_parameters(parameters, stage)
    interval = checkpoint_interval(chosen)
    callbacks = [
        {
            "_target_": "aqvolt_flows.training.checkpoints.CheckpointKeeper",
            "checkpoint_every_n_steps": interval,
            "max_saved_checkpoints": 2,
            "best_by": parameters.best_by,
        },
        {
            # After the checkpoint callback: its last record says that the final checkpoint is complete.
            "_target_": "aqvolt_flows.training.progress.ProgressCallback",
            "path": str(Path(job["run_dir"]) / job["timestamp_id"] / "progress.jsonl"),
            "every_n_steps": max(1, interval // 10),
        },
    ]
    return {
        "_target_": "fairchem.core.components.train.train_runner.TrainEvalRunner",
        "train_dataloader": _dataloader(stage, parameters, references, train, "train", device),
        "eval_dataloader": _dataloader(stage, parameters, references, val, "val", device),
        "train_eval_unit": _train_unit(stage, parameters, references, model),
        "max_epochs": chosen.epochs,
        "max_steps": chosen.steps,
        "evaluate_every_n_steps": interval,
        "callbacks": callbacks,
    }


def _train_unit(
    stage: StageName, parameters: TrainingParameters, references: References, model: dict[str, Any]
) -> dict[str, Any]:
    chosen = stage_parameters(parameters, stage)
    return {
        "_target_": "aqvolt_flows.training.unit.AccumulatingUnit",
        "guard": {
            "on_divergence": parameters.on_divergence,
            "max_consecutive_skips": parameters.max_consecutive_skips,
            "max_skips": parameters.max_skips,
            "max_loss_ratio": parameters.max_loss_ratio,
        },
        "job_config": "${job}",  # the one interpolation: fairchem adds its paths to the job before it resolves
        "tasks": tasks(stage, parameters, references),
        "model": model,
        "optimizer_fn": {
            "_target_": "torch.optim.AdamW",
            "_partial_": True,
            "lr": chosen.learning_rate,
            "weight_decay": parameters.weight_decay,
        },
        "cosine_lr_scheduler_fn": {
            "_target_": f"{_UNIT}._get_consine_lr_scheduler",
            "_partial_": True,
            "warmup_factor": WARMUP_FACTOR,
            "warmup_epochs": chosen.warmup_epochs,
            "lr_min_factor": LR_MIN_FACTOR,
            "epochs": chosen.epochs,
            "steps": chosen.steps,
        },
        "print_every": max(1, checkpoint_interval(chosen) // 10),
        "ema_decay": parameters.ema_decay,
        "clip_grad_norm": parameters.clip_grad_norm,
        "bf16": chosen.bf16,
    }


def _backbone(parameters: TrainingParameters) -> dict[str, Any]:
    """Return the backbone of Table S1; feed-forward and charge/spin embedding follow the UMA release."""
    return {
        "model": "fairchem.core.models.uma.escn_md.eSCNMDBackbone",
        "max_num_elements": MAX_ELEMENTS,
        "sphere_channels": parameters.sphere_channels,
        "lmax": parameters.lmax,
        "mmax": parameters.mmax,
        "num_layers": parameters.n_layers,
        "hidden_channels": parameters.hidden_channels,
        "edge_channels": parameters.hidden_channels,
        "distance_function": "gaussian",
        "num_distance_basis": parameters.n_distance_basis,
        "cutoff": parameters.cutoff_a,
        "norm_type": "rms_norm_sh",
        "act_type": "gate",
        "ff_type": "spectral",
        "chg_spin_emb_type": "rand_emb",
        "cs_emb_grad": True,
        "use_dataset_embedding": True,
        "dataset_mapping": {TASK_NAME: TASK_NAME},
        "otf_graph": True,
        "max_neighbors": parameters.direct.max_neighbors,
        "activation_checkpointing": parameters.direct.activation_checkpointing,
        "regress_forces": True,
        "direct_forces": True,
        "regress_stress": False,
    }


def backbone_sizes(parameters: TrainingParameters) -> dict[str, Any]:
    """Return what two checkpoints of one architecture have in common: by these the shapes of all weights are set."""
    names = (
        *("sphere_channels", "lmax", "mmax", "num_layers", "hidden_channels", "edge_channels"),
        *("num_distance_basis", "cutoff"),
    )
    return {name: value for name, value in _backbone(parameters).items() if name in names}


def _direct_model(parameters: TrainingParameters) -> dict[str, Any]:
    """Return stage 1's model; without pass-through, a head's name must be its task's name."""
    return {
        "_target_": "fairchem.core.models.base.HydraModel",
        "backbone": _backbone(parameters),
        "heads": {"energy": {"module": ENERGY_HEAD, "wrap_property": False}, "forces": {"module": FORCE_HEAD}},
    }


def _conservative_model(parameters: TrainingParameters, starting_checkpoint: str) -> dict[str, Any]:
    """Return stage 2's model; ``heads`` null keeps the checkpoint's energy head instead of a fresh one."""
    return {
        "_target_": f"{_UNIT}.initialize_finetuning_model",
        "checkpoint_location": starting_checkpoint,
        "overrides": {
            "backbone": {
                "direct_forces": False,
                "regress_forces": True,
                "regress_stress": True,
                "max_neighbors": parameters.conservative.max_neighbors,
                "activation_checkpointing": parameters.conservative.activation_checkpointing,
            },
            "pass_through_head_outputs": True,
        },
        "heads": None,
    }


def tasks(stage: StageName, parameters: TrainingParameters, references: References) -> list[dict[str, Any]]:
    """Return fairchem's tasks: per-atom MAE of the energy, L2 norm of forces, and stage 2's MAE of the stress."""
    chosen = stage_parameters(parameters, stage)
    scale = {"_target_": f"{_NORMALIZER}.normalizer.Normalizer", "mean": 0.0, "rmsd": references.force_rms}

    def task(name: str, level: str, shape: list[int], loss: str, weight: float, metrics: list[str]) -> dict[str, Any]:
        return {
            "_target_": f"{_UNIT}.Task",
            "name": name,
            "level": level,
            "property": name,
            "loss_fn": {
                "_target_": "fairchem.core.modules.loss.DDPMTLoss",
                "loss_fn": {"_target_": f"fairchem.core.modules.loss.{loss}"},
                "coefficient": float(weight),
            },
            "out_spec": {"dim": shape, "dtype": "float32"},
            "normalizer": dict(scale),
            "datasets": [TASK_NAME],
            "metrics": metrics,
        }

    energy = task("energy", "system", [1], "PerAtomMAELoss", chosen.energy_coefficient, ["mae", "per_atom_mae"])
    energy["element_references"] = {
        "_target_": f"{_NORMALIZER}.element_references.ElementReferences",
        "element_references": {"_target_": "torch.DoubleTensor", "_args_": [list(references.element_energies)]},
    }
    forces = task("forces", "atom", [3], "L2NormLoss", chosen.force_coefficient, ["mae", "cosine_similarity"])
    forces["loss_fn"]["reduction"] = "per_structure" if stage == "direct" else "mean"
    if stage == "direct":
        return [energy, forces]
    stress = task("stress", "system", [1, 9], "MAELoss", chosen.stress_coefficient, ["mae"])
    stress["loss_fn"]["reduction"] = "mean"
    return [energy, forces, stress]


def _reading(stage: StageName) -> dict[str, Any]:
    """Return what of each row is read, and as which dataset the model sees it."""
    return {
        "a2g_args": {"r_energy": True, "r_forces": True, "r_stress": stage == "conservative"},
        "transforms": {
            "common_transform": {"dataset_name": TASK_NAME},
            "stress_reshape_transform": {"dataset_name": TASK_NAME},
        },
    }


def _mixed(
    stage: StageName, parameters: TrainingParameters, sources: Sequence[Mapping[str, Any]], split: str
) -> dict[str, Any]:
    """Return what a data loader of several releases, or of some frames, has instead of fairchem's data set."""
    loader: dict[str, Any] = {
        "dataset": {
            "_target_": "aqvolt_flows.training.mixture.mixed_dataset",
            "sources": [dict(s) for s in sources],
            "task_name": TASK_NAME,
            **_reading(stage),
        }
    }
    if split == "train":
        loader["batch_sampler_fn"] = {
            "_target_": "aqvolt_flows.training.mixture.EpochBatchSampler",
            "_partial_": True,
            "max_atoms": stage_parameters(parameters, stage).max_atoms,
            "seed": parameters.seed,
        }
    return loader


def _dataloader(
    stage: StageName, parameters: TrainingParameters, references: References, folder: Path, split: str, device: Device
) -> dict[str, Any]:
    dataset = {"splits": {split: {"src": [str(folder)]}}, "format": "ase_db", **_reading(stage)}
    return {
        "_target_": "fairchem.core.components.common.dataloader_builder.get_dataloader",
        "dataset": {
            "_target_": "fairchem.core.datasets.mt_concat_dataset.create_concat_dataset",
            "dataset_configs": {TASK_NAME: dataset},
            "combined_dataset_config": {"sampling": {"type": "temperature", "temperature": 1.0}},
        },
        "batch_sampler_fn": {
            "_target_": "fairchem.core.datasets.samplers.max_atom_distributed_sampler.MaxAtomDistributedBatchSampler",
            "_partial_": True,
            "max_atoms": stage_parameters(parameters, stage).max_atoms,
            "shuffle": split == "train",
            "seed": parameters.seed,
        },
        "num_workers": 0 if device == "cpu" else 4,
        "collate_fn": {"_target_": f"{_UNIT}.mt_collater_adapter", "tasks": tasks(stage, parameters, references)},
    }
