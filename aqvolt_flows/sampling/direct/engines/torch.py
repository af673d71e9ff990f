"""The engine of a GPU: moments, rotation and the exact nearest-center search in torch; the CF tree stays on the CPU.

In the exact search centers lie in boxes of about 512; a row is compared with the boxes' bounds, then with the
centers of the nearest box, and only with those of other boxes that could still hold a nearer one. Its time grows with
rows times centers, so that a GPU takes it up to some ten thousand centers only, and the CPU's beam beyond.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.sampling.direct.birch import CFTree
from aqvolt_flows.sampling.direct.nearest import EXACT_TO, NearestIndex, halved, n_threads
from aqvolt_flows.sampling.direct.space import Moments, Space, resolution_of

if TYPE_CHECKING:
    import torch

#: Centers of a box; below eight boxes all pairs are compared.
_BOX, _FEW = 512, 4096
#: Most centers for which a GPU searches exactly where a beam would do.
_GPU_EXACT_TO = 16_384
#: Numbers of the largest temporary matrix: 8 GiB of float32 on a GPU, a 32nd of its free memory at most (there are
#: about five of them at a time); 64 MiB on a CPU.
_GPU_NUMBERS, _CPU_NUMBERS = 2**31, 2**24
#: Bounds are lowered by this share of a box's squared size, for rounding in single precision.
_SLACK = 1e-5


class TorchEngine:
    """Torch on one device.

    Parameters
    ----------
    device
        ``cuda``, ``cuda:1`` …, or ``cpu``.
    threads, beam
        Of the CPU's search; no beam: the search is exact and runs on the device.

    Raises
    ------
    ResourceError
        If torch is not installed, or has no such device.
    """

    name = "torch"
    most_rows: int | None = None
    compiled_parts = True
    #: Every box costs a few kernel launches per query, whatever the number of rows.
    rows_per_query = 2**20

    def __init__(self, device: str = "cuda", threads: int | None = None, beam: int | None = None) -> None:
        try:
            import torch
        except ImportError:
            raise ResourceError("The torch engine needs torch; install the mlip extra or use engine cpu.") from None
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ResourceError(f"Torch sees no GPU for device {device!r}; use engine cpu or device cpu.")
        self.device = torch.device(device)
        self.threads, self.beam = threads or n_threads(), beam

    def moments(self, blocks: Iterable[NDArray[np.floating]]) -> Moments:
        """Return the moments of all rows in one pass, in double precision."""
        import torch

        total: Moments | None = None
        for block in blocks:
            rows = torch.from_numpy(np.ascontiguousarray(block)).to(self.device).double()
            mean = rows.mean(dim=0)
            centered = rows - mean
            part = Moments(len(block), mean.cpu().numpy(), (centered.T @ centered).cpu().numpy(), resolution_of(block))
            total = part if total is None else total + part
        if total is None:
            raise InputError("There are no rows; there is nothing to select from.")
        return total

    def space(
        self, blocks: Iterable[NDArray[np.floating]], weight_components: bool, before: Moments | None = None
    ) -> tuple[Space, Moments]:
        """Return the space of all rows, those of ``before`` included, and their moments."""
        moments = self.moments(blocks)
        moments = moments if before is None else before + moments
        return Space.fit(moments, weight_components), moments

    def tree(self, dimensions: int, threshold: float, branching: int) -> CFTree:
        """Return an empty CF tree."""
        return CFTree(dimensions, threshold, branching)

    def project(self, space: Space, rows: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return rows in a space, on the host."""
        import torch

        values = torch.from_numpy(np.ascontiguousarray(rows)).to(self.device)
        mean = torch.from_numpy(space.mean).to(values)
        projection = torch.from_numpy(space.projection).to(values)
        return np.asarray(((values - mean) @ projection).float().cpu().numpy())

    def index(self, centers: NDArray[np.float32]) -> TorchIndex | NearestIndex:
        """Return the search over centers: the device's if it is exact, or as quick as the CPU's beam."""
        few = _GPU_EXACT_TO if self.device.type == "cuda" else EXACT_TO
        if self.beam is None or len(centers) <= few:
            return TorchIndex(centers, self.device)
        return NearestIndex(centers, self.threads, self.beam)


class TorchIndex:
    """Exact nearest center on a device.

    Parameters
    ----------
    centers
        (m, d), at least one.
    device
        Where it runs.
    """

    def __init__(self, centers: NDArray[np.floating], device: torch.device) -> None:
        import torch

        points = np.ascontiguousarray(centers, np.float32)
        self.device, m = device, len(points)
        self._numbers = _CPU_NUMBERS
        if device.type == "cuda":
            self._numbers = min(_GPU_NUMBERS, torch.cuda.mem_get_info(device)[0] // 32)
        depth = 0 if m <= _FEW else int(np.ceil(np.log2(m / _BOX)))
        order, bounds = halved(points, depth)
        self._bounds = bounds.tolist()
        self._order = torch.from_numpy(order).to(device)
        self._centers = torch.from_numpy(points[order]).to(device)
        boxes = [points[order[a:b]] for a, b in zip(self._bounds[:-1], self._bounds[1:], strict=True)]
        self._lower = torch.from_numpy(np.stack([b.min(axis=0) for b in boxes])).to(device)
        self._upper = torch.from_numpy(np.stack([b.max(axis=0) for b in boxes])).to(device)
        # where most of a box's centers are: a wild one among them must not move the origin, or all others cancel
        self._origin = torch.from_numpy(np.stack([np.median(b, axis=0) for b in boxes])).to(device)

    def query(self, points: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return for rows (n, d) the index of the nearest center and the distance."""
        import torch

        rows = torch.from_numpy(np.ascontiguousarray(points, np.float32)).to(self.device)
        widest = max(b - a for a, b in zip(self._bounds[:-1], self._bounds[1:], strict=True))
        step = max(1, self._numbers // max(widest, len(self._lower)))
        found = [self._query(chunk) for chunk in torch.split(rows, step)]
        labels, distances = (torch.cat([f[i] for f in found]) for i in (0, 1))
        return labels.cpu().numpy(), distances.cpu().numpy()

    def _query(self, rows: Any) -> tuple[Any, Any]:
        import torch

        nearest = torch.full((len(rows),), torch.inf, device=self.device)
        place = torch.zeros(len(rows), dtype=torch.int64, device=self.device)
        bounds = torch.zeros(len(rows), len(self._lower), device=self.device)
        if len(self._lower) > 1:
            for j in range(rows.shape[1]):
                x = rows[:, j : j + 1]
                bounds += torch.maximum(self._lower[:, j] - x, x - self._upper[:, j]).clamp_(min=0).square_()
        home = bounds.argmin(dim=1)
        self._visit(rows, home, torch.arange(len(rows), device=self.device), nearest, place)
        slack = _SLACK * (self._upper - self._lower).square().sum(dim=1)
        pending = bounds - slack <= nearest[:, None]
        pending.scatter_(1, home[:, None], False)
        # by box, so that each box is one slice; box by box the rows get nearer and fewer are compared
        box, row = pending.T.nonzero(as_tuple=True)
        self._visit(rows, box, row, nearest, place)
        return self._order[place], (rows - self._centers[place]).square().sum(dim=1).sqrt()

    def _visit(self, rows: Any, box: Any, row: Any, nearest: Any, place: Any) -> None:
        """Compare rows with the centers of boxes: pairs (box, row); no row twice in one box."""
        import torch

        order = torch.argsort(box, stable=True)
        row = row[order]
        counts = torch.bincount(box, minlength=len(self._lower)).tolist()
        start = 0
        for b, count in enumerate(counts):
            mine, start = row[start : start + count], start + count
            if not count:
                continue
            first, last = self._bounds[b], self._bounds[b + 1]
            centers, near = self._centers[first:last] - self._origin[b], rows[mine] - self._origin[b]
            # ‖x‖² + ‖c‖² − 2x·c about an origin in the box, where numbers are small and little cancels
            squares = torch.addmm(centers.square().sum(dim=1), near, centers.T, alpha=-2)
            best, slot = squares.min(dim=1)
            best = (best + near.square().sum(dim=1)).clamp_(min=0)
            better = best < nearest[mine]
            nearest[mine] = torch.where(better, best, nearest[mine])
            place[mine] = torch.where(better, slot + first, place[mine])
