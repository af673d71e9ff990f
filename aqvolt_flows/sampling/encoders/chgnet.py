"""CHGNet trained on MP-r2SCAN as an encoder (Deng et al., DOI 10.1038/s42256-023-00716-3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from aqvolt_flows.potentials import load_potential, model_hash
from aqvolt_flows.sampling.encoders.base import Array32, BatchedEncoder

if TYPE_CHECKING:
    from ase import Atoms

    from aqvolt_flows.potentials.chgnet import CHGNetPotential


class CHGNetEncoder(BatchedEncoder):
    """CHGNet r2SCAN: crystal features over the number of atoms (64), and atom features (64).

    Parameters
    ----------
    name
        Encoder string, ``chgnet/r2scan``.
    device
        torch device.
    """

    layer = "crystal_fea/n_atoms+atom_fea"
    d_structure = d_atom = 64
    known = frozenset(range(1, 95))  # rows of its atom embedding: H to Pu

    def __init__(self, name: str, device: str) -> None:
        self.name, self.sha256 = name, model_hash(name)
        self._potential: CHGNetPotential = load_potential(name, device)  # type: ignore[assignment]
        self.cutoff = float(self._potential.model.graph_converter.atom_graph_cutoff)

    def _prepare(self, atoms: Atoms) -> Any:
        return self._potential.graphs([atoms])[0]

    def _forward(self, prepared: list[Any]) -> tuple[Array32, Array32]:
        import torch

        with torch.no_grad():  # without it every layer is kept for gradients: eight times slower
            out = self._potential.model.predict_graph(
                prepared, task="e", return_crystal_feas=True, return_atom_feas=True, batch_size=len(prepared)
            )
        rows = out if isinstance(out, list) else [out]
        atoms = [np.asarray(r["atom_fea"], np.float32) for r in rows]
        pooled = [np.asarray(r["crystal_fea"], np.float32).ravel() / len(a) for r, a in zip(rows, atoms, strict=True)]
        return np.stack(pooled), np.concatenate(atoms)
