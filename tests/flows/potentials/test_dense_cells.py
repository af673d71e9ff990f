"""Cells so dense that torch-sim's default neighbor list gives up."""

from __future__ import annotations

import pytest
import torch
import torch_sim as ts
from ase import Atoms
from ase.build import bulk

from aqvolt_flows.potentials import load_potential
from aqvolt_flows.potentials.neighbors import NeighborOverflowError, neighbor_list

SEVENNET = "7net-mf-0/R2SCAN"


def dense() -> Atoms:
    """Rock-salt LiF with all lattice parameters 20 % too short: 122 neighbors within 5 Å."""
    atoms = bulk("LiF", "rocksalt", a=4.02 * 0.8, cubic=True)
    atoms.rattle(0.05, seed=1)
    return atoms


def test_the_default_list_overflows_and_ours_does_not() -> None:
    atoms = dense()
    state = ts.io.atoms_to_state([atoms], device=torch.device("cpu"), dtype=torch.float64)
    arguments = (state.positions, state.row_vector_cell, state.pbc, torch.tensor(5.0), state.system_idx)
    with pytest.raises(NeighborOverflowError):
        ts.neighbors.torchsim_nl(*arguments)
    mapping, _, _ = neighbor_list(*arguments)
    # Counted by ASE, independently.
    from ase.neighborlist import neighbor_list as count

    assert mapping.shape[1] == len(count("i", atoms, 5.0))


# SevenNet advises accelerators that need a GPU
@pytest.mark.filterwarnings("ignore:No tensor product accelerator is enabled:UserWarning")
def test_a_dense_cell_agrees_with_the_family_s_own_calculator() -> None:
    sparse = bulk("LiCl", "rocksalt", a=5.10)
    potential = load_potential(SEVENNET)
    found = potential.evaluate([sparse, dense()])[1]
    reference = dense()
    reference.calc = potential.calculator()
    assert found.energy == pytest.approx(reference.get_potential_energy(), abs=1e-3)
    assert found.forces == pytest.approx(reference.get_forces(), abs=1e-3)
