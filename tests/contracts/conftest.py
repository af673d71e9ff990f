"""Frames to label, and the stand-in VASP."""

from fake_vasp.fixtures import stand_in, store_frames

__all__ = ["stand_in", "store_frames"]
