"""Parameters of the trainers beside the two-stage eSEN: fine-tuning, and training by another interpreter."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from aqvolt_flows.schemas.base import Parameters
from aqvolt_flows.schemas.parameters import Strictly


class FineTuneParameters(Parameters):
    """What every fine-tuning has."""

    start: str = Field(description="Model to start from: a model string, a model's identity, name or folder.")
    steps: PositiveInt | None = Field(default=None, description="Optimizer steps; exactly one of steps and epochs.")
    epochs: PositiveInt | None = None
    max_atoms: PositiveInt = Field(default=512, description="Atoms of a batch.")
    learning_rate: Strictly = Field(default=1e-4, description="Peak; falls as a cosine. Our choice.")
    weight_decay: float = Field(default=0.0, ge=0)
    clip_grad_norm: Strictly = Field(default=10.0, description="Norm at which gradients are cut. Our choice.")
    evaluations: PositiveInt = Field(default=10, description="How often the validation split is evaluated.")
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _one_length(self) -> FineTuneParameters:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs")
        return self


class SevenNetParameters(FineTuneParameters):
    """Fine-tuning of a SevenNet checkpoint with sevenn's own trainer.

    Losses are sevenn's: Huber of the energy per atom (eV), of force components (eV/Å) and of stress components (kbar).
    """

    start: str = "7net-mf-0/R2SCAN"
    huber_delta: Strictly = Field(default=0.01, description="SevenNet-0's (J. Chem. Theory Comput. 20, 4857, 2024).")
    energy_coefficient: Strictly = Field(default=1.0, description="As huber_delta.")
    force_coefficient: Strictly = Field(default=1.0, description="As huber_delta.")
    stress_coefficient: float = Field(default=0.01, ge=0, description="As huber_delta; the stress is in kbar.")
    fit_references: bool = Field(
        default=True,
        description="Shift the energy per element by a least-squares fit to the labels first: other codes count from "
        "other atoms.",
    )
    max_reference_frames: PositiveInt = Field(default=2000, description="Training frames that the fit looks at.")


class FairChemParameters(FineTuneParameters):
    """Fine-tuning of a conservative fairchem checkpoint (eSEN, UMA) with fairchem's own trainer."""

    max_neighbors: PositiveInt = 300
    energy_coefficient: Strictly = 20.0
    force_coefficient: Strictly = 10.0
    stress_coefficient: float = Field(default=10.0, ge=0)
    ema_decay: float = Field(default=0.9, gt=0, lt=1, description="Inference uses the averaged weights. Our choice.")
    ranks: PositiveInt = 1
    fit_references: bool = Field(default=True, description="As for SevenNet.")
    max_reference_frames: PositiveInt = 2000


class MaceParameters(Parameters):
    """Training or fine-tuning by mace-torch in an environment of its own: it pins e3nn 0.4.4."""

    python: str = Field(description="Interpreter of the environment that has mace-torch, e.g. /opt/mace/bin/python.")
    start: str | None = Field(
        default=None,
        description="Foundation model: a name that mace_run_train knows, or a path; none: from scratch.",
    )
    epochs: PositiveInt
    batch_size: PositiveInt = Field(default=8, description="Structures of a batch.")
    learning_rate: Strictly = Field(default=1e-3, description="Our choice for fine-tuning; mace's default is 0.01.")
    energy_coefficient: Strictly = 1.0
    force_coefficient: Strictly = Field(default=100.0, description="mace's default.")
    stress_coefficient: Strictly = 1.0
    dtype: Literal["float32", "float64"] = "float64"
    seed: int = Field(default=0, ge=0)
    options: dict[str, Any] = Field(
        default_factory=dict, description="Further options of mace_run_train by name, e.g. {hidden_irreps: 64x0e}."
    )

    @model_validator(mode="after")
    def _own_options(self) -> MaceParameters:
        if not PurePath(self.python).is_absolute():
            raise ValueError("python is the absolute path of an interpreter")
        taken = sorted(self.options.keys() & MACE_OWN)
        if taken:
            raise ValueError(f"options may not set {', '.join(taken)}: they are given by the release and by other keys")
        return self


#: Options of mace_run_train that follow from the release and the other keys.
MACE_OWN = frozenset(
    [
        "name",
        "work_dir",
        "train_file",
        "valid_file",
        "test_file",
        "E0s",
        "energy_key",
        "forces_key",
        "stress_key",
        "foundation_model",
        "max_num_epochs",
        "batch_size",
        "valid_batch_size",
        "lr",
        "energy_weight",
        "forces_weight",
        "stress_weight",
        "default_dtype",
        "seed",
        "device",
        "compute_stress",
        "loss",
        "restart_latest",
        "eval_interval",
        "error_table",
        "model",
        "multiheads_finetuning",
        "save_cpu",
    ]
)
