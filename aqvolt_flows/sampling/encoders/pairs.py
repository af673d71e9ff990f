"""Encoders that take a whole batch as one list of pairs: no graph is made for a frame of its own.

A batch of frames is searched for neighbors at once on the device, and what cannot be encoded follows from the same
list: a pair that is too close, an atom without a pair. What is left goes through the model in portions of bounded
memory. The processor's work per frame is copying it into an array, so that one process keeps a GPU busy.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch

from aqvolt_flows.potentials.neighbors import NeighborOptions, Pairs, VerletList, available
from aqvolt_flows.potentials.registry import batches
from aqvolt_flows.sampling.encoders.base import Features, FlatEncoder
from aqvolt_flows.sampling.encoders.flat import CLOSEST_A, FlatFrames

#: Rows of the model's largest matrix in one portion: about 3 GB on a GPU; on a CPU what its caches hold.
MAX_ROWS = {"cuda": 1_000_000, "cpu": 8_192}
#: A frame with more atoms is searched through linked cells; without nvalchemi, all pairs are held in memory.
_MANY_ATOMS = 8192 if available("nvalchemi") else 512


class PairEncoder(FlatEncoder):
    """An encoder whose features follow from the vectors between neighbors.

    A family sets ``_device`` and gives ``_features``; ``_rows`` where pairs are not what fills the memory.
    """

    _device: torch.device

    @abstractmethod
    def _features(
        self, numbers: torch.Tensor, system_idx: torch.Tensor, n_systems: int, pairs: Pairs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the structure matrix and the atom matrix of some frames.

        Parameters
        ----------
        numbers, system_idx
            (n_atoms,), atomic numbers, and the frame of each atom, ascending.
        n_systems
            Frames; each has an atom.
        pairs
            All pairs within the cutoff in both directions, sorted; vectors in single precision.
        """

    def _rows(self, pairs: Pairs, n_atoms: int, n_systems: int) -> torch.Tensor:  # noqa: ARG002 - others need them
        """Return how many rows the model's largest matrix has for each frame, (n_systems,), int64."""
        return torch.bincount(pairs.system, minlength=n_systems)

    @torch.no_grad()
    def _run(self, frames: FlatFrames) -> Features:
        seen = frames.reduced(self.cutoff)
        numbers = torch.as_tensor(seen.numbers).to(self._device)
        owners = np.repeat(np.arange(len(seen)), seen.n_atoms)
        system_idx = torch.as_tensor(owners).to(self._device)
        pairs = self._pairs(seen, system_idx)
        close, lonely, rows = self._judged(pairs, system_idx, len(seen))
        failures = dict.fromkeys(np.flatnonzero(lonely).tolist(), "isolated_atom")
        failures |= dict.fromkeys(np.flatnonzero(close).tolist(), "close_atoms")
        kept = ~(close | lonely)
        n_atoms = seen.n_atoms[kept]
        if not kept.any():
            return self._no_features(failures)
        if failures:
            numbers, system_idx, pairs = _without(numbers, system_idx, pairs, torch.as_tensor(kept).to(self._device))
            rows = rows[:, kept]
        structures, atoms = [], []
        for part in _portions(numbers, system_idx, pairs, n_atoms, rows, MAX_ROWS.get(self._device.type, 1_000_000)):
            of_frames, of_atoms = self._features(*part)
            structures.append(of_frames.float())
            atoms.append(of_atoms.float())
        return Features(torch.cat(structures).cpu().numpy(), torch.cat(atoms).cpu().numpy(), n_atoms, failures)

    def _pairs(self, frames: FlatFrames, system_idx: torch.Tensor) -> Pairs:
        """Return all pairs; found in double precision, vectors in single."""
        big = int(frames.n_atoms.max()) > _MANY_ATOMS
        search = VerletList(self.cutoff, NeighborOptions("cells" if big else "auto", skin=0.0))
        positions = torch.as_tensor(frames.positions).to(self._device)
        found = search(positions, torch.as_tensor(frames.cells).to(self._device), system_idx)
        return Pairs(found.i, found.j, found.shifts, found.vectors.float(), found.system)

    def _judged(
        self, pairs: Pairs, system_idx: torch.Tensor, n_systems: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return which frames have atoms too close, which a lonely one, and (2, n) numbers of pairs and of rows."""
        too_close = (pairs.vectors.square().sum(dim=1) < CLOSEST_A**2).long()
        alone = torch.ones_like(system_idx).index_fill_(0, pairs.i, 0)
        none = torch.zeros(n_systems, dtype=torch.long, device=system_idx.device)
        columns = [
            none.scatter_reduce(0, pairs.system, too_close, reduce="amax"),
            none.scatter_reduce(0, system_idx, alone, reduce="amax"),
            torch.bincount(pairs.system, minlength=n_systems),
            self._rows(pairs, len(system_idx), n_systems),
        ]
        close, lonely, *rows = torch.stack(columns).cpu().numpy()
        return close > 0, lonely > 0, np.stack(rows)


def _without(
    numbers: torch.Tensor, system_idx: torch.Tensor, pairs: Pairs, kept: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, Pairs]:
    """Return the batch of the kept frames."""
    atoms = kept[system_idx]
    of_atom, of_system = torch.cumsum(atoms, 0) - 1, torch.cumsum(kept, 0) - 1
    rows = kept[pairs.system].nonzero().squeeze(1)
    left = Pairs(
        of_atom[pairs.i[rows]],
        of_atom[pairs.j[rows]],
        pairs.shifts[rows],
        pairs.vectors[rows],
        of_system[pairs.system[rows]],
    )
    return numbers[atoms], of_system[system_idx[atoms]], left


def _portions(
    numbers: torch.Tensor,
    system_idx: torch.Tensor,
    pairs: Pairs,
    n_atoms: np.ndarray,
    rows: np.ndarray,
    max_rows: int,
) -> Any:
    """Yield parts of a batch of at most ``max_rows`` rows (one frame at least), as arguments of ``_features``."""
    groups = batches(rows.max(axis=0).tolist(), max_rows)
    first_atom = first_pair = 0
    for group in groups:
        atoms, n_pairs = int(n_atoms[group].sum()), int(rows[0][group].sum())
        of_atoms, of_pairs = slice(first_atom, first_atom + atoms), slice(first_pair, first_pair + n_pairs)
        if len(groups) == 1:
            yield numbers, system_idx, len(group), pairs
            return
        part = Pairs(
            pairs.i[of_pairs] - first_atom,
            pairs.j[of_pairs] - first_atom,
            pairs.shifts[of_pairs],
            pairs.vectors[of_pairs].clone(),  # a view begins anywhere, and how products round depends on where
            pairs.system[of_pairs] - group[0],
        )
        yield numbers[of_atoms], system_idx[of_atoms] - group[0], len(group), part
        first_atom, first_pair = first_atom + atoms, first_pair + n_pairs
