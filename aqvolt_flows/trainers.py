"""The registry of trainers: everything that differs between eSEN, fine-tunings and other packages' trainers.

A trainer is an entry of :data:`TRAINERS` and a module, imported when it is asked for:

====================================  ==================================================================================
``PARAMETERS``                        class of its parameters (:class:`~aqvolt_flows.schemas.base.Parameters`)
``train(task)``                       trains, resumes or recognizes what is done; returns a :class:`Trained`
``architecture_of(parameters)``       what documents call the network
``start_of(parameters)``              model string that a fine-tuning starts from, or None; optional
``check_here(parameters)``            raises where it cannot run here; optional
``flow_of(named, release)``           jobs of its own instead of one that calls ``train``; optional
====================================  ==================================================================================

Every trainer writes ``progress.jsonl`` in its run folder (docs/training.md has the records), so that curves, status and
report are the same for all. Other packages add theirs through the entry-point group ``aqvolt.trainers``
(docs/extending.md).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.identity import content_key
from aqvolt_flows.jobs import typed
from aqvolt_flows.registries import Registry
from aqvolt_flows.schemas.base import Parameters
from aqvolt_flows.work import Category

#: Raised when the same parameters and data would give another model.
PROTOCOL = "train/1"


@dataclass(frozen=True)
class TrainingTask:
    """What a trainer is given.

    Attributes
    ----------
    parameters
        Of its class.
    release
        Folder of the release; its ASE-LMDB export is in ``exports/aselmdb/SPLIT``.
    workdir
        Its run folder. It is kept until the model is stored: a killed training is started again with the same one.
    device
        torch device.
    start
        Model string that loads the starting model on this machine, for fine-tunings.
    ends_at
        When the training must have ended, as ``time.time()`` counts; None: never. A trainer that stops in time raises
        :class:`~aqvolt_flows.training.stages.StageStoppedError`; its job is then replaced by itself.
    """

    parameters: Any
    release: Path
    workdir: Path
    device: str
    start: str | None = None
    ends_at: float | None = None


@dataclass(frozen=True)
class Trained:
    """What a trainer gives back.

    Attributes
    ----------
    weights
        File of the trained weights.
    progress
        Its ``progress.jsonl``.
    channel
        Level of theory inside the weights, where there are several.
    validated_on
        ``val``, or ``train`` where the release has no validation split.
    references
        Element → energy in eV that was taken off the labels.
    force_rms
        What targets were scaled by, eV/Å.
    held_out
        ``{"split": "test", "n": …, "start": {…}, "trained": {…}}`` with ``energy_per_atom_mae`` (eV/atom),
        ``forces_mae`` (eV/Å) and ``stress_mae`` (eV/Å³, over nine components); empty without a test split.
    versions
        Packages that trained it.
    """

    weights: Path
    progress: Path
    channel: str | None = None
    validated_on: str = "val"
    references: Mapping[str, float] = field(default_factory=dict)
    force_rms: float | None = None
    held_out: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Trainer:
    """One way to make a potential from a release.

    Attributes
    ----------
    name
        In campaigns and documents.
    help
        What it is, in one phrase.
    module
        Module with what the table above names.
    family
        Scheme of the model strings that load its weights, e.g. ``fairchem``.
    suffix
        Of its weights' file.
    package
        What must be installed in this environment; empty: nothing.
    install
        How to install it, for messages.
    category
        Workers that run it.
    """

    name: str
    help: str
    module: str
    family: str
    suffix: str = "pt"
    package: str = ""
    install: str = "install it"
    category: Category = "gpu"

    def load(self) -> Any:
        """Return its module.

        Raises
        ------
        ResourceError
            If it cannot be imported.
        """
        try:
            return importlib.import_module(self.module)
        except Exception as error:  # a foreign module may fail in any way; the trainer is named
            raise ResourceError(
                f"The trainer {self.name!r} cannot be used, its module {self.module} does not import "
                f"({type(error).__name__}: {error}); mend or uninstall its package, or choose another trainer."
            ) from error

    def _function(self, name: str) -> Callable[..., Any] | None:
        found: Callable[..., Any] | None = getattr(self.load(), name, None)
        return found

    def parameters(self, values: Any) -> Parameters:
        """Return its parameters from a mapping.

        Raises
        ------
        InputError
            If a key or value is wrong.
        """
        found: Parameters = typed(values, self.load().PARAMETERS)
        return found

    def architecture(self, parameters: Any) -> str:
        """Return what documents call the network."""
        return str(self.load().architecture_of(parameters))

    def start(self, parameters: Any) -> str | None:
        """Return the model string that a fine-tuning starts from, or None."""
        look = self._function("start_of")
        return None if look is None else look(parameters)

    def check(self, parameters: Any) -> None:
        """Raise :class:`ResourceError` unless it can run here."""
        if self.package and importlib.util.find_spec(self.package.partition(".")[0]) is None:
            raise ResourceError(f"The trainer {self.name!r} needs {self.package}; {self.install}.")
        look = self._function("check_here")
        if look is not None:
            look(parameters)

    def own_flow(self) -> Callable[..., Any] | None:
        """Return the function that makes its own jobs, or None."""
        return self._function("flow_of")

    def train(self, task: TrainingTask) -> Trained:
        """Train, resume or recognize what is done."""
        found: Trained = self.load().train(task)
        return found


_TRAIN = "pip install 'aqvolt-flows[train]'"
TRAINERS: Registry[Trainer] = Registry(
    "trainer",
    Trainer,
    [
        Trainer(
            "esen",
            "eSEN in two stages, direct then conservative forces (the paper's)",
            "aqvolt_flows.training.two_stage",
            family="fairchem",
            package="fairchem.core",
            install=_TRAIN,
        ),
        Trainer(
            "sevennet",
            "fine-tuning of SevenNet with sevenn's trainer",
            "aqvolt_flows.training.fine_tune_sevennet",
            family="sevennet",
            suffix="pth",
            package="sevenn",
            install="pip install 'aqvolt-flows[mlip]'",
        ),
        Trainer(
            "fairchem",
            "fine-tuning of an eSEN or UMA checkpoint with fairchem's trainer",
            "aqvolt_flows.training.fine_tune_fairchem",
            family="fairchem",
            package="fairchem.core",
            install=_TRAIN,
        ),
        Trainer(
            "mace",
            "MACE by mace-torch in an environment of its own",
            "aqvolt_flows.training.external",
            family="mace",
            suffix="model",
        ),
    ],
    group="aqvolt.trainers",
)


@dataclass(frozen=True)
class NamedTraining:
    """One training of a campaign.

    Attributes
    ----------
    name
        In the campaign; models are named ``RELEASE-NAME`` after it.
    trainer
        Of the registry.
    parameters
        Of the trainer's class.
    """

    name: str
    trainer: Trainer
    parameters: Parameters

    @property
    def is_esen(self) -> bool:
        """Whether it is the two-stage training, which is planned with its length and takes mixtures."""
        return self.trainer.name == "esen"

    def model_name(self, release: Mapping[str, Any]) -> str:
        """Return the name of the model that it makes of a release."""
        return f"{release['name']}-{self.name}"

    def key(self, content_hash: str, start_hash: str | None = None) -> str:
        """Return the content key: trainer, parameters, data, and the weights that it starts from."""
        return content_key(
            PROTOCOL,
            trainer=self.trainer.name,
            parameters=self.parameters.model_dump(mode="json", exclude={"python"}),
            content_hash=content_hash,
            start=start_hash,
        )


def trainings_of(choices: Mapping[str, Mapping[str, Any]], base: Parameters) -> list[NamedTraining]:
    """Return the trainings that a campaign's group ``trainings`` describes.

    Parameters
    ----------
    choices
        Name → ``{"trainer": …, further keys are its parameters}``.
    base
        The campaign's group ``training``; for ``esen`` the keys of a choice replace single values of it.

    Raises
    ------
    InputError
        Naming the training, for an unknown trainer, key or value.
    """
    found = []
    for name, given in choices.items():
        if not isinstance(given, Mapping) or "trainer" not in given:
            raise InputError(f"trainings.{name} has no key trainer; known trainers are {', '.join(TRAINERS)}.")
        if not name or not all(c.isalnum() or c in "._-" for c in name):
            raise InputError(f"The training name {name!r} is not usable; write letters, digits, '.', '_' and '-' only.")
        try:
            trainer = TRAINERS[given["trainer"]]
            values = {k: v for k, v in given.items() if k != "trainer"}
            if trainer.name == "esen":
                values = _merged(base.model_dump(), values)
            found.append(NamedTraining(name, trainer, trainer.parameters(values)))
        except InputError as error:
            raise InputError(f"trainings.{name}: {error}") from None
    return found


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the values of ``changes``, groups inside it merged likewise."""
    merged = dict(base)
    for key, value in changes.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged
