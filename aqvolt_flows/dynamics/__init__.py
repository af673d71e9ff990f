"""Molecular dynamics and relaxation of many systems in one batch; exploration, candidates and benchmarks share it."""
