"""Encoders: frames in, structure and atom features out; one protocol for all families."""

from __future__ import annotations

from aqvolt_flows.sampling.encoders.base import BatchedEncoder, Encoder, Features
from aqvolt_flows.sampling.encoders.registry import check_encoder, encoder_hash, load_encoder

__all__ = ["BatchedEncoder", "Encoder", "Features", "check_encoder", "encoder_hash", "load_encoder"]
