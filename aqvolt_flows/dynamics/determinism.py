"""The same bits from the same input, on a GPU, too."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

#: cuBLAS sums in a fixed order with workspaces of a fixed size (its documentation, "Results Reproducibility").
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextlib.contextmanager
def deterministic(wanted: bool, device: torch.device) -> Iterator[None]:
    """Use torch's deterministic algorithms inside the block, where they are wanted and the device is a GPU.

    On a CPU nothing is needed: the operations used here add in a fixed order at any fixed number of threads
    (``tests/flows/dynamics/test_determinism.py``). On a GPU, sums over atoms are added in the order in which they
    arrive; the deterministic algorithms sort first.
    """
    if not wanted or device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault(_WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
