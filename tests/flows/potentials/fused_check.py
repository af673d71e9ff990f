"""Compares the fused convolution with the plain one; a program of its own, since Triton reads its mode when imported.

``TRITON_INTERPRET=1`` runs the kernels in Python on a CPU; with a GPU, ``cuda`` runs them there.
"""

from __future__ import annotations

import json
import sys

import torch
from test_convolution import product

from aqvolt_flows.potentials.convolution import Convolution, EdgeMatrices
from aqvolt_flows.potentials.fused import Adjacency, FusedConvolution

N_ATOMS, N_EDGES, FILLED_UP = 5, 23, 4
CASES = [("6x0e", 2, 2), ("5x0e+3x1o+2x2e", 2, 2), ("4x0e+2x1o", 3, 3), ("4x0e+2x1o", 1, 0)]


def compare(irreps: str, l_edge: int, l_out: int, device: str) -> dict[str, float]:
    """Return the largest differences of messages and gradients, and whether a second run gave the same bits."""
    torch.manual_seed(0)
    of_e3nn = product(irreps, l_edge, l_out)
    plain = Convolution(of_e3nn).float().to(device)
    fused = FusedConvolution(plain)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape).to(device).requires_grad_(True)

    source = torch.randint(0, N_ATOMS - 1, (N_EDGES,)).to(device)  # the last atom sends nothing
    target = torch.randint(1, N_ATOMS, (N_EDGES,)).sort().values.to(device)  # the first receives nothing
    x = random(N_ATOMS, of_e3nn.irreps_in1.dim)
    y, w = random(N_EDGES, of_e3nn.irreps_in2.dim), random(N_EDGES, of_e3nn.weight_numel)
    expected = plain(x, w, EdgeMatrices(y, plain.slices), source, target)
    beyond = torch.full((FILLED_UP,), N_ATOMS, device=device)
    adjacency = Adjacency.of(torch.cat([source, beyond]), torch.cat([target, beyond]), N_ATOMS)

    def longer(values: torch.Tensor) -> torch.Tensor:
        return torch.cat([values, values.new_full((FILLED_UP, values.shape[1]), float("nan"))])

    probe = torch.randn(expected.shape).to(device)
    reference = torch.autograd.grad((expected * probe).sum(), (x, y, w))
    runs = []
    for _ in range(2):
        found = fused(x, longer(w), longer(y), adjacency)
        runs.append([found.detach(), *torch.autograd.grad((found * probe).sum(), (x, y, w))])
    differences = {
        name: float((a - b).abs().max())
        for name, a, b in zip(("messages", "x", "y", "w"), [expected.detach(), *reference], runs[0], strict=True)
    }
    same = all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    return differences | {"same_bits": float(same)}


if __name__ == "__main__":
    print(json.dumps([compare(*case, sys.argv[1]) for case in CASES]))
