"""MACE checkpoints by path, through torch-sim's own model."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials.checkpoints import split_pin
from aqvolt_flows.potentials.neighbors import NeighborOptions, neighbor_list
from aqvolt_flows.potentials.torchsim import TorchSimPotential

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator


class MACEPotential(TorchSimPotential):
    """A MACE model; the file is a pickled module, so it loads with a pinned hash only."""

    def __init__(self, name: str, device: str, dtype: str = "float32") -> None:
        super().__init__(name, device, dtype)
        self._path = split_pin(name.removeprefix("mace:"))[0]

    @cached_property
    def model(self) -> Any:
        """The loaded ``mace.modules.MACE``."""
        loaded = torch.load(self._path, map_location=self.device, weights_only=False)  # its hash is known  # nosec B614
        if not hasattr(loaded, "atomic_numbers") or not hasattr(loaded, "r_max"):
            raise InputError(f"{self._path} holds a {type(loaded).__name__}; expected a MACE model.")
        return loaded

    @property
    def elements(self) -> frozenset[int]:
        """The model's own table of atomic numbers."""
        return frozenset(int(z) for z in self.model.atomic_numbers)

    def build(self, _neighbors: NeighborOptions | None, _max_atoms_per_call: int | None) -> Any:
        """See :class:`TorchSimPotential`."""
        from torch_sim.models.mace import MaceModel

        return MaceModel(
            model=self.model,
            device=torch.device(self.device),
            dtype=self.dtype,
            neighbor_list_fn=neighbor_list,
            compute_forces=True,
            compute_stress=True,
        )

    def ase_calculator(self) -> Calculator:
        """Return MACE's own ASE calculator."""
        from mace.calculators import MACECalculator

        name = "float64" if self.dtype is torch.float64 else "float32"
        return MACECalculator(models=[self.model], device=self.device, default_dtype=name)


def load(model: str, device: str, dtype: str = "float32") -> MACEPotential:
    """Return the potential for a model string."""
    return MACEPotential(model, device, dtype)
