"""Encoders by string: frames in, structure and atom features out; one protocol for all.

``ENCODERS`` holds this package's and those of other packages, found through the entry-point group
``aqvolt.encoders``: an entry point names an :class:`EncoderEntry` object (docs/extending_encoder.md). Of this package:

====================  =========================================================  =====================================
string                structure vector                                           atom vector
====================  =========================================================  =====================================
``chgnet/r2scan``     ``crystal_fea`` over the number of atoms (64)              ``atom_fea`` (64), before the last
                                                                                 graph convolution
``m3gnet:PATH``       ``readout`` of an intensive model (128 at 64 units), or    node features of the last graph
                      the mean of the last ``gc_`` layer of a potential          convolution, ``gc_3`` (64)
``m3gnet:PATH#A+B``   ``readout`` or ``mean(gc_1)``, …                           ``gc_1``, …, or ``embedding``
``fairchem:PATH``     mean of the atom vectors                                   scalar (l = 0) part of the backbone's
                                                                                 node embedding (its channels)
====================  =========================================================  =====================================

CHGNet's own ``crystal_fea`` is a sum over atoms. It is divided by their number here, so that a cell and its
supercell have one place in the structural space, as in M3GNet's readout, which is an average already.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.identity import content_hash
from aqvolt_flows.registries import Registry
from aqvolt_flows.sampling.encoders.base import Encoder


@dataclass(frozen=True)
class EncoderEntry:
    """One family of encoders.

    Attributes
    ----------
    name
        Of the family.
    pattern
        How its encoder strings look: one string, or ``scheme:PATH`` for models named by a path.
    load
        ``(encoder string, device) -> Encoder``, or its address ``module:callable``, imported only on loading.
    sha256
        ``(encoder string) -> str``, hash of the weights, and of layers that the string chooses, without importing
        torch; or its address.
    check
        ``(encoder string) -> None``, raises where the encoder cannot be loaded here; or its address. None: nothing
        but the package is needed.
    layer
        Which layers the vectors are, for people.
    package, install
        What must be installed, and how.
    version
        Raise it when the same weights give other features, if only in the last digits: it is part of
        :func:`encoder_hash`, so that features of two versions are not mixed.
    """

    name: str
    pattern: str
    load: Callable[[str, str], Encoder] | str
    sha256: Callable[[str], str] | str
    layer: str
    package: str
    install: str = "install it"
    check: Callable[[str], None] | str | None = None
    version: int = 1

    @property
    def scheme(self) -> str | None:
        """What encoder strings begin with, the colon included, where models are named by a path; else None."""
        return f"{self.pattern.split(':')[0]}:" if ":" in self.pattern else None

    def owns(self, name: str) -> bool:
        """Return whether an encoder string is of this family."""
        return name == self.pattern if self.scheme is None else name.startswith(self.scheme) and name != self.scheme


_POTENTIALS = "aqvolt_flows.potentials.registry"
_HERE = "aqvolt_flows.sampling.encoders"
ENCODERS: Registry[EncoderEntry] = Registry(
    "family of encoders",
    EncoderEntry,
    [
        EncoderEntry(
            name="chgnet",
            pattern="chgnet/r2scan",
            load=f"{_HERE}.chgnet:CHGNetEncoder",
            sha256=f"{_POTENTIALS}:model_hash",
            check=f"{_POTENTIALS}:check_model",
            layer="crystal_fea/n_atoms+atom_fea",
            package="chgnet",
            version=2,  # graphs of a batch at once: other last digits than version 1
            install="pip install 'aqvolt-flows[mlip]'",
        ),
        EncoderEntry(
            name="m3gnet",
            pattern="m3gnet:PATH",
            load=f"{_HERE}.m3gnet:M3GNetEncoder",
            sha256=f"{_HERE}.m3gnet_checkpoint:checkpoint_hash",
            check=f"{_HERE}.m3gnet_checkpoint:check_checkpoint",
            layer="readout, or mean of the last gc_, + last gc_; or as m3gnet:PATH#readout+gc_1 says",
            package="matgl",
            version=2,  # as chgnet
            install="pip install 'aqvolt-flows[m3gnet]'",
        ),
        EncoderEntry(
            name="fairchem",
            pattern="fairchem:PATH",
            load=f"{_HERE}.fairchem:FairChemEncoder",
            sha256=f"{_POTENTIALS}:model_hash",
            check=f"{_POTENTIALS}:check_model",
            layer="mean(node_embedding[l=0])+node_embedding[l=0]",
            package="fairchem",
            install="pip install 'aqvolt-flows[train]'",
        ),
    ],
    group="aqvolt.encoders",
)


def patterns() -> list[str]:
    """Return how encoder strings look, one example per family."""
    return [entry.pattern for entry in ENCODERS.values()]


def path_schemes() -> list[str]:
    """Return what encoder strings begin with that name a model by a path, e.g. ``m3gnet:``."""
    return [entry.scheme for entry in ENCODERS.values() if entry.scheme is not None]


def encoder_entry(name: str) -> EncoderEntry:
    """Return the family of an encoder string.

    Raises
    ------
    InputError
        If there is no such encoder.
    """
    for entry in ENCODERS.values():
        if entry.owns(name):
            return entry
    close = difflib.get_close_matches(name, patterns(), n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else "check the spelling."
    left_out = f" {' '.join(ENCODERS.problems)}" if ENCODERS.problems else ""
    raise InputError(f"There is no encoder {name!r}; known are {', '.join(patterns())}: {hint}{left_out}")


def encoder_hash(name: str) -> str:
    """Return the hash of an encoder: of its weights, and of its version above the first; needs no torch.

    Raises
    ------
    InputError
        If there is no such encoder.
    ResourceError
        If a checkpoint given by path is not there.
    """
    entry = encoder_entry(name)
    weights = str(_called(entry.sha256)(name))
    return weights if entry.version == 1 else content_hash({"weights": weights, "version": entry.version})


def check_encoder(name: str) -> None:
    """Raise unless the encoder can be loaded here.

    Raises
    ------
    InputError
        If there is no such encoder, or its checkpoint is one that must not be used.
    ResourceError
        If its package or weights are missing.
    """
    entry = encoder_entry(name)
    encoder_hash(name)
    if importlib.util.find_spec(entry.package) is None:
        raise ResourceError(f"Encoder {name!r} needs {entry.package}; {entry.install}.")
    if entry.check is not None:
        _called(entry.check)(name)


def load_encoder(name: str, device: str = "cpu") -> Encoder:
    """Return an encoder by its string; it carries the hash of its entry unless it has set one itself.

    Parameters
    ----------
    name
        As :func:`patterns` shows. A ``fairchem:`` checkpoint is a pickle, and loading one runs code: load those
        that you or people you trust made.
    device
        torch device, e.g. ``cpu`` or ``cuda:0``.

    Raises
    ------
    InputError, ResourceError
        As :func:`check_encoder`.
    """
    check_encoder(name)
    encoder: Encoder = _called(encoder_entry(name).load)(name, device)
    if not encoder.sha256:
        encoder.sha256 = encoder_hash(name)
    return encoder


def _called(reference: Callable[..., Any] | str) -> Callable[..., Any]:
    """Return a callable, imported where its address is given."""
    if not isinstance(reference, str):
        return reference
    module, _, name = reference.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found
