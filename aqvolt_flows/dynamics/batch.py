"""The systems that are integrated together, as tensors that are joined, picked from and written down by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aqvolt_flows.units import KB_EV_PER_K

#: Positions, momenta, cell and thermostats are integrated in double precision whatever the model computes in.
DTYPE = torch.float64


@dataclass(eq=False)
class Batch:
    """Running systems, one after another.

    Attributes
    ----------
    ids
        Trajectory ids, in order.
    counts
        Atoms of each system, (n_systems,).
    steps
        Steps each system has made, (n_systems,), on the host, where it is decided what happens next.
    seeds
        Seeds of their random numbers.
    atoms
        Tensors (n_atoms, …): ``positions`` Å, ``masses`` u, ``momenta`` √(u·eV), ``forces`` eV/Å, ``numbers``.
    systems
        Tensors (n_systems, …): ``cell`` (rows are vectors, Å), ``energy`` eV, ``stress`` (3, 3; eV/Å³, tension
        positive), ``kinetic`` eV, ``kt`` eV, ``step`` (that of ``steps``), and what guard and integrator add.
    """

    ids: list[str]
    counts: NDArray[np.int64]
    steps: NDArray[np.int64]
    seeds: list[int]
    atoms: dict[str, torch.Tensor]
    systems: dict[str, torch.Tensor]

    def __len__(self) -> int:
        """Return how many systems there are."""
        return len(self.ids)

    @property
    def n_atoms(self) -> int:
        """Atoms of all systems."""
        return int(self.counts.sum())

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.atoms["positions"].device

    @cached_property
    def index(self) -> torch.Tensor:
        """System of each atom, (n_atoms,)."""
        counts = torch.as_tensor(self.counts)
        return torch.repeat_interleave(torch.arange(len(self.ids)), counts).to(self.device)

    @cached_property
    def dof(self) -> torch.Tensor:
        """Degrees of freedom of each system, 3N − 3: the center of mass is at rest; (n_systems,)."""
        return torch.as_tensor(3 * self.counts - 3, dtype=DTYPE, device=self.device)

    def kinetic_energy(self, momenta: torch.Tensor) -> torch.Tensor:
        """Return Σ p²/2m of each system, eV, (n_systems,)."""
        each = (momenta * momenta).sum(1) / (2 * self.atoms["masses"])
        return torch.zeros(len(self.ids), dtype=each.dtype, device=each.device).index_add(0, self.index, each)

    def temperature(self) -> torch.Tensor:
        """Return the instantaneous temperature of each system, K, (n_systems,)."""
        return 2 * self.systems["kinetic"] / (KB_EV_PER_K * self.dof)

    def volume(self) -> torch.Tensor:
        """Return the volume of each system, Å³, (n_systems,)."""
        return volume_of(self.systems["cell"])

    def pressure(self) -> torch.Tensor:
        """Return the instantaneous pressure (2K/V − tr σ)/3 of each system, eV/Å³, compression positive."""
        trace = torch.diagonal(self.systems["stress"], dim1=-2, dim2=-1).sum(-1)
        return (2 * self.systems["kinetic"] / self.volume() - trace) / 3

    def updated(self, atoms: dict[str, torch.Tensor], systems: dict[str, torch.Tensor]) -> Batch:
        """Return the same systems with some tensors replaced; what depends on the composition alone is kept."""
        new = Batch(self.ids, self.counts, self.steps, self.seeds, self.atoms | atoms, self.systems | systems)
        new.__dict__["index"], new.__dict__["dof"] = self.index, self.dof
        return new

    def select(self, keep: Sequence[int]) -> Batch:
        """Return those systems, in the order given."""
        chosen = torch.as_tensor(list(keep), dtype=torch.long, device=self.device)
        starts = np.concatenate([[0], np.cumsum(self.counts)])
        rows = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in keep] or [np.empty(0, dtype=np.int64)])
        atoms = torch.as_tensor(rows, dtype=torch.long, device=self.device)
        return Batch(
            [self.ids[i] for i in keep],
            self.counts[list(keep)],
            self.steps[list(keep)],
            [self.seeds[i] for i in keep],
            {name: value[atoms] for name, value in self.atoms.items()},
            {name: value[chosen] for name, value in self.systems.items()},
        )

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device."""
        return Batch(
            self.ids,
            self.counts,
            self.steps,
            self.seeds,
            {name: value.to(device) for name, value in self.atoms.items()},
            {name: value.to(device) for name, value in self.systems.items()},
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values and CPU tensors, as ``torch.save`` writes and ``weights_only`` reads them."""
        plain = self.to("cpu")
        return {
            "ids": list(plain.ids),
            "counts": plain.counts.tolist(),
            "steps": plain.steps.tolist(),
            "seeds": list(plain.seeds),
            "atoms": {name: value.clone() for name, value in plain.atoms.items()},
            "systems": {name: value.clone() for name, value in plain.systems.items()},
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Batch:
        """Return the batch that :meth:`as_dict` described, on the CPU."""
        return cls(
            list(values["ids"]),
            np.asarray(values["counts"], dtype=np.int64),
            np.asarray(values["steps"], dtype=np.int64),
            list(values["seeds"]),
            dict(values["atoms"]),
            dict(values["systems"]),
        )


def volume_of(cell: torch.Tensor) -> torch.Tensor:
    """Return |det| of cells (n, 3, 3), written out: a library call would wait for the GPU at every step."""
    a, b, c = cell.unbind(-2)
    return (a * torch.linalg.cross(b, c)).sum(-1).abs()


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Return all systems of several batches, in order; thermostats and barostats come along."""
    if len(batches) == 1:
        return batches[0]
    first = batches[0]
    return Batch(
        [i for b in batches for i in b.ids],
        np.concatenate([b.counts for b in batches]),
        np.concatenate([b.steps for b in batches]),
        [s for b in batches for s in b.seeds],
        {name: torch.cat([b.atoms[name] for b in batches]) for name in first.atoms},
        {name: torch.cat([b.systems[name] for b in batches]) for name in first.systems},
    )
