"""Labels as a torch dataset of plain tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from ase import Atoms


class LabelDataset(Dataset):  # type: ignore[type-arg]
    """Labels in memory; see :meth:`aqvolt_flows.datasets.loaded.LoadedRelease.torch_dataset`.

    Parameters
    ----------
    labels
        ASE Atoms with energy, forces and stress.
    dtype
        Of floating-point numbers.
    """

    def __init__(self, labels: Iterable[Atoms], dtype: torch.dtype = torch.float32) -> None:
        self._items = [_tensors(atoms, dtype) for atoms in labels]

    def __len__(self) -> int:
        """Return the number of labels."""
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one label."""
        return self._items[index]


def _tensors(atoms: Any, dtype: torch.dtype) -> dict[str, Any]:
    def number(value: Any) -> torch.Tensor:
        return torch.as_tensor(np.asarray(value, dtype=float), dtype=dtype)

    return {
        "numbers": torch.as_tensor(atoms.numbers.astype(int)),
        "positions": number(atoms.positions),
        "cell": number(atoms.cell.array),
        "energy": number(atoms.get_potential_energy()),
        "forces": number(atoms.get_forces()),
        "stress": number(atoms.get_stress(voigt=True)),
        "label_id": atoms.info.get("label_id", ""),
    }
