"""torch-sim's side of models that people bring: a calculator as a batched model, a batched model as a potential."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch_sim.models.interface import ModelInterface

from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials.neighbors import NeighborOptions
from aqvolt_flows.potentials.registry import Evaluation
from aqvolt_flows.potentials.torchsim import TorchSimPotential
from aqvolt_flows.units import voigt_to_matrix

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from aqvolt_flows.potentials.registry import Potential

logger = logging.getLogger(__name__)


class CalculatorModel(ModelInterface):
    """A torch-sim model that evaluates its systems one by one with an ASE calculator, on the CPU in double precision.

    Parameters
    ----------
    potential
        Holds the calculator.
    """

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self._device, self._dtype = torch.device("cpu"), torch.float64
        self._compute_stress = self._compute_forces = True
        self._memory_scales_with = "n_atoms"
        self._potential = potential

    def forward(self, state: Any, **_kwargs: Any) -> dict[str, torch.Tensor]:
        """Return ``energy`` (n_systems,), ``forces`` (n_atoms, 3) and ``stress`` (n_systems, 3, 3) of a SimState."""
        from torch_sim.io import state_to_atoms

        found = [self._evaluated(atoms) for atoms in state_to_atoms(state)]
        stress = np.stack([voigt_to_matrix(f.stress) for f in found])
        return {
            "energy": torch.tensor([f.energy for f in found], dtype=self._dtype),
            "forces": torch.as_tensor(np.concatenate([f.forces for f in found]), dtype=self._dtype),
            "stress": torch.as_tensor(stress, dtype=self._dtype),
        }

    def _evaluated(self, atoms: Atoms) -> Evaluation:
        """Return the calculator's results, NaN where it raises: that ends this system's run and not the others'."""
        try:
            return self._potential.evaluate([atoms])[0]
        except Exception as error:  # noqa: BLE001 - a foreign calculator may raise anything; the run's guard says not_finite
            logger.warning("%s: %s: %s", self._potential.name, type(error).__name__, error)
            return Evaluation(float("nan"), np.full((len(atoms), 3), np.nan), np.full(6, np.nan))


class ModelPotential(TorchSimPotential):
    """A potential on somebody's torch-sim model.

    Parameters
    ----------
    model
        Computes energy, forces and stress.

    Raises
    ------
    InputError
        If it computes no stress.
    """

    says_elements = False

    def __init__(self, model: ModelInterface) -> None:
        super().__init__(f"torch-sim:{type(model).__name__}", str(model.device))
        if not model.compute_stress:
            raise InputError(f"The torch-sim model {type(model).__name__} computes no stress; set compute_stress=True.")
        self.dtype, self._model = model.dtype, model

    @property
    def elements(self) -> frozenset[int]:
        """All: a torch-sim model does not say which elements it knows."""
        return frozenset(range(1, 119))

    def build(self, _neighbors: NeighborOptions | None, _max_atoms_per_call: int | None) -> Any:
        """Return the model as it was given."""
        return self._model

    def ase_calculator(self) -> Calculator:
        """Raise: a torch-sim model has no ASE calculator of its own."""
        raise InputError(f"{self.name} is a torch-sim model and has no ASE calculator; evaluate through torch-sim.")
