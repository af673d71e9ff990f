"""Readers of structure files: CIF, POSCAR, extxyz, ASE trajectories, JSON and what else pymatgen reads."""
