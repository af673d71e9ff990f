"""Sampling: encode frames, and choose those that cover the space (2DIRECT)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aqvolt_flows.sampling.direct import Selection, TwoStageDirect, direct_select

__all__ = ["Selection", "TwoStageDirect", "direct_select"]


def __getattr__(name: str) -> Any:
    """Import scikit-learn only when a selection is asked for; the makers' module stays light."""
    if name in __all__:
        from aqvolt_flows.sampling import direct

        return getattr(direct, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
