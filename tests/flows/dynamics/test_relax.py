"""Batched relaxation against ASE's own, and batches of which a part cannot be evaluated."""

from __future__ import annotations

import argon
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from aqvolt_flows.dynamics import relax
from aqvolt_flows.potentials.given import as_potential
from aqvolt_flows.schemas.generation import RelaxationParameters


def test_displaced_crystals_of_one_batch_end_where_ase_ends_within_1_mev_and_a_hundredth_of_an_angstrom():
    starts = []
    for seed, metal in enumerate(("Cu", "Ag")):
        crystal = bulk(metal, cubic=True) * (1, 1, 1 + seed)
        crystal.set_cell(crystal.cell[:] @ (np.eye(3) + 0.03 * np.random.default_rng(seed).normal(size=(3, 3))), True)
        crystal.rattle(0.1, seed=seed)
        starts.append(crystal)
    starts[0].symbols[0] = "Au"
    parameters = RelaxationParameters(force_tolerance_ev_per_a=0.004, max_steps=400)
    structures = [AseAtomsAdaptor.get_structure(atoms) for atoms in starts]
    for atoms, ours in zip(
        starts, relax.torchsim_relaxer(as_potential(EMT(), "cpu"), parameters)(structures), strict=True
    ):
        atoms.calc = EMT()
        assert FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=0.004, steps=400)
        assert ours.converged
        assert ours.energy_per_atom == pytest.approx(atoms.get_potential_energy() / len(atoms), abs=1e-3)
        np.testing.assert_allclose(ours.structure.lattice.abc, atoms.cell.lengths(), atol=0.01)
        moved = np.asarray(ours.structure.frac_coords) - atoms.get_scaled_positions(wrap=False)
        moved -= np.round(moved)
        moved -= moved.mean(axis=0)
        assert np.linalg.norm(moved @ ours.structure.lattice.matrix, axis=1).max() < 0.01


def test_a_batch_that_cannot_be_evaluated_is_halved_until_the_culprit_is_alone(monkeypatch):
    sizes = []
    optimize = relax._optimize

    def counted(model, structures, parameters, fixed_cell):
        sizes.append(len(structures))
        if any(s.lattice.a < 3.1 for s in structures):
            raise RuntimeError("CUDA error: an illegal memory access")
        return optimize(model, structures, parameters, fixed_cell)

    monkeypatch.setattr(relax, "_optimize", counted)
    crystals = [Structure(Lattice.cubic(a), ["Ar"], [[0, 0, 0]]) for a in (3.8, 3.9, 3.0, 3.7, 3.8, 3.9, 3.85, 3.75)]
    found = relax.relax_batch(argon.model(), crystals, RelaxationParameters(max_steps=20))
    assert [r.failure.reason if r.failure and r.failure.reason == "relaxation_error" else "" for r in found] == [
        *("", "", "relaxation_error"),
        *[""] * 5,
    ]
    assert "illegal memory access" in found[2].failure.message
    assert sizes == [8, 4, 2, 2, 1, 1, 4]
