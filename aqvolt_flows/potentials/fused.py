"""The convolution of an equivariant network in one pass over the edges, for GPUs (Triton).

The matrix products of :mod:`aqvolt_flows.potentials.convolution` write every message to memory, multiply it with its
weight, join, and sum: three quarters of an evaluation on an H100 were such copies. Here a message exists in registers
only. Programs go over the edges of one atom in a fixed order and nothing is added atomically, so that the same input
gives the same bits. The gradients of features, weights and harmonics come from one pass over the edges of each
source atom.

``Convolution`` is the reference: ``tests/flows/potentials/test_fused.py`` compares the two in Triton's interpreter,
``tests/performance/exploration.py`` on a GPU.
"""

from __future__ import annotations

import linecache
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from aqvolt_flows.potentials.convolution import Convolution
from aqvolt_flows.potentials.fused_source import KernelPath, backward_source, forward_source

#: Warps of a program: the channels of a block are one vector of 32 to 128 numbers.
_WARPS = 1


def available(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether the kernels run there: on NVIDIA and AMD GPUs with Triton, in single precision."""
    if device.type != "cuda" or dtype != torch.float32:
        return False
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


@dataclass(frozen=True, eq=False)
class Adjacency:
    """Edges by the atom where they end and by the atom where they begin.

    Attributes
    ----------
    source, target
        (n_edges,), the atoms from which and to which messages go; ``target`` ascends. Edges of atoms ≥ ``n_atoms``
        fill up a list of fixed length: their messages are not summed, and their gradients are undefined.
    first_by_target, first_by_source
        (n_atoms + 1,), where the edges of an atom begin, the second in ``order``.
    order
        (n_edges,), the edges sorted by source.
    """

    source: torch.Tensor
    target: torch.Tensor
    first_by_target: torch.Tensor
    first_by_source: torch.Tensor
    order: torch.Tensor

    @classmethod
    def of(cls, source: torch.Tensor, target: torch.Tensor, n_atoms: int) -> Adjacency:
        """Return the adjacency of edges whose targets ascend."""
        atoms = torch.arange(n_atoms + 1, device=source.device)
        by_source, order = torch.sort(source, stable=True)
        return cls(
            source,
            target,
            torch.searchsorted(target, atoms),
            torch.searchsorted(by_source, atoms),
            order,
        )


@lru_cache(maxsize=64)
def _kernel(source: str) -> Any:
    """Return the compiled function of a kernel's source; Triton reads the source, which ``linecache`` holds."""
    import triton
    import triton.language as tl

    name = f"<aqvolt kernel {abs(hash(source)):x}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    space: dict[str, Any] = {"tl": tl, "__name__": "aqvolt_kernels"}
    exec(compile(source, name, "exec"), space)  # text of this package alone  # nosec B102
    return triton.jit(space["forward" if source.startswith("def forward") else "backward"])


@dataclass(frozen=True)
class _FusedBlock:
    l_in: int
    channels: int
    first_input: int
    sizes: tuple[int, ...]
    slots: tuple[int, ...]
    forward: str
    backward: str

    @property
    def width(self) -> int:
        """Channels, rounded up to a power of two."""
        return int(2 ** (self.channels - 1).bit_length())


class FusedConvolution(torch.nn.Module):
    """What :class:`~aqvolt_flows.potentials.convolution.Convolution` computes, without messages in memory.

    Parameters
    ----------
    convolution
        Whose paths, coefficients and layout are taken.
    """

    def __init__(self, convolution: Convolution) -> None:
        super().__init__()
        self.out_shapes = convolution.out_shapes
        starts = [0]
        for width in convolution.weight_widths:
            starts.append(starts[-1] + width)
        self.n_weights = starts[-1]
        self.blocks = []
        for block in convolution.blocks:
            paths = tuple(
                KernelPath(l_edge, l_out, factor, starts[number], convolution.slices[l_edge].start)
                for l_edge, l_out, factor, number, _ in block.paths
            )
            self.blocks.append(
                _FusedBlock(
                    block.l_in,
                    block.channels,
                    block.first_input,
                    tuple(2 * p.l_out + 1 for p in paths),
                    tuple(slot for *_, slot in block.paths),
                    forward_source(block.l_in, block.channels, paths),
                    backward_source(block.l_in, block.channels, paths),
                )
            )

    def forward(
        self, features: torch.Tensor, weights: torch.Tensor, harmonics: torch.Tensor, adjacency: Adjacency
    ) -> torch.Tensor:
        """Return the summed messages, (n_atoms, irreps_out.dim), in e3nn's layout.

        Parameters
        ----------
        features
            (n_atoms, irreps_in1.dim).
        weights
            (n_edges, weight_numel).
        harmonics
            (n_edges, Σ (2 l + 1)).
        adjacency
            Of the edges.
        """
        inputs = []
        for block in self.blocks:
            degrees = 2 * block.l_in + 1
            columns = features[:, block.first_input : block.first_input + block.channels * degrees]
            inputs.append(columns.view(-1, block.channels, degrees).transpose(1, 2).contiguous())
        summed = _Messages.apply(self.blocks, adjacency, weights, harmonics, *inputs)
        slots: list[torch.Tensor] = [features] * len(self.out_shapes)
        for block, found in zip(self.blocks, summed, strict=True):
            for slot, part in zip(block.slots, found.split(block.sizes, dim=1), strict=True):
                slots[slot] = part.transpose(1, 2).flatten(1)
        return torch.cat(slots, dim=1)


class _Messages(torch.autograd.Function):
    """Summed messages (n_atoms, Σ (2 l_out + 1), channels) of each block."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        blocks: list[_FusedBlock],
        adjacency: Adjacency,
        weights: torch.Tensor,
        harmonics: torch.Tensor,
        *inputs: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        weights, harmonics = weights.contiguous(), harmonics.contiguous()
        outputs = []
        for block, x in zip(blocks, inputs, strict=True):
            out = x.new_empty(len(x), sum(block.sizes), block.channels)
            _kernel(block.forward)[(len(x),)](
                x,
                weights,
                harmonics,
                adjacency.source,
                adjacency.first_by_target,
                out,
                W=weights.shape[1],
                Y=harmonics.shape[1],
                U=block.width,
                num_warps=_WARPS,
            )
            outputs.append(out)
        ctx.save_for_backward(weights, harmonics, *inputs)
        ctx.blocks, ctx.adjacency = blocks, adjacency
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        weights, harmonics, *inputs = ctx.saved_tensors
        adjacency: Adjacency = ctx.adjacency
        dw, dy = torch.empty_like(weights), torch.zeros_like(harmonics)
        of_inputs = []
        for number, (block, x, gradient) in enumerate(zip(ctx.blocks, inputs, gradients, strict=True)):
            dx = torch.empty_like(x)
            _kernel(block.backward)[(len(x),)](
                x,
                weights,
                harmonics,
                gradient.contiguous(),
                adjacency.target,
                adjacency.order,
                adjacency.first_by_source,
                dx,
                dw,
                dy,
                W=weights.shape[1],
                Y=harmonics.shape[1],
                U=block.width,
                ADD=number > 0,
                num_warps=_WARPS,
            )
            of_inputs.append(dx)
        return None, None, dw, dy, *of_inputs
