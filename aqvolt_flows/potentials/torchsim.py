"""Evaluation through a torch-sim model, shared by the families that have one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch_sim as ts
from torch_sim.neighbors import torch_nl_linked_cell, torchsim_nl

from aqvolt_flows.potentials.registry import Evaluation, batches
from aqvolt_flows.units import matrix_to_voigt

if TYPE_CHECKING:
    from ase import Atoms

try:
    from nvalchemiops.neighbors.neighbor_utils import NeighborOverflowError
except ImportError:  # torch-sim then uses a list without a limit, and this is never raised

    class NeighborOverflowError(Exception):  # type: ignore[no-redef]
        """Stands in for the error of a package that is not installed."""


def neighbor_list(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return torch-sim's neighbour list, of any density.

    torch-sim 0.6's default guesses from the cutoff how many neighbours an atom can have (112 within 5 Å) and
    raises above. Strongly compressed solids have more: rock-salt LiF at −20 % has 122. Those go through
    torch-sim's slower list, which has no limit.
    """
    try:
        return torchsim_nl(*args, **kwargs)
    except NeighborOverflowError:
        return torch_nl_linked_cell(*args, **kwargs)


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
