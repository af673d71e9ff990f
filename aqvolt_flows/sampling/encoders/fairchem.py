"""A fairchem checkpoint's backbone as an encoder: eSEN, UMA and what else gives a node embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials import load_potential, model_hash
from aqvolt_flows.sampling.encoders.base import Array32, BatchedEncoder

if TYPE_CHECKING:
    from ase import Atoms


class FairChemEncoder(BatchedEncoder):
    """Scalar channels of the backbone's node embedding (eSEN: arXiv:2502.12147), and their mean over atoms.

    The embedding is (n_atoms, (l_max + 1)², channels); its l = 0 row is invariant under rotation. Heads, and so
    forces and stress, are not computed.

    Parameters
    ----------
    name
        Encoder string, ``fairchem:PATH`` of a conservative inference checkpoint.
    device
        torch device.

    Raises
    ------
    InputError
        If the file is no such checkpoint, or its backbone gives no node embedding.
    """

    layer = "mean(node_embedding[l=0])+node_embedding[l=0]"

    def __init__(self, name: str, device: str) -> None:
        self.name, self.sha256 = name, model_hash(name)
        self._model: Any = load_potential(name, device).torchsim_model()
        self._task = str(self._model.task_name)
        backbone = self._model.predictor.model.module.backbone
        channels, self.cutoff = getattr(backbone, "sphere_channels", None), float(getattr(backbone, "cutoff", 6.0))
        if channels is None:
            raise InputError(
                f"The backbone of {name} is {type(backbone).__name__}, without sphere channels; expected eSEN or UMA."
            )
        self.d_structure = self.d_atom = int(channels)
        elements = int(getattr(backbone, "max_num_elements", 100))
        self.known = frozenset(range(1, elements))

    def _prepare(self, atoms: Atoms) -> Any:
        from fairchem.core.datasets.atomic_data import AtomicData

        return AtomicData.from_ase(atoms, task_name=self._task)

    def _forward(self, prepared: list[Any]) -> tuple[Array32, Array32]:
        import torch
        from fairchem.core.datasets.atomic_data import atomicdata_list_to_batch

        predictor, device = self._model.predictor, torch.device(self._model.device)
        batch = atomicdata_list_to_batch(prepared).to(device)
        # the backbone turns every edge by a random angle about itself: from one seed, the same bits for the same batch
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            if not predictor.lazy_model_intialized:
                predictor.predict(batch.clone())  # merges and moves the model; its own first call does so
                torch.manual_seed(0)
            embedding = predictor.model.module.backbone(batch)["node_embedding"][:, 0, :].detach()
        atoms = embedding.to(torch.float32).cpu().numpy()
        ends = np.cumsum(batch.natoms.cpu().numpy())
        return np.stack([part.mean(axis=0) for part in np.split(atoms, ends[:-1])]), atoms
