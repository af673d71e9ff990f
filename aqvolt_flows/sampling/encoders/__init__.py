"""Encoders: frames in, structure and atom features out; one protocol for all families."""

from __future__ import annotations

from aqvolt_flows.sampling.encoders.base import BatchedEncoder, Encoder, Features, FlatEncoder
from aqvolt_flows.sampling.encoders.flat import FlatFrames
from aqvolt_flows.sampling.encoders.registry import (
    ENCODERS,
    EncoderEntry,
    check_encoder,
    encoder_hash,
    load_encoder,
)

__all__ = [
    "ENCODERS",
    "BatchedEncoder",
    "Encoder",
    "EncoderEntry",
    "Features",
    "FlatEncoder",
    "FlatFrames",
    "check_encoder",
    "encoder_hash",
    "load_encoder",
]
