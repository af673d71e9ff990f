"""The torch-sim model of a committee: every member on the same batch, means and the spread of the forces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch_sim.models.interface import ModelInterface

from aqvolt_flows.potentials.edge_model import EdgeModel

_NAMES = ("energy", "forces", "stress")


class CommitteeModel(ModelInterface):
    """Members evaluated on one batch.

    Besides ``energy``, ``forces`` and ``stress`` it returns ``force_sigma`` (n_atoms,), √⟨|F_i − ⟨F_i⟩|²⟩ over the
    members, eV/Å.

    Parameters
    ----------
    models
        torch-sim models that compute stress, on one device.
    """

    def __init__(self, models: Sequence[Any]) -> None:
        super().__init__()
        self.models = list(models)
        first = self.models[0]
        # a double-precision state loses nothing in a member of single precision, the other way round it would
        self._device = first.device
        self._dtype = torch.float64 if any(m.dtype == torch.float64 for m in self.models) else first.dtype
        self._compute_stress = self._compute_forces = True
        self._memory_scales_with = first.memory_scales_with
        self._share_pairs()

    def _share_pairs(self) -> None:
        """Let members with one cutoff use one neighbor list."""
        found: dict[tuple[Any, ...], Any] = {}
        for model in self.models:
            if isinstance(model, EdgeModel):
                options = getattr(model.pairs, "options", None)
                model.pairs = found.setdefault((model.cutoff, model.dtype, repr(options)), model.pairs)

    def each(self, state: Any) -> dict[str, torch.Tensor]:
        """Return the members' results, stacked: (n_members, …)."""
        found = [model(_as(state, model.dtype)) for model in self.models]
        return {name: torch.stack([f[name].detach().to(self._dtype) for f in found]) for name in _NAMES}

    def forward(self, state: Any, **_kwargs: Any) -> dict[str, torch.Tensor]:
        """Return means of energies, forces and stresses, and the spread of the forces, of a SimState."""
        out = self.each(state)
        spread = out["forces"] - out["forces"].mean(0)
        sigma = (spread * spread).sum(-1).mean(0).sqrt()
        return {name: value.mean(0) for name, value in out.items()} | {"force_sigma": sigma}


def _as(state: Any, dtype: torch.dtype) -> Any:
    return state if state.positions.dtype == dtype else state.clone().to(dtype=dtype)
