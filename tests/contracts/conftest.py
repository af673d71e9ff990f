"""Frames to label."""

from fake_vasp.fixtures import store_frames

__all__ = ["store_frames"]
