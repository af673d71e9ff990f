"""The energy that forces and stress do not explain: nothing along a smooth path, the offset where there is one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from aqvolt_flows.exploration.aimd_seams import jump_at, unexplained_energy
from aqvolt_flows.frames import Frame


def copper(time: float, step: int) -> Frame:
    """Copper by ASE's EMT: atoms and cell move smoothly with time; forces and stress are ASE's, not ours."""
    rng = np.random.default_rng(7)
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    fractional = atoms.get_scaled_positions() + 0.02 * rng.normal(size=(8, 3)) + 0.02 * time * rng.normal(size=(8, 3))
    strain = np.eye(3) + 0.03 * time * (rng.normal(size=(3, 3)) + np.eye(3))
    atoms.set_cell(atoms.cell.array @ strain)
    atoms.set_scaled_positions(fractional)
    positions = fractional @ atoms.cell.array  # unfolded
    atoms.calc = EMT()
    return Frame(
        trajectory_id="t",
        step=step,
        temperature=300.0,
        energy=atoms.get_potential_energy(),
        atomic_numbers=atoms.numbers.astype(np.int16),
        positions=positions,
        cell=atoms.cell.array,
        forces=atoms.get_forces(),
        stress=atoms.get_stress(),
    )


def test_forces_and_stress_explain_a_smooth_path_to_third_order():
    """EMT's energies; half the step leaves an eighth (the trapezoidal rule's error is of third order)."""
    assert SinglePointCalculator is not None
    left = []
    for h in (0.2, 0.1, 0.05):
        a, b = copper(0.4, 1), copper(0.4 + h, 2)
        assert abs(b.energy - a.energy) / 8 > 1e-3, "the path must do work"
        left.append(unexplained_energy(a, b))
    assert abs(left[-1]) < 1e-5
    assert left[0] / left[1] == pytest.approx(8, rel=0.3)
    assert left[1] / left[2] == pytest.approx(8, rel=0.3)


def test_an_offset_is_found_where_it_is_and_nowhere_else():
    frames = [copper(0.02 * i, i + 1) for i in range(12)]
    moved = [replace(f, energy=f.energy + 8 * 0.005) if f.step >= 7 else f for f in frames]  # 5 meV/atom
    jump, scatter = jump_at(moved, 7, [7])
    assert jump == pytest.approx(0.005, abs=5e-6)
    assert scatter < 1e-5
    assert jump_at(frames, 7, [7])[0] == pytest.approx(0, abs=5e-6)


def test_where_steps_are_missing_nothing_is_said():
    frames = [copper(0.02 * i, i + 1) for i in range(6)]
    assert jump_at([f for f in frames if f.step != 4], 4, [4])[0] is None
    assert jump_at([f for f in frames if f.step != 3], 4, [4])[0] is None
    assert jump_at(frames[2:4], 4, [4]) == (pytest.approx(0, abs=1e-5), None), "nothing to compare it with"
    assert jump_at([], 4, [4]) == (None, None)
