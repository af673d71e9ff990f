"""SevenNet-MF-0, modal R2SCAN (J. Chem. Theory Comput. 2025, DOI 10.1021/acs.jctc.4c01671 and its successor MF-0).

Checkpoints that sevenn wrote load by path: ``sevennet:PATH``, ``sevennet:PATH#MODALITY`` where a network has several.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials.checkpoints import check_names, parse_name
from aqvolt_flows.potentials.neighbors import NeighborOptions
from aqvolt_flows.potentials.torchsim import TorchSimPotential

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator


SCHEME = "sevennet:"
#: What sevenn's checkpoints consist of, beyond tensors and Python's own containers: old ones keep arrays.
CONSISTS_OF = (
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
)


class SevenNetPotential(TorchSimPotential):
    """SevenNet-MF-0, or a checkpoint by path, in float32, or float64 for checks.

    Raises
    ------
    InputError
        On first use, if the file is no checkpoint of sevenn, or the modality is not one of its.
    """

    def __init__(self, name: str, device: str, dtype: str = "float32") -> None:
        super().__init__(name, device, dtype)
        if name.startswith(SCHEME):
            given = parse_name(name.removeprefix(SCHEME))
            self._checkpoint, self._modal = str(given.path), given.channel
            if given.sha256 is None:
                check_names(given.path, CONSISTS_OF, "sevennet")
        else:
            self._checkpoint, self._modal = name.split("/")

    @cached_property
    def _network(self) -> Any:
        from sevenn.util import load_checkpoint

        try:
            network = load_checkpoint(self._checkpoint).build_model()
        except (RuntimeError, KeyError, AttributeError, EOFError, OSError, TypeError, ValueError) as error:
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise InputError(
                f"{self._checkpoint} is not a checkpoint of sevenn ({why}); give the path of one."
            ) from error
        known = list(network.modal_map or {})
        if self._modal not in known and (known or self._modal):
            said = f"write sevennet:PATH#{known[0]}" if known else "leave the modality out"
            raise InputError(
                f"{self._checkpoint} has the modalities {', '.join(known) or 'none'} and {self._modal or 'none'} was "
                f"named; {said}."
            )
        return network

    @property
    def elements(self) -> frozenset[int]:
        """Atomic numbers of the network's type map."""
        return frozenset(int(z) for z in self._network.type_map)

    def build(self, neighbors: NeighborOptions | None, max_atoms_per_call: int | None) -> Any:
        """See :class:`TorchSimPotential`."""
        from aqvolt_flows.potentials.sevennet_torchsim import SevenNetTorchSim

        device = torch.device(self.device)
        return SevenNetTorchSim(self._network, self._modal, device, self.dtype, neighbors, max_atoms_per_call)

    def ase_calculator(self) -> Calculator:
        """Return SevenNet's own ASE calculator."""
        from sevenn.calculator import SevenNetCalculator

        with warnings.catch_warnings():
            # It recommends GPU kernels on every CPU, too.
            warnings.filterwarnings("ignore", message="No tensor product accelerator", category=UserWarning)
            return SevenNetCalculator(self._checkpoint, modal=self._modal, device=self.device)


def load(model: str, device: str, dtype: str = "float32") -> SevenNetPotential:
    """Return the potential for a model string."""
    return SevenNetPotential(model, device, dtype)
