"""Neighbor lists of batches: the fastest algorithm for the device, and Verlet lists that are used again.

A list with a skin (Verlet, Phys. Rev. 159, 98 (1967), DOI 10.1103/PhysRev.159.98) holds all pairs within cutoff +
skin and is good for as long as no pair outside can have come within the cutoff. With cells that change this is, per
system: let h₀ and h be the cells (rows) at the building and now, F = h₀⁻¹ h, and u_i = r_i − r_i⁰ F the displacement
of atom i beyond the affine one, minus the system's mean. A pair at distance r now was at most
(r + 2 max|u|) σ(F⁻¹) apart then, with the largest singular value σ(F⁻¹) ≤ 1 + ‖F⁻¹ − 1‖. While

    (cutoff + 2 max|u|) (1 + ‖F⁻¹ − 1‖) ≤ cutoff + skin

the list is complete. Systems that break this are searched again, the others are not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch_sim import neighbors as library

from aqvolt_flows.errors import InputError

try:
    from nvalchemiops.neighbors.neighbor_utils import NeighborOverflowError
except ImportError:  # torch-sim then uses a list without a limit, and this is never raised

    class NeighborOverflowError(Exception):  # type: ignore[no-redef]
        """Stands in for the error of a package that is not installed."""


Algorithm = Literal["auto", "nvalchemi", "n2", "cells", "vesin"]
Search = Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
#: Å kept from the skin for rounding in float32.
_MARGIN = 1e-3
#: Largest number of candidate pairs that the all-pairs search may hold at once (about 50 bytes each).
_MAX_CANDIDATES = 40_000_000
#: Periodic images are told apart modulo this in the sorting key; neighbors of one pair lie much closer.
_IMAGES = 101


@dataclass(frozen=True)
class NeighborOptions:
    """How pairs are found.

    Attributes
    ----------
    algorithm
        ``nvalchemi`` (NVIDIA's Warp kernels, also on a CPU), ``n2`` and ``cells`` (torch), ``vesin`` (on the CPU);
        ``auto`` takes the first that is installed.
    skin
        Å; 0 searches at every call.
    """

    algorithm: Algorithm = "auto"
    skin: float = 0.5


@dataclass(frozen=True, eq=False)
class Pairs:
    """All pairs within the cutoff, each in both directions, sorted by atom i, atom j and image.

    Attributes
    ----------
    i, j
        (n_pairs,), atoms of the batch.
    shifts
        (n_pairs, 3), images: j's image lies at r_j + shift · cell. For positions as given, wrapped or not.
    vectors
        (n_pairs, 3), r_j + shift · cell − r_i, Å.
    system
        (n_pairs,), to which system the pair belongs.
    """

    i: torch.Tensor
    j: torch.Tensor
    shifts: torch.Tensor
    vectors: torch.Tensor
    system: torch.Tensor


def available(algorithm: Algorithm) -> bool:
    """Return whether the algorithm's package is installed."""
    return {"nvalchemi": library.ALCHEMIOPS_AVAILABLE, "vesin": library.VESIN_AVAILABLE}.get(algorithm, True)


def search_with(algorithm: Algorithm) -> Search:
    """Return torch-sim's function of an algorithm; ``auto``: nvalchemi, or else all pairs in torch.

    Raises
    ------
    InputError
        If its package is not installed.
    """
    if algorithm == "auto":
        algorithm = "nvalchemi" if available("nvalchemi") else "n2"
    if not available(algorithm):
        raise InputError(f"The neighbor list {algorithm!r} is not installed; choose auto, n2 or cells.")
    functions: dict[str, Search] = {
        "nvalchemi": library.alchemiops_nl_n2,
        "n2": _in_portions(library.torch_nl_n2),
        "cells": library.torch_nl_linked_cell,
        "vesin": library.vesin_nl,
    }
    return _of_any_density(functions[algorithm])


def _of_any_density(search: Search) -> Search:
    """Return a search that goes through torch-sim's linked cells where Warp's table of neighbors overflows.

    torch-sim guesses from the cutoff how many neighbors an atom can have (112 within 5 Å) and raises above.
    Strongly compressed solids have more: rock-salt LiF at −20 % has 122.
    """

    def found(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        try:
            return search(*args, **kwargs)
        except NeighborOverflowError:
            return library.torch_nl_linked_cell(*args, **kwargs)

    return found


#: torch-sim's list of any density, for models that take a function of torch-sim's kind.
neighbor_list: Search = _of_any_density(library.torchsim_nl)


def _in_portions(search: Search) -> Search:
    """Return an all-pairs search that takes the systems of a batch in portions of bounded memory."""

    def found(
        positions: torch.Tensor, cell: torch.Tensor, pbc: torch.Tensor, cutoff: Any, system_idx: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        heights = 1 / torch.linalg.inv(cell).transpose(1, 2).norm(dim=2)
        images = (2 * torch.ceil(float(cutoff) / heights) + 1).prod(dim=1).tolist()
        sizes = torch.bincount(system_idx, minlength=len(cell)).tolist()
        parts = []
        first_atom = first = 0
        while first < len(sizes):
            last, atoms, largest, shifts = first, 0, 0, 0.0
            while last < len(sizes):
                grown = max(largest, sizes[last]), max(shifts, images[last])
                if last > first and (last - first + 1) * grown[0] ** 2 * grown[1] > _MAX_CANDIDATES:
                    break
                largest, shifts = grown
                atoms, last = atoms + sizes[last], last + 1
            chosen = slice(first_atom, first_atom + atoms)
            mapping, system, image = search(
                positions[chosen], cell[first:last], pbc, cutoff, system_idx[chosen] - first
            )
            parts.append((mapping + first_atom, system + first, image))
            first_atom, first = first_atom + atoms, last
        return torch.cat([p[0] for p in parts], 1), torch.cat([p[1] for p in parts]), torch.cat([p[2] for p in parts])

    return found


class VerletList:
    """Pairs within a cutoff for a batch of periodic systems, searched again only where needed.

    What it returns depends on the present positions and cells only, not on when the search was made: the same set
    in the same order as a fresh list, so that a run continued from a checkpoint sums in the same order.

    Parameters
    ----------
    cutoff
        Å.
    options
        Algorithm and skin.

    Attributes
    ----------
    calls, searches
        How often pairs were asked for, and how many systems' pairs were searched, summed over calls.
    """

    def __init__(self, cutoff: float, options: NeighborOptions | None = None) -> None:
        self.cutoff, self.options = cutoff, options or NeighborOptions()
        self._search = search_with(self.options.algorithm)
        self._reference: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
        self._pairs: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor] | None = None
        self.calls = self.searches = 0

    @torch.no_grad()
    def __call__(self, positions: torch.Tensor, cell: torch.Tensor, system_idx: torch.Tensor) -> Pairs:
        """Return the pairs of a batch.

        Parameters
        ----------
        positions
            (n_atoms, 3), Å, wrapped or not.
        cell
            (n_systems, 3, 3), Å, rows are lattice vectors.
        system_idx
            (n_atoms,), ascending.
        """
        self.calls += 1
        self._update(positions, cell, system_idx)
        assert self._pairs is not None
        i, j, shifts, system = self._pairs
        vectors = positions[j] - positions[i] + torch.bmm(shifts.unsqueeze(1), cell[system]).squeeze(1)
        near = (vectors.square().sum(dim=1) < self.cutoff**2).nonzero().squeeze(1)
        return Pairs(i[near], j[near], shifts[near], vectors[near], system[near])

    def _update(self, positions: torch.Tensor, cell: torch.Tensor, system_idx: torch.Tensor) -> None:
        known = self._reference
        comparable = known is not None and self.options.skin > 0 and known[2].shape == system_idx.shape
        if not comparable or known is None or known[1].shape != cell.shape or not torch.equal(known[2], system_idx):
            everything = torch.ones(len(cell), dtype=torch.bool, device=cell.device)
            self._pairs = self._find(positions, cell, system_idx, everything)
            self._reference = positions.clone(), cell.clone(), system_idx.clone()
            return
        stale = self._stale(positions, cell, known)
        if not bool(stale.any()):
            return
        assert self._pairs is not None
        kept = ~stale[self._pairs[3]]
        new = self._find(positions, cell, system_idx, stale)
        joined = tuple(torch.cat([old[kept], added]) for old, added in zip(self._pairs, new, strict=True))
        order = torch.argsort(joined[0], stable=True)  # systems are contiguous, each is sorted already
        i, j, shifts, system = (part[order] for part in joined)
        self._pairs = i, j, shifts, system
        atoms = stale[system_idx].unsqueeze(1)
        self._reference = (
            torch.where(atoms, positions, known[0]),
            torch.where(stale.view(-1, 1, 1), cell, known[1]),
            known[2],
        )

    def _stale(
        self, positions: torch.Tensor, cell: torch.Tensor, known: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Return which systems' lists may lack a pair, (n_systems,)."""
        old_positions, old_cell, system_idx = known
        deformation = torch.linalg.solve(old_cell, cell)
        moved = positions - torch.bmm(old_positions.unsqueeze(1), deformation[system_idx]).squeeze(1)
        counts = torch.zeros(len(cell), dtype=moved.dtype, device=moved.device)
        counts.index_add_(0, system_idx, torch.ones_like(moved[:, 0]))
        mean = torch.zeros_like(cell[:, 0]).index_add_(0, system_idx, moved) / counts.unsqueeze(1)
        length = torch.linalg.vector_norm(moved - mean[system_idx], dim=1)
        farthest = torch.zeros_like(counts).scatter_reduce(0, system_idx, length, reduce="amax")
        back = torch.linalg.solve(cell, old_cell)
        stretch = 1 + torch.linalg.matrix_norm(back - torch.eye(3, dtype=cell.dtype, device=cell.device))
        reach = self.cutoff + self.options.skin - _MARGIN
        # a NaN compares false: such a system is searched again
        return ~((self.cutoff + 2 * farthest) * stretch <= reach)

    def _find(
        self, positions: torch.Tensor, cell: torch.Tensor, system_idx: torch.Tensor, chosen: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return i, j, shifts and system of the pairs of the chosen systems within cutoff + skin, sorted."""
        atoms = chosen[system_idx].nonzero().squeeze(1)
        systems = chosen.nonzero().squeeze(1)
        self.searches += len(systems)
        local = torch.cumsum(chosen, 0) - 1
        pbc = torch.ones(3, dtype=torch.bool, device=positions.device)
        reach = torch.tensor(self.cutoff + self.options.skin, dtype=positions.dtype, device=positions.device)
        mapping, of_system, shifts = self._search(positions[atoms], cell[systems], pbc, reach, local[system_idx[atoms]])
        code = torch.zeros_like(of_system)
        for axis in range(3):
            code = code * _IMAGES + torch.remainder(shifts[:, axis].round().long(), _IMAGES)
        order = torch.argsort((mapping[0] * len(atoms) + mapping[1]) * _IMAGES**3 + code, stable=True)
        mapping = atoms[mapping[:, order]]
        return mapping[0], mapping[1], shifts[order].to(cell.dtype), systems[of_system[order]]
