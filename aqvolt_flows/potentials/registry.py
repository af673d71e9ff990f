"""The registry from model string to potential.

``FAMILIES`` holds this package's families and those of other packages, found through the entry-point group
``aqvolt.potentials``: an entry point names a :class:`Family` object (docs/extending.md).
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.chemistry import symbols_of
from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.potentials import trained
from aqvolt_flows.potentials.checkpoints import (
    channel_hash,
    check_pin,
    check_there,
    checkpoint_sha256,
    parse_name,
    split_pin,
)
from aqvolt_flows.potentials.trust import is_trusted
from aqvolt_flows.registries import Registry

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

    @property
    def elements(self) -> frozenset[int]:
        """Atomic numbers that the model was trained on."""
        ...

    def evaluate(self, systems: Sequence[Atoms], max_batch_atoms: int = 2048) -> list[Evaluation]:
        """Return one :class:`Evaluation` per system, in order, computed in batches of at most this many atoms."""
        ...

    def ase_calculator(self) -> Calculator:
        """Return the ASE calculator of the family's own package."""
        ...

    def calculator(self) -> Calculator:
        """Return :meth:`ase_calculator`."""
        ...

    def torchsim_model(self, neighbors: Any = None, max_atoms_per_call: int | None = None) -> Any:
        """Return a torch-sim ``ModelInterface`` with energy, forces and stress."""
        ...


@dataclass(frozen=True)
class Family:
    """One family of potentials.

    Attributes
    ----------
    name
        Of the family.
    pattern
        How its model strings look, for messages: one string, or ``scheme:PATH`` for models named by a path.
    module
        Module with ``load(model, device, dtype)``; imported only on loading.
    package
        What must be installed.
    install
        How to install it, for messages.
    distribution
        What is asked for the version, where it is not called as the package.
    known
        Model strings with weights inside the package → (package path of the weights, SHA-256).
    built_in
        Model strings without a file of weights → SHA-256 (64 hexadecimal digits) of what defines them, e.g.
        ``identity.content_hash`` of the parameters.
    members
        For families named by a folder: the files of a model.
    advice
        What to give where a checkpoint is not there.
    only_pinned
        Without effect: all checkpoints by path need a known hash. Kept for entries of other packages.
    plain_data
        Loading a file of it can run nothing, so that its hash need not be known: JSON that names other models.
    """

    name: str
    pattern: str
    module: str
    package: str
    install: str = "install it"
    distribution: str = ""
    known: dict[str, tuple[str, str]] = field(default_factory=dict)
    built_in: dict[str, str] = field(default_factory=dict)
    members: tuple[str, ...] = ()
    advice: str = ""
    only_pinned: bool = False
    plain_data: bool = False

    @property
    def installed(self) -> str:
        """Version of the installed distribution; empty where it is not installed."""
        try:
            return version(self.distribution or self.package.split(".")[0])
        except PackageNotFoundError:
            return ""

    def owns(self, model: str) -> bool:
        """Return whether a model string is of this family."""
        by_path = self.scheme and model.startswith(f"{self.scheme}:") and model[-1] != ":"
        return model in self.known or model in self.built_in or bool(by_path)

    @property
    def scheme(self) -> str | None:
        """What model strings begin with, without the colon, for families named by a path; else None."""
        return self.pattern.split(":")[0] if ":" in self.pattern else None


#: Hashes are those of the files in sevenn 0.13.0 and chgnet 0.4.2 from PyPI.
FAMILIES: Registry[Family] = Registry(
    "family of potentials",
    Family,
    [
        Family(
            name="sevennet",
            pattern="7net-mf-0/R2SCAN",
            module="aqvolt_flows.potentials.sevennet",
            package="sevenn",
            install="pip install 'aqvolt-flows[mlip]'",
            known={
                "7net-mf-0/R2SCAN": (
                    "pretrained_potentials/SevenNet_MF_0/checkpoint_sevennet_mf_0.pth",
                    "81791329b37d445f46b531578c182c41792d98c7814222c9e5dde276402225fd",
                )
            },
        ),
        Family(
            name="chgnet",
            pattern="chgnet/r2scan",
            module="aqvolt_flows.potentials.chgnet",
            package="chgnet",
            install="pip install 'aqvolt-flows[mlip]'",
            known={
                "chgnet/r2scan": (
                    "pretrained/r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar",
                    "8eba3db0f35a2788bb3ae22885ad340591e27996f213c6643af522a633b50dad",
                )
            },
        ),
        Family(
            name="fairchem",
            pattern="fairchem:PATH",
            module="aqvolt_flows.potentials.fairchem",
            package="fairchem.core",
            distribution="fairchem-core",
            install="pip install 'aqvolt-flows[train]'",
            advice="give the path of an inference_ckpt.pt.",
        ),
        Family(
            name="mace",
            pattern="mace:PATH",
            module="aqvolt_flows.potentials.mace",
            package="mace",
            distribution="mace-torch",
            install="pip install mace-torch, into an environment of its own: it pins e3nn 0.4.4, others need 0.5 up",
            advice="give the path of a .model file.",
        ),
        Family(
            name="matgl",
            pattern="matgl:FOLDER",
            module="aqvolt_flows.potentials.matgl",
            package="matgl",
            install="pip install 'aqvolt-flows[m3gnet]'",
            members=("model.json", "model.pt", "state.pt"),
            advice="give a folder that matgl saved; 'hf download OWNER/NAME --local-dir FOLDER' fetches a public one.",
        ),
        Family(
            name="sevennet-checkpoint",
            pattern="sevennet:PATH",
            module="aqvolt_flows.potentials.sevennet",
            package="sevenn",
            install="pip install 'aqvolt-flows[mlip]'",
            advice="give the path of a checkpoint that sevenn wrote.",
        ),
        Family(
            name="committee",
            pattern="committee:PATH",
            module="aqvolt_flows.potentials.committee",
            package="torch_sim",
            distribution="aqvolt-flows",
            install="pip install 'aqvolt-flows[mlip]'",
            advice="give the JSON file of a committee, as a loop writes it.",
            plain_data=True,  # members are checked one by one
        ),
    ],
    group="aqvolt.potentials",
)


def path_hash(path: Path) -> str:
    """Return the hash of a checkpoint's file, of the folder that a family names its models by, or of an exported model.

    Raises
    ------
    ResourceError
        If it is none of them.
    InputError
        If the weights of an exported model are not those that its folder describes.
    """
    if trained.is_folder(str(path)):
        place = trained.folder_string(path)
        return checkpoint_sha256(split_pin(place.partition(":")[2])[0])
    for family in FAMILIES.values():
        if family.members and path.is_dir() and all((path / name).is_file() for name in family.members):
            return checkpoint_sha256(path, family.members)
    check_there(str(path), path, (), "give a checkpoint, a folder that matgl saved, or one of 'aqvolt model export'.")
    return checkpoint_sha256(path)


def families() -> list[str]:
    """Return how model strings look, one example per family, and how trained models are named."""
    return [*(f.pattern for f in FAMILIES.values()), *trained.FORMS]


def model_version(model: str) -> str:
    """Return the version of the package that computes a model; empty where it is not installed.

    Raises
    ------
    InputError
        If no family knows the string.
    """
    return _family(located(model)).installed


def _family(model: str) -> Family:
    family = family_of(model)
    if family is not None:
        return family
    known = [m for f in FAMILIES.values() for m in (*f.known, *f.built_in)]
    close = difflib.get_close_matches(model, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else "check the spelling."
    left_out = f" {' '.join(FAMILIES.problems)}" if FAMILIES.problems else ""
    raise InputError(f"There is no potential {model!r}; known are {', '.join(families())}: {hint}{left_out}")


def located(model: str) -> str:
    """Return the model string to load on this machine for a trained model's identity, name or folder.

    Model strings of a family come back as they are, and so do strings that nobody knows.

    Raises
    ------
    InputError, ResourceError, DatabaseError
        If it names a trained model that cannot be had here.
    """
    return model if family_of(model) else trained.located(model) or model


def family_of(model: str) -> Family | None:
    """Return the family whose model strings look like this, or None."""
    return next((family for family in FAMILIES.values() if family.owns(model)), None)


def _weights(family: Family, model: str) -> Path:
    """Return the weights' path, or raise if package or file is not there."""
    if family.scheme:
        path, _ = split_pin(model.removeprefix(f"{family.scheme}:"))
        check_there(model, path, family.members, family.advice)
        return path
    spec = importlib.util.find_spec(family.package)
    if spec is None or not spec.submodule_search_locations:
        raise ResourceError(f"Potential {model!r} needs the package {family.package}; {family.install}.")
    return Path(next(iter(spec.submodule_search_locations))) / family.known[model][0]


def model_hash(model: str) -> str:
    """Return the SHA-256 of the model's weights; needs no torch, and no weights for shipped models.

    Where a model string names one of several levels of theory in a checkpoint, the hash is of both.

    Raises
    ------
    InputError
        If no family knows the string.
    ResourceError
        If a checkpoint given by path is not there.
    """
    model = located(model)
    family = _family(model)
    if model in family.known:
        return family.known[model][1]
    if model in family.built_in:
        return family.built_in[model]
    seen = checkpoint_sha256(_weights(family, model), family.members)
    return channel_hash(seen, parse_name(model.removeprefix(f"{family.scheme}:")).channel)


def check_model(model: str) -> None:
    """Raise unless the potential can be loaded here: known string, package present, weights as known.

    Raises
    ------
    InputError
        If no family knows the string, or the weights are not those the string names.
    ResourceError
        If the package or the checkpoint is missing.
    """
    model = located(model)
    family = _family(model)
    if importlib.util.find_spec(family.package.split(".")[0]) is None:
        raise ResourceError(f"Potential {model!r} needs {family.package}; {family.install}.")
    if model in family.built_in:
        return
    path = _weights(family, model)
    if family.scheme:
        _check_path(family, model, path)
        return
    seen, known = checkpoint_sha256(path), family.known[model][1]
    if seen != known:
        raise InputError(
            f"The weights of {model!r} at {path.name} hash to {seen[:12]}…, expected {known[:12]}…; install the "
            f"version of {family.package} that the lock file pins."
        )


def _check_path(family: Family, model: str, path: Path) -> None:
    """Raise unless the hash of a checkpoint given by path is known: pinned, trusted by the user, or of ``models``."""
    pinned = split_pin(model.removeprefix(f"{family.scheme}:"))[1]
    seen = checkpoint_sha256(path, family.members)
    if pinned:
        check_pin(model, pinned, seen)
    elif not family.plain_data and not is_trusted(seen):
        raise InputError(
            f"A {family.scheme} checkpoint can run code when it is loaded, and the hash of {path} is known neither to "
            f"'models' nor to you; if you trust whoever made it, run 'aqvolt model trust {path}' or name it as "
            f"{model}@sha256:{seen}."
        )


def load_potential(model: str, device: str = "cpu", dtype: str = "float32") -> Potential:
    """Return a loaded potential; the same model, device and precision are loaded once per process.

    Weights inside packages are loaded only if their hash is the known one, a checkpoint named by path only if its hash
    is pinned, trusted by the user or that of a model trained here (:mod:`aqvolt_flows.potentials.trust`).

    Parameters
    ----------
    model
        Model string; or the identity, name or exported folder of a trained model.
    device
        torch device, e.g. ``cpu`` or ``cuda:0``.
    dtype
        ``float32``, or ``float64`` for checks.

    Raises
    ------
    InputError, ResourceError
        As :func:`check_model`.
    """
    place = located(model)
    check_model(place)
    return _load(model, place, device, dtype, model_hash(place))


@cache
def _load(model: str, place: str, device: str, dtype: str, _hash: str) -> Potential:
    loader: Callable[[str, str, str], Potential] = importlib.import_module(_family(place).module).load
    potential = loader(place, device, dtype)
    if model != place:
        potential.name = model  # what documents say: an identity or a name, no path of this machine
    return potential


def check_elements(potential: Potential, systems: Sequence[Atoms], names: Sequence[str] | None = None) -> None:
    """Raise unless a potential knows every element of every system.

    Parameters
    ----------
    potential
        A loaded potential.
    systems
        What it is to compute.
    names
        What the systems are called in the message; by default their formulas.

    Raises
    ------
    InputError
        Naming the first system with elements that the model was not trained on, and those.
    """
    known = potential.elements
    for index, atoms in enumerate(systems):
        strange = {int(z) for z in np.unique(atoms.numbers)} - known
        if strange:
            name = names[index] if names else str(atoms.symbols)
            raise InputError(
                f"{potential.name} was not trained on {', '.join(symbols_of(sorted(strange)))}, which {name} contains; "
                "leave it out or choose another potential."
            )


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
