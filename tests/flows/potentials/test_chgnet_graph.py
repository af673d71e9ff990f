"""CHGNet's graph from a list of pairs against the one of chgnet's own converter."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch_sim as ts
from ase import Atoms
from ase.build import bulk
from pymatgen.io.ase import AseAtomsAdaptor

from aqvolt_flows.potentials import load_potential
from aqvolt_flows.potentials.chgnet_torchsim import bond_graph


def rattled(formula: str, a: float, cubic: bool) -> Atoms:
    atoms = bulk(formula, "rocksalt", a=a, cubic=cubic)
    atoms.rattle(0.1, seed=4)
    return atoms


@pytest.mark.parametrize(
    "atoms",
    [rattled("LiCl", 5.1, True), rattled("LiF", 3.6, False), bulk("Li", "bcc", a=3.2), bulk("Li", "bcc", a=5.0)],
    ids=["8 atoms", "2 atoms, dense", "1 atom, bonds to its own images", "no bond below 3 Å"],
)
def test_bonds_and_angles_are_those_of_the_converter(atoms):
    """Independent: chgnet's converter; bonds by (atoms, length), angles by (center, two bond lengths, cosine)."""
    model = load_potential("chgnet/r2scan").torchsim_model()
    state = ts.io.atoms_to_state([atoms], device=torch.device("cpu"), dtype=torch.float64)
    pairs = model.pairs(state.positions, state.row_vector_cell, state.system_idx)
    ours = bond_graph(pairs, 3.0)
    vectors = pairs.vectors[ours.forward]
    directed = torch.cat([vectors, -vectors])
    theirs = model.network.graph_converter(AseAtomsAdaptor.get_structure(atoms))

    cell, fractional = theirs.lattice.detach().double(), theirs.atom_frac_coord.detach().double()
    graph = theirs.atom_graph.long()
    reference = (fractional[graph[:, 1]] + theirs.neighbor_image.double() - fractional[graph[:, 0]]) @ cell
    assert len(ours.forward) == len(theirs.undirected2directed)
    assert torch.equal(torch.bincount(ours.undirected), torch.full((len(ours.forward),), 2))

    def bonds(center, neighbor, found):
        return Counter(
            zip(center.tolist(), neighbor.tolist(), found.norm(dim=1).mul(1e3).round().tolist(), strict=True)
        )

    assert bonds(ours.center, ours.neighbor, directed) == bonds(graph[:, 0], graph[:, 1], reference)

    def angles(center, found, left, right):
        lengths = found.norm(dim=1)
        cosine = (found[left] * found[right]).sum(dim=1) / (lengths[left] * lengths[right])
        columns = (lengths[left], lengths[right], cosine)
        rows = zip(center.tolist(), *((c * 1e3 + 1e-3).round().add(0.0).tolist() for c in columns), strict=True)
        return Counter(rows)

    expected = theirs.bond_graph.long().reshape(-1, 5)
    assert len(ours.angles) == len(expected)
    if len(expected):
        left, right = ours.angles[:, 0], ours.angles[:, 1]
        assert angles(ours.center[left], directed, left, right) == angles(
            expected[:, 0], reference, expected[:, 2], expected[:, 4]
        )
