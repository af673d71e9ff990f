"""CHGNet trained on MP-r2SCAN as an encoder (Deng et al., DOI 10.1038/s42256-023-00716-3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from aqvolt_flows.potentials import load_potential
from aqvolt_flows.potentials.neighbors import Pairs
from aqvolt_flows.sampling.encoders.pairs import PairEncoder
from aqvolt_flows.sampling.encoders.registry import encoder_hash

if TYPE_CHECKING:
    from aqvolt_flows.potentials.chgnet_torchsim import CHGNetTorchSim


class CHGNetEncoder(PairEncoder):
    """CHGNet r2SCAN: crystal features over the number of atoms (64), and atom features (64).

    The graph of a batch is that of :mod:`aqvolt_flows.potentials.chgnet_torchsim`, the network chgnet's own.

    Parameters
    ----------
    name
        Encoder string, ``chgnet/r2scan``.
    device
        torch device.
    """

    layer = "crystal_fea/n_atoms+atom_fea"
    d_structure = d_atom = 64
    known = frozenset(range(1, 95))  # rows of its atom embedding: H to Pu

    def __init__(self, name: str, device: str) -> None:
        self.name, self.sha256, self._device = name, encoder_hash(name), torch.device(device)
        self._model: CHGNetTorchSim = load_potential(name, device).torchsim_model()
        self.cutoff = self._model.cutoff
        self._bond_cutoff = float(self._model.network.graph_converter.bond_graph_cutoff)

    def _rows(self, pairs: Pairs, n_atoms: int, n_systems: int) -> torch.Tensor:
        """Angles: of m bonds of an atom below the bond graph's cutoff, m (m − 1) ordered pairs."""
        short = torch.linalg.vector_norm(pairs.vectors, dim=1) < self._bond_cutoff
        bonds = torch.zeros(n_atoms, dtype=torch.long, device=pairs.i.device).index_add_(0, pairs.i, short.long())
        angles = torch.zeros(n_systems, dtype=torch.long, device=pairs.i.device)
        return angles.index_add_(0, pairs.system, (bonds[pairs.i] - 1) * short)

    def _features(
        self, numbers: torch.Tensor, system_idx: torch.Tensor, n_systems: int, pairs: Pairs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        graph = self._model.batched_graph(numbers, system_idx, pairs, pairs.vectors)
        found: dict[str, Any] = self._model.network._compute(graph, return_crystal_feas=True, return_atom_feas=True)
        counts = torch.bincount(system_idx, minlength=n_systems)
        return found["crystal_fea"] / counts.unsqueeze(1), torch.cat(found["atom_fea"])
