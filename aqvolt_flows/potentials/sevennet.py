"""SevenNet-MF-0, modal R2SCAN (J. Chem. Theory Comput. 2025, DOI 10.1021/acs.jctc.4c01671 and its successor MF-0)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from aqvolt_flows.potentials.registry import Evaluation
from aqvolt_flows.potentials.torchsim import evaluate_batched, neighbor_list

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator


class SevenNetPotential:
    """SevenNet-MF-0 in float32.

    Parameters
    ----------
    name
        Model string, ``7net-mf-0/R2SCAN``.
    device
        torch device.
    """

    def __init__(self, name: str, device: str) -> None:
        self.name, self.device = name, device
        self._checkpoint, self._modal = name.split("/")

    @cached_property
    def _model(self) -> Any:
        from sevenn.torchsim import SevenNetModel

        return SevenNetModel(self._checkpoint, modal=self._modal, device=self.device, neighbor_list_fn=neighbor_list)

    def torchsim_model(self) -> Any:
        """Return the torch-sim model."""
        return self._model

    def calculator(self) -> Calculator:
        """Return SevenNet's own ASE calculator."""
        from sevenn.calculator import SevenNetCalculator

        with warnings.catch_warnings():
            # It recommends GPU kernels on every CPU, too.
            warnings.filterwarnings("ignore", message="No tensor product accelerator", category=UserWarning)
            return SevenNetCalculator(self._checkpoint, modal=self._modal, device=self.device)

    def evaluate(self, systems: Sequence[Atoms], max_batch_atoms: int = 2048) -> list[Evaluation]:
        """Return one evaluation per system, through torch-sim."""
        return evaluate_batched(self._model, systems, max_batch_atoms)


def load(model: str, device: str) -> SevenNetPotential:
    """Return the potential for a model string."""
    return SevenNetPotential(model, device)
