"""One evaluation recorded as a CUDA graph and replayed, while the batch keeps its composition.

A small batch does not keep a GPU busy: launching a few thousand kernels from Python takes longer than running them
(57 ms against a few for 32 atoms on an H100). A graph launches them at once, but its tensors have fixed sizes and
addresses. Pairs come and go at every step, so the list is filled up with pairs of an atom that does not exist, which
the fused convolution does not sum (:class:`aqvolt_flows.potentials.fused.Adjacency`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from aqvolt_flows.potentials.neighbors import Pairs

#: Calls with one composition before it is recorded: recording costs about three evaluations.
WARM_CALLS = 5
#: Calls after which it is tried again where memory was too small to record.
CALLS_TO_RETRY = 1000
#: Room for more pairs than there are when recording, as a factor; above, it is recorded again.
_SPARE = 1.06
_ROUND = 256

logger = logging.getLogger(__name__)

#: Energies (n_systems,) and gradient by the vectors (n_pairs, 3) of numbers, system indices, system count and pairs.
Compute = Callable[[torch.Tensor, torch.Tensor, int, Pairs], tuple[torch.Tensor, torch.Tensor]]


@dataclass(eq=False)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    numbers: torch.Tensor
    system_idx: torch.Tensor
    pairs: Pairs
    energy: torch.Tensor
    gradient: torch.Tensor


class Replay:
    """Evaluates by replaying, once a composition has been seen often enough.

    Parameters
    ----------
    compute
        What is recorded; it must not wait for the GPU, and pairs of atom ``n_atoms`` must not change its energies.
    cutoff
        Å, the length of the pairs that fill up.
    """

    def __init__(self, compute: Compute, cutoff: float) -> None:
        self._compute, self._cutoff = compute, cutoff
        self._recorded: _Recorded | None = None
        self._sizes: tuple[int, int] | None = None
        self._seen = 0
        self._usable = True

    def __call__(
        self, numbers: torch.Tensor, system_idx: torch.Tensor, n_systems: int, pairs: Pairs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return energies (n_systems,) and the gradient by the pairs' vectors (n_pairs, 3)."""
        sizes = len(numbers), n_systems
        if sizes != self._sizes:
            self._sizes, self._seen, self._recorded = sizes, 0, None
        self._seen += 1
        if self._usable and self._seen > WARM_CALLS and len(pairs.i):
            if self._recorded is None or len(pairs.i) > len(self._recorded.pairs.i):
                self._record(numbers, system_idx, n_systems, pairs)
            if self._recorded is not None:
                return self._replayed(self._recorded, numbers, system_idx, pairs)
        return self._compute(numbers, system_idx, n_systems, pairs)

    def _replayed(
        self, held: _Recorded, numbers: torch.Tensor, system_idx: torch.Tensor, pairs: Pairs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        held.numbers.copy_(numbers)
        held.system_idx.copy_(system_idx)
        self._fill(held.pairs, pairs, len(numbers))
        held.graph.replay()
        return held.energy.clone(), held.gradient[: len(pairs.i)].clone()

    def _fill(self, held: Pairs, pairs: Pairs, n_atoms: int) -> None:
        n = len(pairs.i)
        for name in ("i", "j"):
            getattr(held, name)[:n].copy_(getattr(pairs, name))
            getattr(held, name)[n:].fill_(n_atoms)
        held.vectors[:n].copy_(pairs.vectors)
        held.vectors[n:].fill_(self._cutoff / 3**0.5)

    def _record(self, numbers: torch.Tensor, system_idx: torch.Tensor, n_systems: int, pairs: Pairs) -> None:
        self._recorded = None  # its memory is needed
        capacity = -(-int(len(pairs.i) * _SPARE) // _ROUND) * _ROUND
        empty = pairs.shifts[:0]
        held = Pairs(
            pairs.i.new_empty(capacity),
            pairs.j.new_empty(capacity),
            empty,
            pairs.vectors.new_empty(capacity, 3),
            pairs.system[:0],
        )
        self._fill(held, pairs, len(numbers))
        own_numbers, own_idx = numbers.clone(), system_idx.clone()
        graph = torch.cuda.CUDAGraph()
        try:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                self._compute(own_numbers, own_idx, n_systems, held)
            torch.cuda.current_stream().wait_stream(aside)
            with torch.cuda.graph(graph):
                energy, gradient = self._compute(own_numbers, own_idx, n_systems, held)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            self._seen = -CALLS_TO_RETRY  # other work may have ended by then
            return
        except RuntimeError as error:  # an operation that cannot be recorded: everything works without, more slowly
            logger.warning("This model is evaluated without a CUDA graph: %s", " ".join(str(error).split())[:200])
            self._usable = False
            return
        self._recorded = _Recorded(graph, own_numbers, own_idx, held, energy, gradient)
