"""Base class of potentials evaluated with torch-sim."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch_sim as ts

from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials.neighbors import NeighborOptions
from aqvolt_flows.potentials.registry import Evaluation, batches, check_elements
from aqvolt_flows.units import matrix_to_voigt

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def torch_dtype(name: str) -> torch.dtype:
    """Return the torch dtype of ``float32`` or ``float64``.

    Raises
    ------
    InputError
        For any other name.
    """
    if name not in DTYPES:
        raise InputError(f"There is no precision {name!r} for potentials; choose {' or '.join(DTYPES)}.")
    return DTYPES[name]


class TorchSimPotential:
    """A potential whose energies, forces and stresses come from a torch-sim model.

    Parameters
    ----------
    name
        Model string.
    device
        torch device.
    dtype
        ``float32`` or ``float64``.
    """

    def __init__(self, name: str, device: str, dtype: str = "float32") -> None:
        self.name, self.device, self.dtype = name, device, torch_dtype(dtype)
        self._own: Any = None

    @property
    @abstractmethod
    def elements(self) -> frozenset[int]:
        """Atomic numbers that the model was trained on."""

    @abstractmethod
    def ase_calculator(self) -> Calculator:
        """Return the ASE calculator of the family's own package."""

    @abstractmethod
    def build(self, neighbors: NeighborOptions | None, max_atoms_per_call: int | None) -> Any:
        """Return a new torch-sim model on the loaded weights."""

    def torchsim_model(self, neighbors: NeighborOptions | None = None, max_atoms_per_call: int | None = None) -> Any:
        """Return a torch-sim ``ModelInterface``.

        Without arguments it is always the same object; with arguments a new one on the same weights.

        Parameters
        ----------
        neighbors
            Algorithm and skin of the neighbor list; families with a list of their own ignore it.
        max_atoms_per_call
            Evaluate in portions of at most this many atoms, to bound memory; likewise.
        """
        if neighbors is None and max_atoms_per_call is None:
            self._own = self._own or self.build(None, None)
            return self._own
        return self.build(neighbors, max_atoms_per_call)

    def calculator(self) -> Calculator:
        """Return :meth:`ase_calculator`; the name that labels and benchmarks use."""
        return self.ase_calculator()

    def evaluate(self, systems: Sequence[Atoms], max_batch_atoms: int = 2048) -> list[Evaluation]:
        """Return one evaluation per system, in order.

        Raises
        ------
        InputError
            If the model does not know an element of a system; the first such system is named.
        """
        check_elements(self, systems)
        return evaluate_batched(self.torchsim_model(), systems, max_batch_atoms)


def evaluate_batched(model: Any, systems: Sequence[Atoms], max_batch_atoms: int) -> list[Evaluation]:
    """Return energies, forces and stresses of systems through a torch-sim ``ModelInterface``.

    Parameters
    ----------
    model
        A torch-sim model that computes stress.
    systems
        Periodic systems; none may be empty.
    max_batch_atoms
        Atoms per call of the model.
    """
    results: list[Evaluation] = []
    for group in batches([len(s) for s in systems], max_batch_atoms):
        state = ts.io.atoms_to_state([systems[i] for i in group], device=model.device, dtype=model.dtype)
        out = model(state)
        energies = out["energy"].detach().to(torch.float64).cpu().numpy()
        forces = out["forces"].detach().to(torch.float64).cpu().numpy()
        stresses = matrix_to_voigt(out["stress"].detach().to(torch.float64).cpu().numpy())
        first = 0
        for local, index in enumerate(group):
            last = first + len(systems[index])
            results.append(Evaluation(float(energies[local]), forces[first:last], stresses[local]))
            first = last
    return results
