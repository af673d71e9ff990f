"""The registry from model string to potential."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.identity import file_sha256

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Energy (eV, total), forces (n_atoms, 3; eV/Å) and stress (6; eV/Å³, ASE sign and order)."""

    energy: float
    forces: Array
    stress: Array


class Potential(Protocol):
    """What every loaded potential can do."""

    name: str
    device: str

    def evaluate(self, systems: Sequence[Atoms], max_batch_atoms: int = 2048) -> list[Evaluation]:
        """Return one :class:`Evaluation` per system, in order, computed in batches of at most so many atoms."""
        ...

    def calculator(self) -> Calculator:
        """Return an ASE calculator."""
        ...

    def torchsim_model(self) -> Any:
        """Return a torch-sim ``ModelInterface``, or raise :class:`ResourceError` if the family has none."""
        ...


@dataclass(frozen=True)
class Family:
    """One family of potentials.

    Attributes
    ----------
    pattern
        How its model strings look, for messages.
    module
        Module with ``load(model, device)``; imported only on loading.
    package
        What must be installed, and with which extra.
    known
        Model strings with weights inside the package → (package path of the weights, SHA-256).
    """

    pattern: str
    module: str
    package: str
    extra: str
    known: dict[str, tuple[str, str]]


#: SHA-256 of weights are those of the files in sevenn 0.13.0 and chgnet 0.4.2 from PyPI.
FAMILIES: dict[str, Family] = {
    "sevennet": Family(
        pattern="7net-mf-0/R2SCAN",
        module="aqvolt_flows.potentials.sevennet",
        package="sevenn",
        extra="mlip",
        known={
            "7net-mf-0/R2SCAN": (
                "pretrained_potentials/SevenNet_MF_0/checkpoint_sevennet_mf_0.pth",
                "81791329b37d445f46b531578c182c41792d98c7814222c9e5dde276402225fd",
            )
        },
    ),
    "chgnet": Family(
        pattern="chgnet/r2scan",
        module="aqvolt_flows.potentials.chgnet",
        package="chgnet",
        extra="mlip",
        known={
            "chgnet/r2scan": (
                "pretrained/r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar",
                "8eba3db0f35a2788bb3ae22885ad340591e27996f213c6643af522a633b50dad",
            )
        },
    ),
    "fairchem": Family(
        pattern="fairchem:PATH",
        module="aqvolt_flows.potentials.fairchem",
        package="fairchem.core",
        extra="train",
        known={},
    ),
}


def families() -> list[str]:
    """Return how model strings look, one example per family."""
    return [f.pattern for f in FAMILIES.values()]


def _family(model: str) -> Family:
    for family in FAMILIES.values():
        if model in family.known:
            return family
    if model.startswith("fairchem:") and model != "fairchem:":
        return FAMILIES["fairchem"]
    known = [m for f in FAMILIES.values() for m in f.known]
    close = difflib.get_close_matches(model, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else "check the spelling."
    raise InputError(f"There is no potential {model!r}; known are {', '.join(families())}: {hint}")


def _weights(family: Family, model: str) -> Path:
    """Return the weights' path, or raise if package or file is not there."""
    if model.startswith("fairchem:"):
        path = Path(model.removeprefix("fairchem:"))
        if not path.is_file():
            raise ResourceError(
                f"Potential {model!r}: there is no checkpoint {path}; give the path of an inference_ckpt.pt."
            )
        return path
    spec = importlib.util.find_spec(family.package)
    if spec is None or not spec.submodule_search_locations:
        raise ResourceError(
            f"Potential {model!r} needs the package {family.package}; install it with pip install "
            f"'aqvolt-flows[{family.extra}]'."
        )
    return Path(next(iter(spec.submodule_search_locations))) / family.known[model][0]


def model_hash(model: str) -> str:
    """Return the SHA-256 of the model's weights; needs no torch, and no weights for shipped models.

    Raises
    ------
    InputError
        If no family knows the string.
    ResourceError
        If a checkpoint given by path is not there.
    """
    family = _family(model)
    if model in family.known:
        return family.known[model][1]
    return _cached_sha256(str(_weights(family, model).resolve()), _weights(family, model).stat().st_mtime_ns)


@cache
def _cached_sha256(path: str, _mtime_ns: int) -> str:
    return file_sha256(path)


def check_model(model: str) -> None:
    """Raise unless the potential can be loaded here: known string, package present, weights as known.

    Raises
    ------
    InputError
        If no family knows the string, or the weights are not those the string names.
    ResourceError
        If the package or the checkpoint is missing.
    """
    family = _family(model)
    if importlib.util.find_spec(family.package.split(".")[0]) is None:
        raise ResourceError(
            f"Potential {model!r} needs {family.package}; install it with pip install 'aqvolt-flows[{family.extra}]'."
        )
    path = _weights(family, model)
    if model in family.known:
        seen = _cached_sha256(str(path), path.stat().st_mtime_ns)
        if seen != family.known[model][1]:
            raise InputError(
                f"The weights of {model!r} at {path.name} hash to {seen[:12]}…, expected "
                f"{family.known[model][1][:12]}…; "
                f"install the version of {family.package} that the lock file pins."
            )


def load_potential(model: str, device: str = "cpu") -> Potential:
    """Return a loaded potential; the same model and device are loaded once per process.

    Weights inside packages are loaded only if their hash is the known one. A ``fairchem:`` checkpoint
    is a pickle, and loading one runs code: load those you or people you trust made.

    Parameters
    ----------
    model
        Model string.
    device
        torch device, e.g. ``cpu`` or ``cuda:0``.
    """
    check_model(model)
    return _load(model, device, model_hash(model))


@cache
def _load(model: str, device: str, _hash: str) -> Potential:
    loader: Callable[[str, str], Potential] = importlib.import_module(_family(model).module).load
    return loader(model, device)


def batches(sizes: Sequence[int], max_batch_atoms: int) -> list[list[int]]:
    """Group indices into consecutive batches of at most ``max_batch_atoms`` atoms (one system at least)."""
    groups: list[list[int]] = []
    atoms = 0
    for index, size in enumerate(sizes):
        if not groups or atoms + size > max_batch_atoms:
            groups.append([])
            atoms = 0
        groups[-1].append(index)
        atoms += size
    return groups
