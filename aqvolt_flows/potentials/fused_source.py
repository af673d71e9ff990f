"""The source of the kernels of :mod:`aqvolt_flows.potentials.fused`, written for one block of paths.

Clebsch–Gordan coefficients are numbers in the source, zeros are left out, and every sum over magnetic quantum numbers
is unrolled: what remains is arithmetic on vectors of channels. A block is all paths that start from one irreducible
representation of the features, see :mod:`aqvolt_flows.potentials.convolution`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from e3nn.o3 import wigner_3j

#: Coefficients below this are rounding of zeros.
_ZERO = 1e-9


@dataclass(frozen=True)
class KernelPath:
    """One path of a block.

    Attributes
    ----------
    l_edge, l_out
        Degrees of the edge and of the message.
    factor
        e3nn's normalization.
    first_weight
        Where the path's weights begin in a row of weights.
    first_harmonic
        Where the degree's harmonics begin in a row of harmonics.
    """

    l_edge: int
    l_out: int
    factor: float
    first_weight: int
    first_harmonic: int


def _terms(l_in: int, path: KernelPath) -> Iterator[tuple[int, dict[int, list[tuple[int, float]]]]]:
    """Yield (k, {a: [(b, coefficient)]}) of a path: magnetic numbers of message, feature, harmonic (a column)."""
    tensor = path.factor * wigner_3j(l_in, path.l_edge, path.l_out, dtype=torch.float64)
    for k in range(2 * path.l_out + 1):
        by_feature: dict[int, list[tuple[int, float]]] = {}
        for a, b in (tensor[:, :, k].abs() > _ZERO).nonzero().tolist():
            by_feature.setdefault(a, []).append((path.first_harmonic + b, float(tensor[a, b, k])))
        yield k, by_feature


def _scalar(terms: list[tuple[int, float]]) -> str:
    return " + ".join(f"({value!r}) * y{b}" for b, value in terms)


def _harmonics(paths: tuple[KernelPath, ...]) -> list[int]:
    return sorted({p.first_harmonic + b for p in paths for b in range(2 * p.l_edge + 1)})


def forward_source(l_in: int, channels: int, paths: tuple[KernelPath, ...]) -> str:
    """Return the kernel that sums messages: one program a target atom, over its edges in order."""
    degrees, size = 2 * l_in + 1, sum(2 * p.l_out + 1 for p in paths)
    body = [
        "def forward(x, w, y, source, first_edge, out, W: tl.constexpr, Y: tl.constexpr, U: tl.constexpr):",
        "    atom = tl.program_id(0).to(tl.int64)",
        "    u = tl.arange(0, U)",
        f"    inside = u < {channels}",
        "    first = tl.load(first_edge + atom)",
        "    last = tl.load(first_edge + atom + 1)",
    ]
    body += [f"    sum{k} = tl.zeros([U], tl.float32)" for k in range(size)]
    body += ["    for e in range(first, last):", f"        row = x + tl.load(source + e) * {degrees * channels} + u"]
    body += [f"        y{b} = tl.load(y + e * Y + {b})" for b in _harmonics(paths)]
    body += [f"        x{a} = tl.load(row + {a * channels}, mask=inside, other=0.0)" for a in range(degrees)]
    slot = 0
    for path in paths:
        body.append(f"        weight = tl.load(w + e * W + {path.first_weight} + u, mask=inside, other=0.0)")
        for _, by_feature in _terms(l_in, path):
            product = " + ".join(f"({_scalar(terms)}) * x{a}" for a, terms in by_feature.items())
            body.append(f"        sum{slot} += weight * ({product})")
            slot += 1
    body.append(f"    target = out + atom * {size * channels} + u")
    body += [f"    tl.store(target + {k * channels}, sum{k}, mask=inside)" for k in range(size)]
    return "\n".join(body) + "\n"


def backward_source(l_in: int, channels: int, paths: tuple[KernelPath, ...]) -> str:
    """Return the kernel of all gradients: one program a source atom, over the edges that leave it in order.

    ``ADD``: to the harmonics' gradient that an earlier block has written.
    """
    degrees, size = 2 * l_in + 1, sum(2 * p.l_out + 1 for p in paths)
    body = [
        "def backward(x, w, y, g, target, order, first_edge, dx, dw, dy,",
        "             W: tl.constexpr, Y: tl.constexpr, U: tl.constexpr, ADD: tl.constexpr):",
        "    atom = tl.program_id(0).to(tl.int64)",
        "    u = tl.arange(0, U)",
        f"    inside = u < {channels}",
        "    first = tl.load(first_edge + atom)",
        "    last = tl.load(first_edge + atom + 1)",
    ]
    body += [
        f"    x{a} = tl.load(x + atom * {degrees * channels} + {a * channels} + u, mask=inside, other=0.0)"
        for a in range(degrees)
    ]
    body += [f"    dx{a} = tl.zeros([U], tl.float32)" for a in range(degrees)]
    body += [
        "    for place in range(first, last):",
        "        e = tl.load(order + place)",
        f"        row = g + tl.load(target + e) * {size * channels} + u",
    ]
    for b in _harmonics(paths):
        body += [f"        y{b} = tl.load(y + e * Y + {b})", f"        dy{b} = tl.zeros([U], tl.float32)"]
    slot = 0
    for path in paths:
        body += [
            f"        weight = tl.load(w + e * W + {path.first_weight} + u, mask=inside, other=0.0)",
            "        dweight = tl.zeros([U], tl.float32)",
        ]
        for _, by_feature in _terms(l_in, path):
            body.append(f"        message = tl.load(row + {slot * channels}, mask=inside, other=0.0)")
            body.append("        weighted = weight * message")
            for a, terms in by_feature.items():
                body += [
                    f"        m = {_scalar(terms)}",
                    f"        dweight += message * (m * x{a})",
                    f"        dx{a} += m * weighted",
                    f"        both = weighted * x{a}",
                ]
                body += [f"        dy{b} += ({value!r}) * both" for b, value in terms]
            slot += 1
        body.append(f"        tl.store(dw + e * W + {path.first_weight} + u, dweight, mask=inside)")
    for b in _harmonics(paths):
        body += [
            f"        total{b} = tl.sum(dy{b}, 0)",
            "        if ADD:",
            f"            total{b} += tl.load(dy + e * Y + {b})",
            f"        tl.store(dy + e * Y + {b}, total{b})",
        ]
    body += [
        f"    tl.store(dx + atom * {degrees * channels} + {a * channels} + u, dx{a}, mask=inside)"
        for a in range(degrees)
    ]
    return "\n".join(body) + "\n"
