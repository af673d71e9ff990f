"""DIRECT and 2DIRECT on arrays and shards: no database, no encoder."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aqvolt_flows.sampling.direct.coverage import Coverage
    from aqvolt_flows.sampling.direct.known import Known
    from aqvolt_flows.sampling.direct.method import TwoStageDirect, direct_select
    from aqvolt_flows.sampling.direct.selection import Selection
    from aqvolt_flows.sampling.direct.state import SampledSpace

__all__ = ["Coverage", "Known", "SampledSpace", "Selection", "TwoStageDirect", "direct_select"]

_MODULES = {
    "Coverage": "coverage",
    "Known": "known",
    "SampledSpace": "state",
    "Selection": "selection",
    "TwoStageDirect": "method",
    "direct_select": "method",
}


def __getattr__(name: str) -> Any:
    """Import numba only when a selection is asked for."""
    if name in _MODULES:
        return getattr(import_module(f"aqvolt_flows.sampling.direct.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
