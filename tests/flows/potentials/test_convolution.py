"""The convolution against e3nn's tensor product, for every layer of SevenNet-MF-0 and its gradients."""

from __future__ import annotations

import pytest
import torch
from e3nn.o3 import Irreps, TensorProduct

from aqvolt_flows.potentials.convolution import Convolution, EdgeMatrices


def product(irreps_in: str, l_edge: int, l_out: int) -> TensorProduct:
    """A tensor product as SevenNet builds it: every path up to ``l_out`` with a slot of its own."""
    first, edge = Irreps(irreps_in), Irreps.spherical_harmonics(l_edge)
    slots, instructions = [], []
    for i, (mul, ir) in enumerate(first):
        for j, (_, other) in enumerate(edge):
            for out in ir * other:
                if out.l <= l_out and out.p == (-1) ** out.l:
                    instructions.append((i, j, len(slots), "uvu", True))
                    slots.append((mul, out))
    irreps, permutation, _ = Irreps(slots).sort()
    ordered = sorted(((i, j, permutation[k], m, t) for i, j, k, m, t in instructions), key=lambda x: x[2])
    return TensorProduct(first, edge, irreps, ordered, shared_weights=False, internal_weights=False)


@pytest.mark.parametrize(
    ("irreps_in", "l_edge", "l_out"),
    [("6x0e", 2, 2), ("5x0e+3x1o+2x2e", 2, 2), ("4x0e+2x1o", 3, 3), ("4x0e+2x1o", 1, 0)],
)
def test_it_is_e3nn_s_tensor_product_with_its_gradients(irreps_in, l_edge, l_out):
    torch.manual_seed(0)
    reference = product(irreps_in, l_edge, l_out).double()
    ours = Convolution(reference).double()
    n_atoms, n_edges = 5, 40
    source, target = torch.randint(0, n_atoms, (2, n_edges))
    x = torch.randn(n_atoms, reference.irreps_in1.dim, dtype=torch.float64, requires_grad=True)
    y = torch.randn(n_edges, reference.irreps_in2.dim, dtype=torch.float64, requires_grad=True)
    w = torch.randn(n_edges, reference.weight_numel, dtype=torch.float64, requires_grad=True)
    messages = reference(x[source], y, w)
    expected = torch.zeros(n_atoms, messages.shape[1], dtype=torch.float64).index_add(0, target, messages)
    found = ours(x, w, EdgeMatrices(y, ours.slices), source, target)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # e3nn keeps its coefficients in float32
    probe = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad((found * probe).sum(), (x, y, w)),
        torch.autograd.grad((expected * probe).sum(), (x, y, w)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_other_products_are_refused():
    shared = TensorProduct("2x0e", "1x0e", "2x0e", [(0, 0, 0, "uvu", True)], shared_weights=True)
    Convolution(shared)
    with pytest.raises(ValueError, match="mode uvu"):
        Convolution(TensorProduct("2x0e", "1x0e", "2x0e", [(0, 0, 0, "uvw", True)]))
    with pytest.raises(ValueError, match="one channel"):
        Convolution(TensorProduct("2x0e", "2x0e", "2x0e", [(0, 0, 0, "uuu", True)]))
