"""SevenNet as a torch-sim model without work per system.

sevenn's own torch-sim model slices the neighbor list and makes a graph object for every system at every step,
and reads numbers back from the GPU while doing so. Here the batch stays a set of flat tensors; sevenn's layers
run as they are, but for the convolution (:mod:`aqvolt_flows.potentials.convolution`).
"""

from __future__ import annotations

from typing import Any

import sevenn._keys as key
import torch
from sevenn.nn.convolution import IrrepsConvolution
from sevenn.nn.force_output import ForceStressOutputFromEdge
from sevenn.nn.linear import AtomReduce
from sevenn.nn.node_embedding import OnehotEmbedding

from aqvolt_flows.potentials.convolution import Convolution, EdgeMatrices
from aqvolt_flows.potentials.edge_model import EdgeModel
from aqvolt_flows.potentials.fused import Adjacency, FusedConvolution, available
from aqvolt_flows.potentials.neighbors import NeighborOptions, Pairs


class SevenNetTorchSim(EdgeModel):
    """A SevenNet network on flat batches.

    Parameters
    ----------
    network
        ``AtomGraphSequential`` as sevenn builds it from a checkpoint, for one process, in its e3nn form.
    modal
        Name of the modality (level of theory) for networks with several.
    device, dtype, neighbors, max_atoms_per_call
        See :class:`EdgeModel`.
    """

    def __init__(
        self,
        network: Any,
        modal: str | None,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        neighbors: NeighborOptions | None = None,
        max_atoms_per_call: int | None = None,
    ) -> None:
        super().__init__(float(network.cutoff), device, dtype, neighbors, max_atoms_per_call)
        network.set_is_batch_data(True)
        self.network = network.to(device=device, dtype=dtype).eval().requires_grad_(False)
        self._modal = network.modal_map[modal] if network.modal_map else None
        self.register_buffer("_types", network.z_to_onehot_tensor.to(device), persistent=False)
        self.convolutions = torch.nn.ModuleDict(
            {
                name: Convolution(layer.convolution).to(device=device, dtype=dtype)
                for name, layer in network._modules.items()
                if isinstance(layer, IrrepsConvolution)
            }
        )
        self._fused = (
            {name: FusedConvolution(layer) for name, layer in self.convolutions.items()}  # type: ignore[arg-type]
            if available(device, dtype)
            else {}
        )

    @property
    def replayable(self) -> bool:
        """Whether the fused convolution runs here: the plain one would sum the pairs that fill up."""
        return bool(self._fused)

    def energies(
        self, numbers: torch.Tensor, system_idx: torch.Tensor, n_systems: int, pairs: Pairs, vectors: torch.Tensor
    ) -> torch.Tensor:
        """See :class:`EdgeModel`."""
        data: dict[str, Any] = {
            key.NODE_FEATURE: self._types[numbers],  # type: ignore[index]
            key.EDGE_IDX: torch.stack([pairs.i, pairs.j]),
            key.EDGE_VEC: vectors,
            key.BATCH: system_idx,
        }
        if self._modal is not None:
            data[key.MODAL_TYPE] = torch.full((n_systems,), self._modal, dtype=torch.long, device=vectors.device)
        matrices = None
        fused = self._fused if self.accelerated else {}
        adjacency = Adjacency.of(pairs.j, pairs.i, len(numbers)) if fused else None
        for name, layer in self.network._modules.items():
            if isinstance(layer, OnehotEmbedding):
                self._one_hot(layer, data)
            elif isinstance(layer, IrrepsConvolution):
                weights = layer.weight_nn(data[layer.key_weight_input])
                if adjacency is not None:
                    summed = fused[name](data[layer.key_x], weights, data[key.EDGE_ATTR], adjacency)
                else:
                    convolution: Convolution = self.convolutions[name]  # type: ignore[assignment]
                    matrices = matrices or EdgeMatrices(data[key.EDGE_ATTR], convolution.slices)
                    summed = convolution(data[layer.key_x], weights, matrices, pairs.j, pairs.i)
                data[layer.key_x] = summed / layer.denominator
            elif isinstance(layer, AtomReduce):
                source = data[layer.key_input].squeeze(1)
                summed = source.new_zeros(n_systems).index_add_(0, system_idx, source)
                data[layer.key_output] = summed * layer.constant
            elif not isinstance(layer, ForceStressOutputFromEdge):
                data = layer(data)
        return data[key.PRED_TOTAL_ENERGY]

    def _one_hot(self, layer: Any, data: dict[str, Any]) -> None:
        """Do what sevenn's layer does, in this model's precision (sevenn's is always float32)."""
        given = data[layer.key_x]
        embedded = torch.nn.functional.one_hot(given, layer.num_classes).to(self._dtype)
        data[layer.key_output] = embedded
        if layer.key_additional_output is not None:
            data[layer.key_additional_output] = embedded
        if layer.key_save is not None:
            data[layer.key_save] = given
