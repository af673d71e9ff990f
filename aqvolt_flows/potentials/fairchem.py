"""Checkpoints trained with fairchem-core (eSEN and its relatives), by path."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials.registry import Evaluation
from aqvolt_flows.potentials.torchsim import evaluate_batched

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

#: The UMA task name that our training gives to its dataset.
TASK_NAME = "omat"


class FairChemPotential:
    """A conservative fairchem checkpoint in float32.

    Parameters
    ----------
    name
        Model string, ``fairchem:PATH``.
    device
        torch device.
    """

    def __init__(self, name: str, device: str) -> None:
        self.name, self.device = name, device
        self._path = name.removeprefix("fairchem:")

    @cached_property
    def _model(self) -> Any:
        import torch
        from torch_sim.models.fairchem import FairChemModel

        try:
            return FairChemModel(
                model=self._path, device=torch.device(self.device), dtype=torch.float32, compute_stress=True,
                task_name=TASK_NAME,
            )
        except (RuntimeError, KeyError, AttributeError, EOFError, OSError) as error:
            raise InputError(
                f"{self._path} is not an inference checkpoint with energy, forces and stress "
                f"({type(error).__name__}: {error}); give the inference_ckpt.pt of a conservative stage."
            ) from error

    def torchsim_model(self) -> Any:
        """Return the torch-sim model."""
        return self._model

    def calculator(self) -> Calculator:
        """Return fairchem's ASE calculator."""
        from fairchem.core import FAIRChemCalculator
        from fairchem.core.units.mlip_unit import load_predict_unit

        unit = load_predict_unit(self._path, inference_settings="batch", device=self.device)
        return FAIRChemCalculator(unit, task_name=TASK_NAME)

    def evaluate(self, systems: Sequence[Atoms], max_batch_atoms: int = 2048) -> list[Evaluation]:
        """Return one evaluation per system, through torch-sim."""
        return evaluate_batched(self._model, systems, max_batch_atoms)


def load(model: str, device: str) -> FairChemPotential:
    """Return the potential for a model string."""
    return FairChemPotential(model, device)
