"""Makers for any script or flow: structures in, typed documents out, whatever JobStore runs them.

They need no project, no database and no settings, take pymatgen Structures, ASE Atoms or references to the outputs of
other jobs (atomate2's too), and import torch only when they run (docs/makers.md).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aqvolt_flows.benchmarks.makers import EVScanMaker, ForceBinsMaker
    from aqvolt_flows.benchmarks.structures_maker import StructureBenchmarkMaker
    from aqvolt_flows.dynamics.relax_maker import RelaxMaker
    from aqvolt_flows.each import EachMaker
    from aqvolt_flows.exploration.aimd import AIMDMaker
    from aqvolt_flows.exploration.npt_maker import NpTMDMaker
    from aqvolt_flows.labeling.gpaw import GpawStaticMaker
    from aqvolt_flows.labeling.surrogate import SurrogateStaticMaker
    from aqvolt_flows.labeling.vasp import R2scanStaticMaker
    from aqvolt_flows.potentials.given import CalculatorRecipe
    from aqvolt_flows.sampling.direct_maker import DirectMaker
    from aqvolt_flows.training.maker import TrainMaker

__all__ = [
    "AIMDMaker",
    "CalculatorRecipe",
    "DirectMaker",
    "EVScanMaker",
    "EachMaker",
    "ForceBinsMaker",
    "GpawStaticMaker",
    "NpTMDMaker",
    "R2scanStaticMaker",
    "RelaxMaker",
    "StructureBenchmarkMaker",
    "SurrogateStaticMaker",
    "TrainMaker",
]

_MODULES = {
    "AIMDMaker": "exploration.aimd",
    "CalculatorRecipe": "potentials.given",
    "DirectMaker": "sampling.direct_maker",
    "EVScanMaker": "benchmarks.makers",
    "EachMaker": "each",
    "ForceBinsMaker": "benchmarks.makers",
    "GpawStaticMaker": "labeling.gpaw",
    "NpTMDMaker": "exploration.npt_maker",
    "R2scanStaticMaker": "labeling.vasp",
    "RelaxMaker": "dynamics.relax_maker",
    "StructureBenchmarkMaker": "benchmarks.structures_maker",
    "SurrogateStaticMaker": "labeling.surrogate",
    "TrainMaker": "training.maker",
}


def __getattr__(name: str) -> Any:
    """Import a maker's module when the maker is asked for."""
    if name in _MODULES:
        return getattr(import_module(f"aqvolt_flows.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the makers' names."""
    return sorted(__all__)
