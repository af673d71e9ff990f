"""Potentials by model string, for exploration, labeling and benchmarks alike.

A model string names a family and a model: ``7net-mf-0/R2SCAN``, ``chgnet/r2scan``, ``fairchem:PATH``,
``matgl:FOLDER``, ``mace:PATH@sha256:HASH``. Importing this package imports no torch; loading a potential does.
"""

from aqvolt_flows.potentials.given import ase_calculator
from aqvolt_flows.potentials.physics import LatticeCheck, check_physics
from aqvolt_flows.potentials.registry import (
    Evaluation,
    Potential,
    check_elements,
    check_model,
    families,
    load_potential,
    model_hash,
    model_version,
)

__all__ = [
    "Evaluation",
    "LatticeCheck",
    "Potential",
    "ase_calculator",
    "check_elements",
    "check_model",
    "check_physics",
    "families",
    "load_potential",
    "model_hash",
    "model_version",
]
