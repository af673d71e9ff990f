"""torch-sim models whose energy depends on the vectors between neighbors: forces and stress from one gradient."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch_sim.models.interface import ModelInterface

from aqvolt_flows.potentials.neighbors import NeighborOptions, Pairs, VerletList
from aqvolt_flows.potentials.replay import Replay


class EdgeModel(ModelInterface):
    """Batched energies, forces and stresses of a potential E(r_ij).

    With the gradient g_e = ∂E/∂r_e of every vector r_e = r_j − r_i the force on i is Σ_{e from i} g_e − Σ_{e to i}
    g_e, and the stress is Σ_e r_e ⊗ g_e / V (eV/Å³, tension positive).

    Parameters
    ----------
    cutoff
        Å.
    device, dtype
        Where and in which precision the model computes.
    neighbors
        How pairs are found.
    max_atoms_per_call
        Systems are evaluated in portions of at most this many atoms (one system at least), which bounds memory
        however large the batch is; None: all at once.

    Attributes
    ----------
    accelerated
        Whether kernels of our own and CUDA graphs are used where the model has them; without, the plain operations
        of torch are, which are the reference.
    """

    def __init__(
        self,
        cutoff: float,
        device: torch.device,
        dtype: torch.dtype,
        neighbors: NeighborOptions | None = None,
        max_atoms_per_call: int | None = None,
    ) -> None:
        super().__init__()
        self._device, self._dtype = device, dtype
        self._compute_stress = self._compute_forces = True
        self._memory_scales_with = "n_atoms_x_density"
        self.cutoff = cutoff
        self.pairs = VerletList(cutoff, neighbors)
        self.max_atoms_per_call = max_atoms_per_call
        self.accelerated = True
        self._replay = Replay(self._differentiate, cutoff)

    @property
    def replayable(self) -> bool:
        """Whether :meth:`energies` can be recorded as a CUDA graph, see :class:`Replay`."""
        return False

    @abstractmethod
    def energies(
        self, numbers: torch.Tensor, system_idx: torch.Tensor, n_systems: int, pairs: Pairs, vectors: torch.Tensor
    ) -> torch.Tensor:
        """Return the systems' energies, (n_systems,), eV, differentiable in the vectors.

        Parameters
        ----------
        numbers, system_idx
            (n_atoms,), atomic numbers and system of each atom.
        n_systems
            Number of systems.
        pairs
            All pairs within the cutoff, in both directions.
        vectors
            (n_pairs, 3), from i to j, Å.
        """

    def forward(self, state: Any, **_kwargs: Any) -> dict[str, torch.Tensor]:
        """Return ``energy`` (n_systems,), ``forces`` (n_atoms, 3) and ``stress`` (n_systems, 3, 3) of a SimState."""
        if state.device != self._device:
            state = state.to(self._device)
        positions, cell = state.positions.to(self._dtype), state.row_vector_cell.to(self._dtype)
        system_idx, numbers = state.system_idx, state.atomic_numbers
        pairs = self.pairs(positions, cell, system_idx)
        n_systems = len(cell)
        if self.max_atoms_per_call is None or len(positions) <= self.max_atoms_per_call:
            evaluate = self._replay if self.accelerated and self.replayable else self._differentiate
            energy, gradient = evaluate(numbers, system_idx, n_systems, pairs)
        else:
            energy, gradient = self._in_portions(numbers, system_idx, n_systems, pairs)
        forces = torch.zeros_like(positions).index_add_(0, pairs.i, gradient).index_add_(0, pairs.j, -gradient)
        outer = (pairs.vectors.unsqueeze(2) * gradient.unsqueeze(1)).flatten(1)
        virial = torch.zeros_like(cell.flatten(1)).index_add_(0, pairs.system, outer).view(-1, 3, 3)
        stress = (virial + virial.transpose(1, 2)) / (2 * torch.linalg.det(cell).abs().view(-1, 1, 1))
        out = {"energy": energy, "forces": forces, "stress": stress}
        return {name: value.to(state.positions.dtype) for name, value in out.items()}

    def _differentiate(
        self, numbers: torch.Tensor, system_idx: torch.Tensor, n_systems: int, pairs: Pairs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return energies and their gradient by the pairs' vectors."""
        with torch.enable_grad():
            vectors = pairs.vectors.detach().requires_grad_(True)
            energy = self.energies(numbers, system_idx, n_systems, pairs, vectors)
            if len(vectors) == 0:  # atoms without neighbors
                return energy.detach(), vectors.detach()
            (gradient,) = torch.autograd.grad(energy.sum(), vectors)
        return energy.detach(), gradient

    def _in_portions(
        self, numbers: torch.Tensor, system_idx: torch.Tensor, n_systems: int, pairs: Pairs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        sizes = torch.bincount(system_idx, minlength=n_systems).tolist()
        pair_counts = torch.bincount(pairs.system, minlength=n_systems).tolist()
        energies, gradients = [], []
        first = atom = pair = 0
        while first < n_systems:
            last, atoms, n_pairs = first, 0, 0
            while last < n_systems and (last == first or atoms + sizes[last] <= (self.max_atoms_per_call or 0)):
                atoms, n_pairs, last = atoms + sizes[last], n_pairs + pair_counts[last], last + 1
            of_atoms, of_pairs = slice(atom, atom + atoms), slice(pair, pair + n_pairs)
            part = Pairs(
                pairs.i[of_pairs] - atom,
                pairs.j[of_pairs] - atom,
                pairs.shifts[of_pairs],
                pairs.vectors[of_pairs],
                pairs.system[of_pairs] - first,
            )
            energy, gradient = self._differentiate(numbers[of_atoms], system_idx[of_atoms] - first, last - first, part)
            energies.append(energy)
            gradients.append(gradient)
            first, atom, pair = last, atom + atoms, pair + n_pairs
        return torch.cat(energies), torch.cat(gradients)
