"""matgl potentials (M3GNet, TensorNet …) by folder; matgl loads weights only.

matgl only warns when a checkpoint was written for an older version of a class: the numbers are then wrong
(matgl 4.1.2 with checkpoints of 2025.1 and before). Such a checkpoint loads here only if its LiCl has a minimum where
it should (:func:`aqvolt_flows.potentials.check_physics`).
"""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials.checkpoints import split_pin
from aqvolt_flows.potentials.edge_model import EdgeModel
from aqvolt_flows.potentials.neighbors import NeighborOptions, Pairs
from aqvolt_flows.potentials.torchsim import TorchSimPotential

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

_VERSION_WARNING = "Incompatible model version"


class MatglPotential(TorchSimPotential):
    """A matgl ``Potential``.

    Raises
    ------
    InputError
        On first use, if the folder holds no ``Potential``, or an outdated one that fails the check of its physics.
    """

    def __init__(self, name: str, device: str, dtype: str = "float32") -> None:
        super().__init__(name, device, dtype)
        self._folder = split_pin(name.removeprefix("matgl:"))[0]
        self._outdated = False

    @cached_property
    def model(self) -> Any:
        """The loaded ``matgl.apps.pes.Potential``."""
        import matgl
        from matgl.apps.pes import Potential

        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                loaded = matgl.load_model(self._folder)
        except (RuntimeError, ValueError, OSError) as error:
            cause = error.__cause__ or error
            raise InputError(
                f"{self._folder} cannot be loaded by the installed matgl ({' '.join(str(cause).split())[:200]}); give "
                "a folder that this version wrote."
            ) from None
        if not isinstance(loaded, Potential):
            raise InputError(
                f"{self._folder} holds a {type(loaded).__name__}, which predicts no forces; give the folder of a "
                "Potential."
            )
        self._outdated = any(_VERSION_WARNING in str(w.message) for w in said)
        loaded = loaded.to(device=self.device, dtype=self.dtype).eval().requires_grad_(False)
        if self._outdated:
            self._check_outdated(loaded)
        return loaded

    def _check_outdated(self, loaded: Any) -> None:
        from aqvolt_flows.potentials.physics import lithium_chloride
        from aqvolt_flows.potentials.torchsim import evaluate_batched

        model = MatglTorchSim(loaded, torch.device(self.device), self.dtype)
        found = lithium_chloride(lambda cells: np.array([r.energy for r in evaluate_batched(model, cells, 2048)]))
        if not found.plausible:
            raise InputError(
                f"{self._folder} was written for an older matgl, and with the installed one {found.sentence}; "
                "install the matgl that wrote it, or convert it with that version."
            )

    @property
    def elements(self) -> frozenset[int]:
        """Atomic numbers of the model's ``element_types``."""
        from ase.data import atomic_numbers

        return frozenset(atomic_numbers[symbol] for symbol in self.model.model.element_types)

    def build(self, neighbors: NeighborOptions | None, max_atoms_per_call: int | None) -> Any:
        """See :class:`TorchSimPotential`."""
        return MatglTorchSim(self.model, torch.device(self.device), self.dtype, neighbors, max_atoms_per_call)

    def ase_calculator(self) -> Calculator:
        """Return matgl's own ASE calculator, its stress in eV/Å³."""
        with warnings.catch_warnings():
            # matgl 4.1 imports nvalchemiops by names that version 0.5 has deprecated
            warnings.simplefilter("ignore", DeprecationWarning)
            from matgl.ext.ase import PESCalculator

        return PESCalculator(self.model, stress_unit="eV/A3", use_voigt=True)


class MatglTorchSim(EdgeModel):
    """A matgl potential on flat batches.

    Parameters
    ----------
    potential
        ``matgl.apps.pes.Potential`` without charges and state attributes.
    device, dtype, neighbors, max_atoms_per_call
        See :class:`EdgeModel`.
    """

    def __init__(
        self,
        potential: Any,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        neighbors: NeighborOptions | None = None,
        max_atoms_per_call: int | None = None,
    ) -> None:
        from ase.data import atomic_numbers

        super().__init__(float(potential.model.cutoff), device, dtype, neighbors, max_atoms_per_call)
        self.potential = potential
        types = torch.full((120,), -1, dtype=torch.long)
        for index, symbol in enumerate(potential.model.element_types):
            types[atomic_numbers[symbol]] = index
        self.register_buffer("_types", types.to(device), persistent=False)

    def energies(
        self, numbers: torch.Tensor, system_idx: torch.Tensor, n_systems: int, pairs: Pairs, vectors: torch.Tensor
    ) -> torch.Tensor:
        """See :class:`EdgeModel`; with all positions at zero matgl's bond vectors are the offsets that it is given."""
        from torch_geometric.data import Batch

        counts = torch.bincount(system_idx, minlength=n_systems)
        graph = Batch(
            num_nodes=len(numbers),
            edge_index=torch.stack([pairs.i, pairs.j]),
            node_type=self._types[numbers],  # type: ignore[index]
            pos=torch.zeros((len(numbers), 3), dtype=self._dtype, device=self._device),
            pbc_offset=pairs.shifts,
            pbc_offshift=vectors,
            batch=system_idx,
            ptr=torch.cat([counts.new_zeros(1), torch.cumsum(counts, 0)]),
        )
        graph._num_graphs = n_systems
        potential = self.potential
        state = torch.zeros((n_systems, 2), dtype=self._dtype, device=self._device)
        energy = potential.model(g=graph, state_attr=state, l_g=None).reshape(-1)
        energy = potential.data_std * energy + potential.data_mean
        if potential.calc_repuls:
            energy = energy + potential.repuls(potential.model.element_types, graph).reshape(-1)
        if potential.element_refs is not None:
            energy = energy + potential.element_refs(graph).reshape(-1)
        return energy


def load(model: str, device: str, dtype: str = "float32") -> MatglPotential:
    """Return the potential for a model string."""
    return MatglPotential(model, device, dtype)
