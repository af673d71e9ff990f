"""M3GNet through matgl as an encoder, the paper's choice (Chen and Ong, DOI 10.1038/s43588-022-00349-3).

A potential's energy must have its minimum where rock-salt LiCl has it; see also
:mod:`aqvolt_flows.sampling.encoders.m3gnet_checkpoint`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.build import bulk

from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials.neighbors import Pairs
from aqvolt_flows.potentials.physics import LICL_A, lithium_chloride
from aqvolt_flows.sampling.encoders.flat import FlatFrames
from aqvolt_flows.sampling.encoders.m3gnet_checkpoint import checkpoint_folder, layers_of
from aqvolt_flows.sampling.encoders.pairs import PairEncoder
from aqvolt_flows.sampling.encoders.registry import encoder_hash

if TYPE_CHECKING:
    from ase import Atoms


class M3GNetEncoder(PairEncoder):
    """M3GNet: the readout vector or a pooled graph layer, and the node features of a layer.

    Parameters
    ----------
    name
        Encoder string, ``m3gnet:PATH`` or ``m3gnet:NAME``; layers may follow, as in ``m3gnet:PATH#readout+gc_1``.
    device
        torch device.
    gate
        For a potential, refuse it unless it passes :func:`aqvolt_flows.potentials.physics.lithium_chloride`. Models
        of one property, such as the formation energy, saw relaxed structures only and are not asked.

    Raises
    ------
    InputError
        If the checkpoint cannot be loaded, has no such layer, or does not pass the gate.
    """

    def __init__(self, name: str, device: str, gate: bool = True) -> None:
        import matgl
        from ase.data import atomic_numbers

        folder = checkpoint_folder(name)
        self.name, self.sha256, self._device = name, encoder_hash(name), torch.device(device)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # an incompatible version is one
                loaded = matgl.load_model(str(folder))
        except (RuntimeError, ValueError, UserWarning) as error:
            why = " ".join(str(error.__cause__ or error).split())[:200]
            raise InputError(f"{folder} cannot be loaded by matgl ({why}); give another model.") from None
        is_potential = hasattr(loaded, "model")
        self._net: Any = (loaded.model if is_potential else loaded).to(device).eval()
        self.cutoff, self._layers = float(self._net.cutoff), layers_of(name)
        self.layer = str(self._layers)
        numbers = [atomic_numbers[e] for e in self._net.element_types]
        self.known = frozenset(numbers)
        self._types = torch.zeros(max(numbers) + 1, dtype=torch.long, device=self._device)
        self._types[torch.tensor(numbers, device=self._device)] = torch.arange(len(numbers), device=self._device)
        self.d_structure = self.d_atom = 0  # until the first frame says
        first = self._run(FlatFrames.of([bulk("LiCl", "rocksalt", a=LICL_A)]))
        self.d_structure, self.d_atom = first.structures.shape[1], first.atoms.shape[1]
        if gate and is_potential and not self._net.is_intensive:
            self._check_licl()

    def _energies(self, numbers: torch.Tensor, system_idx: torch.Tensor, n_systems: int, pairs: Pairs) -> torch.Tensor:
        """Run the model on a batch; its layers are then in ``feature_dict``."""
        from matgl.graph._compute import compute_pair_vector_and_distance, create_line_graph_torch

        graph = SimpleNamespace(
            node_type=self._types[numbers],
            pos=torch.zeros((len(numbers), 3), device=self._device),  # places enter through the vectors alone
            edge_index=torch.stack([pairs.i, pairs.j]),
            pbc_offshift=pairs.vectors,
            batch=system_idx,
            num_graphs=n_systems,
        )
        vectors, lengths = compute_pair_vector_and_distance(graph.pos, graph.edge_index, graph.pbc_offshift)
        # the network's own call would go through the atoms one by one in Python
        triples = create_line_graph_torch(graph.edge_index, lengths, vectors, len(numbers), self._net.threebody_cutoff)
        state = torch.zeros(n_systems, 2, dtype=torch.float32, device=self._device)
        energies: torch.Tensor = self._net(g=graph, state_attr=state, l_g=triples)
        return energies

    def _features(
        self, numbers: torch.Tensor, system_idx: torch.Tensor, n_systems: int, pairs: Pairs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self._energies(numbers, system_idx, n_systems, pairs)
        layers = self._net.feature_dict
        atoms = layers[self._layers.atom]["node_feat"]
        if self._layers.structure == "readout":
            return layers["readout"].reshape(n_systems, -1), atoms
        pooled = layers[self._layers.structure]["node_feat"]
        sums = torch.zeros(n_systems, pooled.shape[1], dtype=pooled.dtype, device=pooled.device)
        counts = torch.bincount(system_idx, minlength=n_systems)
        return sums.index_add_(0, system_idx, pooled) / counts.unsqueeze(1), atoms

    @torch.no_grad()
    def _check_licl(self) -> None:
        def energies(cells: Sequence[Atoms]) -> Any:
            flat = FlatFrames.of(cells)
            owners = torch.as_tensor(np.repeat(np.arange(len(flat)), flat.n_atoms)).to(self._device)
            numbers = torch.as_tensor(flat.numbers).to(self._device)
            return self._energies(numbers, owners, len(flat), self._pairs(flat, owners)).cpu().numpy()

        # element references and the mean shift every energy alike; only the scale's sign matters, and it is positive
        found = lithium_chloride(energies)
        if not found.plausible:
            raise InputError(
                f"With the potential of {self.name} {found.sentence}: it was loaded wrongly or never trained; take "
                "the model's current release."
            )
