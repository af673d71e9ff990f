"""Encoders: frames in, structure and atom features out; one protocol for all families.

An encoder string names a family and a model:

====================  =========================================================  =====================================
string                structure vector                                           atom vector
====================  =========================================================  =====================================
``chgnet/r2scan``     ``crystal_fea`` over the number of atoms (64)              ``atom_fea`` (64), before the last
                                                                                 graph convolution
``m3gnet:PATH``       ``readout`` of an intensive model (128 at 64 units), or    node features of the last graph
                      the mean of the last ``gc_`` layer of a potential          convolution, ``gc_3`` (64)
``fairchem:PATH``     mean of the atom vectors                                   scalar (l = 0) part of the backbone's
                                                                                 node embedding (its channels)
====================  =========================================================  =====================================

CHGNet's own ``crystal_fea`` is a sum over atoms. It is divided by their number here, so that a cell and its
supercell have one place in the structural space, as in M3GNet's readout, which is an average already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aqvolt_flows.errors import InputError
from aqvolt_flows.potentials import check_model, model_hash
from aqvolt_flows.sampling.encoders.base import Encoder

if TYPE_CHECKING:
    pass


#: How encoder strings look, for messages.
PATTERNS = ("chgnet/r2scan", "m3gnet:PATH", "fairchem:PATH")


def encoder_hash(name: str) -> str:
    """Return the hash of an encoder's weights; needs no torch.

    Raises
    ------
    InputError
        If there is no such encoder.
    ResourceError
        If a checkpoint given by path is not there.
    """
    if name.startswith("m3gnet:") and name != "m3gnet:":
        from aqvolt_flows.sampling.encoders.m3gnet import checkpoint_hash

        return checkpoint_hash(name)
    if name == "chgnet/r2scan" or (name.startswith("fairchem:") and name != "fairchem:"):
        return model_hash(name)
    raise InputError(f"There is no encoder {name!r}; known are {', '.join(PATTERNS)}.")


def check_encoder(name: str) -> None:
    """Raise unless the encoder can be loaded here.

    Raises
    ------
    InputError
        If there is no such encoder, or its checkpoint is one that must not be used.
    ResourceError
        If its package or weights are missing.
    """
    encoder_hash(name)
    if name.startswith("m3gnet:"):
        from aqvolt_flows.sampling.encoders.m3gnet import check_checkpoint

        check_checkpoint(name)
    else:
        check_model(name)


def load_encoder(name: str, device: str = "cpu") -> Encoder:
    """Return an encoder by its string.

    Parameters
    ----------
    name
        One of :data:`PATTERNS`. A ``fairchem:`` checkpoint is a pickle, and loading one runs code: load those
        that you or people you trust made.
    device
        torch device, e.g. ``cpu`` or ``cuda:0``.

    Raises
    ------
    InputError, ResourceError
        As :func:`check_encoder`.
    """
    check_encoder(name)
    if name.startswith("m3gnet:"):
        from aqvolt_flows.sampling.encoders.m3gnet import M3GNetEncoder

        return M3GNetEncoder(name, device)
    if name.startswith("fairchem:"):
        from aqvolt_flows.sampling.encoders.fairchem import FairChemEncoder

        return FairChemEncoder(name, device)
    from aqvolt_flows.sampling.encoders.chgnet import CHGNetEncoder

    return CHGNetEncoder(name, device)
