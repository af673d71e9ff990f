"""Checkpoints trained with fairchem-core (eSEN and its relatives), by path."""

from __future__ import annotations

import pickle
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
NEEDED = {"energy", "forces", "stress"}


class FairChemPotential:
    """A conservative fairchem checkpoint in float32.

    Parameters
    ----------
    name
        Model string, ``fairchem:PATH``.
    device
        torch device.

    Raises
    ------
    InputError
        On first use, if the file is no inference checkpoint, or one without energy, forces and stress.
    """

    def __init__(self, name: str, device: str) -> None:
        self.name, self.device = name, device
        self._path = name.removeprefix("fairchem:")

    @cached_property
    def _model(self) -> Any:
        import torch
        from torch_sim.models.fairchem import FairChemModel

        try:
            model = FairChemModel(
                model=self._path,
                device=torch.device(self.device),
                dtype=torch.float32,
                compute_stress=True,
                task_name=TASK_NAME,
            )
        # what torch.load and hydra raise on files that are none, are cut short, or hold something else
        except (
            RuntimeError,
            KeyError,
            AttributeError,
            EOFError,
            OSError,
            TypeError,
            ValueError,
            pickle.UnpicklingError,
        ) as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise InputError(
                f"{self._path} is not an inference checkpoint ({why}); give a conservative stage's inference_ckpt.pt."
            ) from error
        properties = {task.property for task in model.predictor.dataset_to_tasks.get(TASK_NAME, [])}
        if not properties >= NEEDED:
            seen = ", ".join(sorted(properties)) or "nothing"
            raise InputError(
                f"{self._path} predicts {seen}; expected energy, forces and stress: give a conservative stage's "
                "inference_ckpt.pt."
            )
        return model

    def torchsim_model(self) -> Any:
        """Return the torch-sim model."""
        return self._model

    def calculator(self) -> Calculator:
        """Return fairchem's ASE calculator, on the weights that are loaded already."""
        from fairchem.core import FAIRChemCalculator

        return FAIRChemCalculator(self._model.predictor, task_name=TASK_NAME)

    def evaluate(self, systems: Sequence[Atoms], max_batch_atoms: int = 2048) -> list[Evaluation]:
        """Return one evaluation per system, through torch-sim."""
        return evaluate_batched(self._model, systems, max_batch_atoms)


def load(model: str, device: str) -> FairChemPotential:
    """Return the potential for a model string."""
    return FairChemPotential(model, device)
