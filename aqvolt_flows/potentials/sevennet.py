"""SevenNet-MF-0, modal R2SCAN (J. Chem. Theory Comput. 2025, DOI 10.1021/acs.jctc.4c01671 and its successor MF-0)."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from aqvolt_flows.potentials.neighbors import NeighborOptions
from aqvolt_flows.potentials.torchsim import TorchSimPotential

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator


class SevenNetPotential(TorchSimPotential):
    """SevenNet-MF-0 in float32, or float64 for checks."""

    @cached_property
    def _network(self) -> Any:
        from sevenn.util import load_checkpoint

        return load_checkpoint(self.name.split("/")[0]).build_model()

    @property
    def elements(self) -> frozenset[int]:
        """Atomic numbers of the network's type map."""
        return frozenset(int(z) for z in self._network.type_map)

    def build(self, neighbors: NeighborOptions | None, max_atoms_per_call: int | None) -> Any:
        """See :class:`TorchSimPotential`."""
        from aqvolt_flows.potentials.sevennet_torchsim import SevenNetTorchSim

        modal = self.name.split("/")[1]
        device = torch.device(self.device)
        return SevenNetTorchSim(self._network, modal, device, self.dtype, neighbors, max_atoms_per_call)

    def ase_calculator(self) -> Calculator:
        """Return SevenNet's own ASE calculator."""
        from sevenn.calculator import SevenNetCalculator

        checkpoint, modal = self.name.split("/")
        with warnings.catch_warnings():
            # It recommends GPU kernels on every CPU, too.
            warnings.filterwarnings("ignore", message="No tensor product accelerator", category=UserWarning)
            return SevenNetCalculator(checkpoint, modal=modal, device=self.device)


def load(model: str, device: str, dtype: str = "float32") -> SevenNetPotential:
    """Return the potential for a model string."""
    return SevenNetPotential(model, device, dtype)
