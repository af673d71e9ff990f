"""The convolution of an equivariant network as a few matrix products.

A layer of NequIP's kind (Batzner et al., Nat. Commun. 13, 2453 (2022), DOI 10.1038/s41467-022-29939-5), such as
SevenNet's, sends along every edge e = (i ← j)

    m[e, u, k] = w[e, u, p] Σ_ab C_p[a, b, k] x[j, u, a] Y[e, b]

for every path p = (l_in, l_edge → l_out), with Clebsch–Gordan coefficients C, spherical harmonics Y of the edge and
weights w that depend on its length. e3nn forms the outer product of x and Y for every channel u and contracts it
path by path. Here C and Y are contracted first, once for all channels and all layers (:meth:`EdgeMatrices`), and
each l_in then needs one batched matrix product (channels × (2 l_in + 1)) · ((2 l_in + 1) × all its outputs). The
numbers are the same up to rounding (``tests/flows/potentials/test_convolution.py`` compares with e3nn).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from e3nn.o3 import wigner_3j

#: One path: l of the features, l of the edge, l of the message, and the factor e3nn normalizes with.
Path = tuple[int, int, int, float]


@dataclass(frozen=True)
class _Block:
    """The paths that start from one irreducible representation of the features.

    Attributes
    ----------
    l_in, channels, first_input
        Degree, multiplicity, and where its columns begin in the features.
    paths
        (l_edge, l_out, factor, number of the path, slot of the output).
    """

    l_in: int
    channels: int
    first_input: int
    paths: tuple[tuple[int, int, float, int, int], ...]


class EdgeMatrices:
    """Clebsch–Gordan coefficients times spherical harmonics, for all edges; made once a step, shared by layers.

    Parameters
    ----------
    harmonics
        (n_edges, Σ (2 l + 1)), spherical harmonics of the edges, l = 0, 1, …
    slices
        l → columns of ``harmonics``.
    """

    def __init__(self, harmonics: torch.Tensor, slices: dict[int, slice]) -> None:
        self._harmonics, self._slices = harmonics, slices
        self._made: dict[tuple[int, ...], torch.Tensor] = {}

    def of(self, l_in: int, pairs: tuple[tuple[int, int], ...], coefficients: torch.Tensor) -> torch.Tensor:
        """Return (n_edges, Σ (2 l_out + 1), 2 l_in + 1), paths (l_edge, l_out) one after the other.

        ``coefficients`` is (Σ (2 l_edge + 1) over distinct l_edge, Σ (2 l_out + 1) · (2 l_in + 1)).
        """
        key = (l_in, *(x for pair in pairs for x in pair))
        if key not in self._made:
            columns = sorted({l_edge for l_edge, _ in pairs})
            y = torch.cat([self._harmonics[:, self._slices[le]] for le in columns], dim=1)
            size = sum(2 * l_out + 1 for _, l_out in pairs)
            self._made[key] = (y @ coefficients).view(len(y), size, 2 * l_in + 1)
        return self._made[key]


def _coefficients(l_in: int, pairs: tuple[tuple[int, int], ...], factors: tuple[float, ...]) -> torch.Tensor:
    """Return the matrix from harmonics to :meth:`EdgeMatrices.of`, each path's normalization included."""
    degrees = sorted({l_edge for l_edge, _ in pairs})
    rows = {}
    first = 0
    for degree in degrees:
        rows[degree] = slice(first, first + 2 * degree + 1)
        first += 2 * degree + 1
    blocks = []
    for (l_edge, l_out), factor in zip(pairs, factors, strict=True):
        block = torch.zeros(first, 2 * l_out + 1, 2 * l_in + 1, dtype=torch.float64)
        block[rows[l_edge]] = factor * wigner_3j(l_in, l_edge, l_out, dtype=torch.float64).permute(1, 2, 0)
        blocks.append(block)
    return torch.cat(blocks, dim=1).reshape(first, -1)


class Convolution(torch.nn.Module):
    """Messages along edges and their sum at every atom, equal to e3nn's ``TensorProduct`` in mode ``uvu``.

    Parameters
    ----------
    product
        An e3nn ``TensorProduct`` with one channel of every degree in its second input and unshared weights.

    Raises
    ------
    ValueError
        If the product is of another kind.
    """

    def __init__(self, product: Any) -> None:
        super().__init__()
        self.blocks, self.out_shapes = _blocks(product)
        self.weight_widths = [product.irreps_in1[i.i_in1].mul for i in product.instructions]
        self.slices = {ir.l: s for (_, ir), s in zip(product.irreps_in2, product.irreps_in2.slices(), strict=True)}
        for number, block in enumerate(self.blocks):
            pairs = tuple((le, lo) for le, lo, *_ in block.paths)
            factors = tuple(factor for _, _, factor, *_ in block.paths)
            matrix = _coefficients(block.l_in, pairs, factors)
            self.register_buffer(f"coefficients_{number}", matrix, persistent=False)

    def forward(
        self,
        features: torch.Tensor,
        weights: torch.Tensor,
        matrices: EdgeMatrices,
        source: torch.Tensor,
        target: torch.Tensor,
    ) -> torch.Tensor:
        """Return the summed messages, (n_atoms, irreps_out.dim), in e3nn's layout.

        Parameters
        ----------
        features
            (n_atoms, irreps_in1.dim).
        weights
            (n_edges, weight_numel).
        matrices
            Of the same edges.
        source, target
            (n_edges,), the atoms from which and to which messages go.
        """
        slots: list[torch.Tensor] = [features] * len(self.out_shapes)
        by_path = weights.split(self.weight_widths, dim=1)  # the backward pass of a split is one concatenation
        for number, block in enumerate(self.blocks):
            degrees, sizes = 2 * block.l_in + 1, [2 * l_out + 1 for _, l_out, *_ in block.paths]
            columns = features[:, block.first_input : block.first_input + block.channels * degrees]
            x = columns.view(-1, block.channels, degrees).transpose(1, 2).contiguous().index_select(0, source)
            pairs = tuple((le, lo) for le, lo, *_ in block.paths)
            matrix = matrices.of(block.l_in, pairs, getattr(self, f"coefficients_{number}"))
            messages = torch.bmm(matrix, x).split(sizes, dim=1)  # channels last: contiguous in every product below
            weighted = [
                m * by_path[path].unsqueeze(1) for m, (_, _, _, path, _) in zip(messages, block.paths, strict=True)
            ]
            joined = torch.cat(weighted, dim=1).reshape(len(source), sum(sizes) * block.channels)
            summed = joined.new_zeros(len(features), joined.shape[1]).index_add_(0, target, joined)
            outputs = summed.view(len(features), sum(sizes), block.channels).split(sizes, dim=1)
            for found, (*_, slot) in zip(outputs, block.paths, strict=True):
                slots[slot] = found.transpose(1, 2).flatten(1)
        return torch.cat(slots, dim=1)


def _blocks(product: Any) -> tuple[list[_Block], list[tuple[int, int]]]:
    """Return the paths of an e3nn ``TensorProduct`` by input block, and (channels, l_out) of its output slots."""
    in1, in2, out = product.irreps_in1, product.irreps_in2, product.irreps_out
    if any(mul != 1 for mul, _ in in2) or len({ir.l for _, ir in in2}) != len(in2):
        raise ValueError("every degree of the edge's harmonics must occur once, with one channel")
    instructions = list(product.instructions)
    if any(i.connection_mode != "uvu" or not i.has_weight for i in instructions):
        raise ValueError("only weighted paths of mode uvu are known here")
    if sorted(i.i_out for i in instructions) != list(range(len(out))):
        raise ValueError("every path must have an output slot of its own")
    paths: dict[int, list[tuple[int, int, float, int, int]]] = {}
    for number, i in enumerate(instructions):
        found = (in2[i.i_in2].ir.l, out[i.i_out].ir.l, float(i.path_weight), number, i.i_out)
        paths.setdefault(i.i_in1, []).append(found)
    blocks = [_Block(in1[k].ir.l, in1[k].mul, in1.slices()[k].start, tuple(of_input)) for k, of_input in paths.items()]
    return blocks, [(mul, ir.l) for mul, ir in out]
