"""aqvolt-flows: workflows that make machine-learning datasets and potentials for solid electrolytes."""

__version__ = "0.1.0"
