"""aqvolt-flows: workflows that make machine-learning datasets and potentials for solid electrolytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aqvolt_flows.datasets.loaded import load_release

__all__ = ["load_release"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what reads releases only when it is asked for."""
    if name == "load_release":
        from aqvolt_flows.datasets.loaded import load_release

        return load_release
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
