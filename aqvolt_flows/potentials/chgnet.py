"""CHGNet trained on MP-r2SCAN (Deng et al., Nat. Mach. Intell. 5, 1031 (2023), DOI 10.1038/s42256-023-00716-3)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from aqvolt_flows.potentials.neighbors import NeighborOptions
from aqvolt_flows.potentials.registry import FAMILIES
from aqvolt_flows.potentials.torchsim import TorchSimPotential

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

#: Reference energies (eV/atom) below this in size are those of elements without training data.
_NO_REFERENCE_EV = 1e-6


class CHGNetPotential(TorchSimPotential):
    """CHGNet r2SCAN in float32, or float64 for checks."""

    @cached_property
    def model(self) -> Any:
        """The loaded ``chgnet.model.CHGNet``; its checkpoint holds tensors and numbers only."""
        import chgnet
        from chgnet.model import CHGNet

        weights = Path(chgnet.__file__).parent / FAMILIES["chgnet"].known[self.name][0]
        saved = torch.load(weights, map_location="cpu", weights_only=True)["model"]
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its number of parameters
            network = CHGNet.from_dict(saved, mlp_out_bias=False, version=self.name.split("/")[1])
        return network.to(device=self.device, dtype=self.dtype).eval()

    @property
    def elements(self) -> frozenset[int]:
        """Atomic numbers with a fitted reference energy.

        MP-r2SCAN has no ytterbium, and neither it nor MPtrj has Po, At, Rn, Fr and Ra; chgnet computes with a reference
        of 0 eV for them, and the energies mean nothing.
        """
        references = self.model.composition_model.fc.weight[0].tolist()
        return frozenset(z + 1 for z, energy in enumerate(references) if abs(energy) > _NO_REFERENCE_EV)

    def build(self, neighbors: NeighborOptions | None, max_atoms_per_call: int | None) -> Any:
        """See :class:`TorchSimPotential`."""
        from aqvolt_flows.potentials.chgnet_torchsim import CHGNetTorchSim

        return CHGNetTorchSim(self.model, torch.device(self.device), self.dtype, neighbors, max_atoms_per_call)

    def ase_calculator(self) -> Calculator:
        """Return CHGNet's own ASE calculator."""
        from chgnet.model.dynamics import CHGNetCalculator

        with contextlib.redirect_stdout(io.StringIO()):
            return CHGNetCalculator(self.model, use_device=self.device)

    def graphs(self, systems: Sequence[Atoms]) -> list[Any]:
        """Return CHGNet's crystal graphs, made by its own converter."""
        from pymatgen.io.ase import AseAtomsAdaptor

        return [self.model.graph_converter(AseAtomsAdaptor.get_structure(atoms)) for atoms in systems]


def load(model: str, device: str, dtype: str = "float32") -> CHGNetPotential:
    """Return the potential for a model string."""
    return CHGNetPotential(model, device, dtype)
