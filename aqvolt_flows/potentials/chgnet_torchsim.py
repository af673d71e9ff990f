"""CHGNet as a batched torch-sim model: its graphs are built from torch-sim's neighbor lists, in torch.

chgnet's own converter makes one Python object per bond and per structure. What it makes (chgnet 0.4.2,
``chgnet/graph/graph.py``) is this: *undirected* bonds, each with two directed ones; bond features are functions of
the undirected bond's length; the *bond graph* holds every ordered pair of different directed bonds from the same
atom that are both shorter than 3 Å, with the angle between them. All three follow from the list of pairs by index
arithmetic, for a whole batch at once (``tests/flows/potentials/test_chgnet_graph.py`` compares with the converter).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from chgnet.model.model import BatchedGraph

from aqvolt_flows.potentials.edge_model import EdgeModel
from aqvolt_flows.potentials.neighbors import NeighborOptions, Pairs


@dataclass(frozen=True, eq=False)
class BondGraph:
    """Indices of CHGNet's graph of a batch.

    Attributes
    ----------
    forward
        (n_bonds,), the pair (row of the pair list) that stands for each undirected bond.
    center, neighbor
        (2 n_bonds,), atoms of the directed bonds: the forward ones, then their reverses.
    undirected
        (2 n_bonds,), the undirected bond of each directed one.
    angles
        (n_angles, 2), directed bonds that share their center.
    """

    forward: torch.Tensor
    center: torch.Tensor
    neighbor: torch.Tensor
    undirected: torch.Tensor
    angles: torch.Tensor


def bond_graph(pairs: Pairs, cutoff: float) -> BondGraph:
    """Return the graph of a list of pairs; bonds up to ``cutoff`` (Å) form angles."""
    forward = _is_forward(pairs).nonzero().squeeze(1)
    n_bonds = len(forward)
    center = torch.cat([pairs.i[forward], pairs.j[forward]])
    neighbor = torch.cat([pairs.j[forward], pairs.i[forward]])
    undirected = torch.arange(n_bonds, device=forward.device).repeat(2)
    length = torch.linalg.vector_norm(pairs.vectors[forward], dim=1)
    short = (length[undirected] < cutoff).nonzero().squeeze(1)
    return BondGraph(forward, center, neighbor, undirected, _pairs_within_groups(short, center[short]))


def _is_forward(pairs: Pairs) -> torch.Tensor:
    """Return which of a pair's two directions stands for the bond: i < j, or the first shift above zero."""
    first = torch.zeros_like(pairs.shifts[:, 0])
    for axis in (2, 1, 0):
        component = pairs.shifts[:, axis]
        first = torch.where(component != 0, component, first)
    return (pairs.i < pairs.j) | ((pairs.i == pairs.j) & (first > 0))


def _pairs_within_groups(members: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Return all ordered pairs of different members of the same group, (n, 2)."""
    order = torch.argsort(groups, stable=True)
    members, groups = members[order], groups[order]
    _, inverse, counts = torch.unique_consecutive(groups, return_inverse=True, return_counts=True)
    starts = torch.cumsum(counts, 0) - counts
    repeats = counts[inverse]
    first = torch.arange(len(members), device=members.device).repeat_interleave(repeats)
    offsets = torch.arange(len(first), device=members.device) - (torch.cumsum(repeats, 0) - repeats)[first]
    second = starts[inverse[first]] + offsets
    different = first != second
    return torch.stack([members[first[different]], members[second[different]]], dim=1)


class CHGNetTorchSim(EdgeModel):
    """A CHGNet on flat batches.

    Parameters
    ----------
    network
        ``chgnet.model.CHGNet``.
    device, dtype, neighbors, max_atoms_per_call
        See :class:`EdgeModel`.
    """

    def __init__(
        self,
        network: Any,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        neighbors: NeighborOptions | None = None,
        max_atoms_per_call: int | None = None,
    ) -> None:
        converter = network.graph_converter
        super().__init__(float(converter.atom_graph_cutoff), device, dtype, neighbors, max_atoms_per_call)
        self.network = network.to(device=device, dtype=dtype).eval().requires_grad_(False)
        self._bond_cutoff = float(converter.bond_graph_cutoff)

    def batched_graph(
        self, numbers: torch.Tensor, system_idx: torch.Tensor, pairs: Pairs, vectors: torch.Tensor
    ) -> BatchedGraph:
        """Return chgnet's ``BatchedGraph``, differentiable in the vectors."""
        graph = bond_graph(pairs, self._bond_cutoff)
        towards_center = -vectors[graph.forward]  # chgnet's bond vectors point from the neighbor to the center
        length = torch.linalg.vector_norm(towards_center, dim=1)
        unit = towards_center / length.unsqueeze(1)
        directions = torch.cat([unit, -unit])
        expansion = self.network.bond_basis_expansion
        left, right = graph.angles[:, 0], graph.angles[:, 1]
        # index_select: the gradient of directions[left] adds up in whatever order threads come, on a CPU
        first, second = directions.index_select(0, left), directions.index_select(0, right)
        angles = graph.angles.new_zeros((len(left), 3))
        angles[:, 0], angles[:, 1], angles[:, 2] = graph.center[left], graph.undirected[left], graph.undirected[right]
        return BatchedGraph(
            atomic_numbers=numbers,
            bond_bases_ag=expansion.rbf_expansion_ag(length),
            bond_bases_bg=expansion.rbf_expansion_bg(length),
            angle_bases=self.network.angle_basis_expansion(first, second) if len(left) else left,
            batched_atom_graph=torch.stack([graph.center, graph.neighbor], dim=1),
            batched_bond_graph=angles,
            atom_owners=system_idx,
            directed2undirected=graph.undirected,
            atom_positions=[],
            strains=[],
            volumes=[],
        )

    def energies(
        self, numbers: torch.Tensor, system_idx: torch.Tensor, n_systems: int, pairs: Pairs, vectors: torch.Tensor
    ) -> torch.Tensor:
        """See :class:`EdgeModel`; chgnet gives energies per atom, and references per atom beside them."""
        graph = self.batched_graph(numbers, system_idx, pairs, vectors)
        counts = torch.bincount(system_idx, minlength=n_systems).to(self._dtype)
        energy = self.network._compute(graph)["e"]
        if self.network.is_intensive:
            energy = energy * counts
        composition = self.network.composition_model
        if composition is None:
            return energy
        references = composition.fc.weight[0, numbers - 1]
        reference = torch.zeros_like(counts).index_add_(0, system_idx, references)
        return energy + (reference if self.network.is_intensive == composition.is_intensive else reference / counts)
