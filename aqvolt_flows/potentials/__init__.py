"""Potentials by model string, for exploration, labeling and benchmarks alike.

A model string names a family and a model: ``7net-mf-0/R2SCAN``, ``chgnet/r2scan``, ``fairchem:PATH``.
Importing this package imports no torch; loading a potential does.
"""

from aqvolt_flows.potentials.registry import (
    Evaluation,
    Potential,
    check_model,
    families,
    load_potential,
    model_hash,
)

__all__ = ["Evaluation", "Potential", "check_model", "families", "load_potential", "model_hash"]
