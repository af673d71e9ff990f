"""Encoders: frames in, structure and atom features out; one protocol for all families."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials import check_model, load_potential, model_hash

if TYPE_CHECKING:
    from ase import Atoms

    from aqvolt_flows.potentials.chgnet import CHGNetPotential

Array32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Features:
    """Features of a batch of frames.

    Attributes
    ----------
    structures
        (n_frames, d_structure), float32.
    atoms
        (sum of n_atoms, d_atom), float32; the rows of frame i follow those of frame i − 1.
    n_atoms
        (n_frames,), int64.
    """

    structures: Array32
    atoms: Array32
    n_atoms: NDArray[np.int64]


class Encoder(Protocol):
    """What every encoder can do."""

    name: str
    sha256: str

    def encode(self, frames: Sequence[Atoms], max_batch_atoms: int = 4096) -> Features:
        """Return the features of frames, computed in batches of at most so many atoms."""
        ...


class CHGNetEncoder:
    """CHGNet r2SCAN: crystal features (64) and atom features (64) of its last layer.

    Parameters
    ----------
    name
        Model string, ``chgnet/r2scan``.
    device
        torch device.
    """

    def __init__(self, name: str, device: str) -> None:
        self.name, self.sha256 = name, model_hash(name)
        self._potential: CHGNetPotential = load_potential(name, device)  # type: ignore[assignment]

    def encode(self, frames: Sequence[Atoms], max_batch_atoms: int = 4096) -> Features:
        """Return the features of frames."""
        parts = list(self._batches(frames, max_batch_atoms))
        counts = np.array([len(f) for f in frames], dtype=np.int64)
        if not parts:
            return Features(np.empty((0, 64), np.float32), np.empty((0, 64), np.float32), counts)
        return Features(np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]), counts)

    def _batches(self, frames: Sequence[Atoms], max_batch_atoms: int) -> Iterator[tuple[Array32, Array32]]:
        from aqvolt_flows.potentials.registry import batches

        for group in batches([len(f) for f in frames], max_batch_atoms):
            chosen = [frames[i] for i in group]
            out = self._potential.model.predict_graph(
                self._potential.graphs(chosen),
                task="e",
                return_crystal_feas=True,
                return_atom_feas=True,
                batch_size=len(chosen),
            )
            rows = out if isinstance(out, list) else [out]
            crystal = np.stack([np.asarray(r["crystal_fea"], np.float32).ravel() for r in rows])
            yield crystal, np.concatenate([np.asarray(r["atom_fea"], np.float32) for r in rows])


def encoder_hash(name: str) -> str:
    """Return the hash of an encoder's weights; needs no torch.

    Raises
    ------
    InputError
        If there is no such encoder.
    """
    if name != "chgnet/r2scan":
        raise InputError(f"There is no encoder {name!r}; known are chgnet/r2scan.")
    return model_hash(name)


def load_encoder(name: str, device: str = "cpu") -> Encoder:
    """Return an encoder by name.

    Raises
    ------
    InputError
        If there is no such encoder.
    ResourceError
        If its package or weights are missing.
    """
    encoder_hash(name)
    check_model(name)
    return CHGNetEncoder(name, device)
