"""Checkpoints of M3GNet that matgl saved: where they are, what identifies them, and which layers they have.

matgl 4.1.2 loads checkpoints of earlier versions with only a warning, and they then compute other numbers than
they were trained to (r2SCAN LiCl has no minimum near 5.1 Å). So a checkpoint is refused when its ``model.json``
says an older model version than the installed classes have.

Which layers the vectors are can be added to the encoder string: ``m3gnet:PATH#readout+gc_1`` takes the readout for
structures and the first graph convolution for atoms, ``m3gnet:PATH#gc_1`` only says the latter. The paper speaks of an
"intermediate readout layer" and of "node features post-graph convolution", without its number; maml's ``M3GNetSite``
takes ``gc_1`` unless told otherwise, and the default here is the last one.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.identity import content_hash, file_sha256

#: Files of a model that matgl saved.
FILES = ("model.json", "model.pt", "state.pt")


def _parts(name: str) -> tuple[str, str]:
    """Return what an encoder string says of the folder and of the layers ("" if nothing)."""
    given = name.removeprefix("m3gnet:")
    folder, _, layers = given.rpartition("#")
    return (folder, layers) if folder and not Path(given).is_dir() else (given, "")


def checkpoint_folder(name: str) -> Path:
    """Return the folder of a checkpoint: a path, or matgl's local copy of a model of that name.

    Raises
    ------
    ResourceError
        If there is no such checkpoint.
    """
    given, _ = _parts(name)
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


@dataclass(frozen=True)
class Layers:
    """Which layers the vectors are.

    Attributes
    ----------
    structure
        ``readout``, or the layer whose mean over atoms it is.
    atom
        ``embedding``, or ``gc_1`` to the last graph convolution.
    """

    structure: str
    atom: str

    def __str__(self) -> str:
        """Return the layers as documents and shards name them, and as an encoder string may: ``readout+gc_3``."""
        return f"{self.structure if self.structure == 'readout' else f'mean({self.structure})'}+{self.atom}"


def layers_of(name: str) -> Layers:
    """Return the layers that an encoder string chooses, or the default: the readout or last layer, and the last layer.

    Raises
    ------
    ResourceError
        If there is no such checkpoint.
    InputError
        If the model has no such layer.
    """
    _, chosen = _parts(name)
    folder = checkpoint_folder(name)
    model = _saved(folder)[1]
    try:
        blocks, has_readout = int(model["nblocks"]), bool(model["is_intensive"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / 'model.json'} is not what matgl writes ({error!r}); give another model.") from None
    named = ["embedding", *(f"gc_{i + 1}" for i in range(blocks))]
    structure, _, atom = chosen.rpartition("+")
    atom = atom or named[-1]
    structure = structure or ("readout" if has_readout else f"mean({atom})")
    pooled = re.fullmatch(r"mean\((\w+)\)", structure)
    known = has_readout if structure == "readout" else pooled is not None and pooled[1] in named
    if atom not in named or not known:
        raise InputError(
            f"{folder.name} has no layers {chosen!r}; atoms may have {', '.join(named)}, structures "
            f"{'readout or ' if has_readout else ''}mean(gc_1) and so on: write m3gnet:PATH#gc_1 or "
            f"m3gnet:PATH#{'readout' if has_readout else 'mean(gc_1)'}+gc_1."
        )
    return Layers(structure if pooled is None else pooled[1], atom)


def checkpoint_hash(name: str) -> str:
    """Return the SHA-256 over the checkpoint's files, and over the layers if they are not the default; needs no torch.

    Raises
    ------
    ResourceError
        If there is no such checkpoint.
    InputError
        If the model has no such layer.
    """
    folder = checkpoint_folder(name)
    weights = hashlib.sha256("".join(file_sha256(folder / f) for f in FILES).encode()).hexdigest()
    if not _parts(name)[1]:
        return weights
    layers = layers_of(name)
    return weights if layers == layers_of(f"m3gnet:{folder}") else content_hash([weights, str(layers)])


def _saved(folder: Path) -> tuple[dict[str, int], dict[str, Any]]:
    """Return the classes in a ``model.json`` with their versions, and the arguments of the network."""
    try:
        saved = json.loads((folder / "model.json").read_text())
        parts = [saved, *[v for v in saved["kwargs"].values() if isinstance(v, dict) and "@class" in v]]
        versions = {str(p["@class"]): int(p.get("@model_version", 0)) for p in parts}
        return versions, parts[-1].get("init_args", parts[-1].get("kwargs"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / 'model.json'} is not what matgl writes ({error}); give another model.") from None


def check_checkpoint(name: str) -> None:
    """Raise unless matgl is installed and the checkpoint is an M3GNet of the installed version.

    Raises
    ------
    ResourceError
        If matgl or the checkpoint is missing.
    InputError
        If the checkpoint holds another model, or one of an earlier version, or has no such layer.
    """
    folder = checkpoint_folder(name)
    try:
        from matgl.apps.pes import Potential
        from matgl.models import M3GNet
    except ImportError:
        raise ResourceError(
            f"Encoder {name!r} needs matgl; install it with pip install 'aqvolt-flows[m3gnet]'."
        ) from None
    seen, _ = _saved(folder)
    if "M3GNet" not in seen:
        raise InputError(f"{folder} holds {' in '.join(reversed(seen))}; expected an M3GNet.")
    for cls in (M3GNet, Potential):
        version = seen.get(cls.__name__)
        if version is not None and version != cls.__version__:
            raise InputError(
                f"{folder} holds {cls.__name__} of version {version}; the installed matgl computes with version "
                f"{cls.__version__} and would give wrong numbers: take the model's current release."
            )
    layers_of(name)
