"""Batched relaxation for any script."""

from __future__ import annotations

import argon
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore

from aqvolt_flows.dynamics.relax_maker import RelaxMaker
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.dynamics import RelaxDocument


def relaxed(maker: RelaxMaker, structures) -> RelaxDocument:
    store, job = JobStore(MemoryStore()), maker.make(structures)
    run_locally(job, store=store, ensure_success=True)
    return RelaxDocument(**store.get_output(job.uuid))


def test_a_relaxation_ends_where_ases_own_ends(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = bulk("Cu", cubic=True, a=3.75)
    start.rattle(0.1, seed=1)
    found = relaxed(RelaxMaker(EMT(), parameters={"force_tolerance_ev_per_a": 0.005}), [start, bulk("Ag", a=4.2)])
    atoms = start.copy()
    atoms.calc = EMT()
    assert FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=0.001, steps=500)
    copper, silver = found.relaxed
    assert copper.converged
    assert copper.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-3)
    assert copper.structure.volume == pytest.approx(atoms.get_volume(), rel=2e-3)
    assert copper.max_force < 0.005
    assert silver.converged
    assert found.structures == [copper.structure, silver.structure]
    assert found.model == "ase:EMT"


def test_one_that_fails_leaves_the_others():
    lost = bulk("Li", "bcc", a=3.4)
    short = RelaxMaker(EMT(), parameters={"max_steps": 1, "force_tolerance_ev_per_a": 1e-6})
    found = relaxed(short, [lost, bulk("Cu", cubic=True, a=3.7)])
    assert [r.failure.reason for r in found.relaxed] == ["model_error", "unconverged"]
    assert found.relaxed[0].energy is None
    assert found.relaxed[1].energy is not None
    np.testing.assert_allclose(found.relaxed[0].structure.lattice.matrix, lost.cell[:])


def test_torch_sim_models_serve_and_elements_that_a_potential_does_not_know_are_refused():
    assert relaxed(RelaxMaker(argon.model()), bulk("Ar", a=5.4)).relaxed[0].converged
    found = relaxed(RelaxMaker("chgnet/r2scan", parameters={"max_steps": 40}), [bulk("Po", "sc", a=3.3), bulk("Li")])
    assert [r.failure and r.failure.reason for r in found.relaxed] == ["unsupported_element", None]
    assert found.model_hash.startswith("8eba3db0")  # of chgnet 0.4.2's checkpoint, as the registry has it


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: RelaxMaker(EMT()).make("a.cif"), "A path was given"),
        (lambda: RelaxMaker(EMT()).make([]), "is empty"),
        (lambda: RelaxMaker([]), "A list was given as model"),
        (lambda: RelaxMaker(parameters={"fmax": 0.1}), "RelaxationParameters has no field 'fmax'"),
    ],
    ids=range(4),
)
def test_what_is_wrong_is_said_when_the_job_is_made(call, said):
    with pytest.raises(InputError, match=said):
        call()
