"""M3GNet through matgl as an encoder, the paper's choice (Chen and Ong, DOI 10.1038/s43588-022-00349-3).

matgl 4.1.2 loads checkpoints of earlier versions with only a warning, and they then compute other numbers than
they were trained to (r2SCAN LiCl has no minimum near 5.1 Å). So a checkpoint is refused when its ``model.json``
says an older model version than the installed classes have, and a potential's energy must have its minimum where
rock-salt LiCl has it.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.build import bulk

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.identity import file_sha256
from aqvolt_flows.potentials.physics import LICL_A, lithium_chloride
from aqvolt_flows.sampling.encoders.base import Array32, BatchedEncoder

if TYPE_CHECKING:
    from ase import Atoms

#: Files of a model that matgl saved.
FILES = ("model.json", "model.pt", "state.pt")


def _folder(name: str) -> Path:
    """Return the folder of a checkpoint: a path, or matgl's local copy of a model of that name."""
    given = name.removeprefix("m3gnet:")
    folder = Path(given)
    if not folder.is_dir() and "/" not in given:
        folder = _cached(given) or folder
    missing = [f for f in FILES if not (folder / f).is_file()]
    if missing:
        raise ResourceError(
            f"Encoder {name!r}: {folder} has no {', '.join(missing)}; give the folder of a model saved by matgl, or "
            f"fetch one where there is a network with python -c \"import matgl; matgl.load_model('{folder.name}')\"."
        )
    return folder


def _cached(name: str) -> Path | None:
    """Return where matgl keeps the model that it fetched by name, without asking the network."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    cache = Path.home() / ".cache" / "matgl"  # matgl.config.MATGL_CACHE, without importing torch
    found = try_to_load_from_cache(f"materialyze/{name}", FILES[0], cache_dir=str(cache))
    return Path(found).parent if isinstance(found, str) else None


def checkpoint_hash(name: str) -> str:
    """Return the SHA-256 over the checkpoint's files; needs no torch.

    Raises
    ------
    ResourceError
        If there is no such checkpoint.
    """
    folder = _folder(name)
    return hashlib.sha256("".join(file_sha256(folder / f) for f in FILES).encode()).hexdigest()


def check_checkpoint(name: str) -> None:
    """Raise unless matgl is installed and the checkpoint is an M3GNet of the installed version.

    Raises
    ------
    ResourceError
        If matgl or the checkpoint is missing.
    InputError
        If the checkpoint holds another model, or one of an earlier version.
    """
    folder = _folder(name)
    try:
        from matgl.apps.pes import Potential
        from matgl.models import M3GNet
    except ImportError:
        raise ResourceError(
            f"Encoder {name!r} needs matgl; install it with pip install 'aqvolt-flows[m3gnet]'."
        ) from None
    try:
        saved = json.loads((folder / "model.json").read_text())
        parts = [saved, *[v for v in saved["kwargs"].values() if isinstance(v, dict) and "@class" in v]]
        seen = {p["@class"]: int(p.get("@model_version", 0)) for p in parts}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / 'model.json'} is not what matgl writes ({error}); give another model.") from None
    if "M3GNet" not in seen:
        raise InputError(f"{folder} holds {' in '.join(reversed(seen))}; expected an M3GNet.")
    for cls in (M3GNet, Potential):
        version = seen.get(cls.__name__)
        if version is not None and version != cls.__version__:
            raise InputError(
                f"{folder} holds {cls.__name__} of version {version}; the installed matgl computes with version "
                f"{cls.__version__} and would give wrong numbers: take the model's current release."
            )


class M3GNetEncoder(BatchedEncoder):
    """M3GNet: the readout vector or the pooled last graph layer, and the node features of that layer.

    Parameters
    ----------
    name
        Encoder string, ``m3gnet:PATH`` or ``m3gnet:NAME``.
    device
        torch device.
    gate
        For a potential, refuse it unless it passes :func:`aqvolt_flows.potentials.physics.lithium_chloride`. Models
        of one property, such as the formation energy, saw relaxed structures only and are not asked.

    Raises
    ------
    InputError
        If the checkpoint cannot be loaded or does not pass the gate.
    """

    def __init__(self, name: str, device: str, gate: bool = True) -> None:
        import matgl
        import torch

        folder = _folder(name)
        self.name, self.sha256, self._device = name, checkpoint_hash(name), device
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # an incompatible version is one
                loaded = matgl.load_model(str(folder))
        except (RuntimeError, ValueError, UserWarning) as error:
            why = " ".join(str(error.__cause__ or error).split())[:200]
            raise InputError(f"{folder} cannot be loaded by matgl ({why}); give another model.") from None
        self._potential = loaded if hasattr(loaded, "model") else None
        self._net: Any = (loaded.model if self._potential is not None else loaded).to(device).eval()
        self.cutoff, self._last = float(self._net.cutoff), f"gc_{self._net.n_blocks}"
        from ase.data import atomic_numbers

        self.known = frozenset(atomic_numbers[e] for e in self._net.element_types)
        self.layer = f"{'readout' if self._net.is_intensive else f'mean({self._last})'}+{self._last}"
        with torch.no_grad():
            structures, atoms = self._forward([self._prepare(bulk("LiCl", "rocksalt", a=LICL_A))])
        self.d_structure, self.d_atom = structures.shape[1], atoms.shape[1]
        if gate and self._potential is not None and not self._net.is_intensive:
            self._check_licl()

    def _prepare(self, atoms: Atoms) -> Any:
        """Return matgl's graph over pymatgen's neighbor list, which knows no largest number of neighbors."""
        from matgl.ext.ase import Atoms2Graph
        from pymatgen.optimization.neighbors import find_points_in_spheres

        cell, places = np.ascontiguousarray(atoms.cell[:], float), np.ascontiguousarray(atoms.positions, float)
        periodic = np.ones(3, dtype=np.int64)
        source, target, images, distances = find_points_in_spheres(
            places, places, r=self.cutoff, pbc=periodic, lattice=cell, tol=1e-8
        )
        keep = (source != target) | (distances > 1e-8)
        graph, lattice, _ = Atoms2Graph(self._net.element_types, self.cutoff).get_graph_from_processed_structure(
            atoms, source[keep], target[keep], images[keep], cell[None], self._net.element_types,
            places @ np.linalg.inv(cell), is_atoms=True,
        )  # fmt: skip
        graph.pos = graph.frac_coords @ lattice[0]
        graph.pbc_offshift = graph.pbc_offset @ lattice[0]
        return graph

    def _energies(self, prepared: list[Any]) -> Any:
        """Run the model on a batch; its layers are then in ``feature_dict``."""
        import torch
        from torch_geometric.data import Batch

        state = torch.zeros(len(prepared), 2, dtype=torch.float32, device=self._device)
        return self._net(g=Batch.from_data_list(prepared).to(self._device), state_attr=state)

    def _forward(self, prepared: list[Any]) -> tuple[Array32, Array32]:
        import torch

        with torch.no_grad():
            self._energies(prepared)
        layers = self._net.feature_dict
        atoms = layers[self._last]["node_feat"].to(torch.float32).cpu().numpy()
        if self._net.is_intensive:
            return layers["readout"].to(torch.float32).cpu().numpy().reshape(len(prepared), -1), atoms
        ends = np.cumsum([g.num_nodes for g in prepared])
        return np.stack([part.mean(axis=0) for part in np.split(atoms, ends[:-1])]), atoms

    def _check_licl(self) -> None:
        import torch

        def energies(cells: Sequence[Atoms]) -> Any:
            with torch.no_grad():
                return self._energies([self._prepare(cell) for cell in cells]).cpu().numpy()

        # element references and the mean shift every energy alike; only the scale's sign matters, and it is positive
        found = lithium_chloride(energies)
        if not found.plausible:
            raise InputError(
                f"With the potential of {self.name} {found.sentence}: it was loaded wrongly or never trained; take "
                "the model's current release."
            )
