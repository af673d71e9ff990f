"""Encoders: frames in, structure and atom features out; one protocol for all families."""

from __future__ import annotations

from aqvolt_flows.sampling.encoders.base import BatchedEncoder, Encoder, Features
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
    "check_encoder",
    "encoder_hash",
    "load_encoder",
]
