"""Sampling: encode frames, and choose those that cover the space (2DIRECT)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aqvolt_flows.sampling import direct

if TYPE_CHECKING:
    from aqvolt_flows.sampling.direct.coverage import Coverage
    from aqvolt_flows.sampling.direct.known import Known
    from aqvolt_flows.sampling.direct.method import TwoStageDirect, direct_select
    from aqvolt_flows.sampling.direct.selection import Selection
    from aqvolt_flows.sampling.direct.state import SampledSpace

__all__ = ["Coverage", "Known", "SampledSpace", "Selection", "TwoStageDirect", "direct_select"]


def __getattr__(name: str) -> Any:
    """Import numba only when a selection is asked for; the makers' module stays light."""
    if name in __all__:
        return getattr(direct, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
