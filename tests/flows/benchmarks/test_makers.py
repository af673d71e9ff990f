"""The benchmarks' makers outside a project: any model, labels in any form, and what is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore

from aqvolt_flows.benchmarks import ev_scan
from aqvolt_flows.errors import InputError
from aqvolt_flows.makers import CalculatorRecipe, EVScanMaker, ForceBinsMaker
from aqvolt_flows.schemas.benchmark_results import EVScanDocument, ForceBinsDocument

ARGON = {"sigma": 3.4, "epsilon": 0.0104}


def run(job, schema):
    store = JobStore(MemoryStore())
    run_locally(job, store=store, ensure_success=True, log=False)
    return schema.model_validate(store.get_output(job.uuid, load=True))


def crystals(n: int = 3):
    """fcc argon, rattled more and more, with Lennard-Jones labels."""
    found = []
    for i in range(n):
        atoms = bulk("Ar", "fcc", a=5.26, cubic=True)
        atoms.rattle(0.1 * i, seed=i)
        atoms.calc = LennardJones(**ARGON)
        atoms.get_stress()
        found.append(atoms)
    return found


def test_scan_structures_takes_a_calculator_as_people_have_it() -> None:
    (scan,) = ev_scan.scan_structures(EMT(), bulk("Cu"))
    assert scan.failure is None
    lowest = scan.volumes[int(np.argmin(scan.energies))]
    # EMT's copper has its minimum near the experimental 3.61 Å (ASE's documentation of EMT)
    assert (4 * lowest) ** (1 / 3) == pytest.approx(3.61, abs=0.08)
    with pytest.raises(InputError, match="A int was given to evaluate structures; expected a model string"):
        ev_scan.scan_structures(5, [bulk("Cu")])


def test_the_teacher_has_no_errors_and_another_model_its_own() -> None:
    labels = crystals()
    teacher = run(ForceBinsMaker(model=LennardJones(**ARGON)).make(labels), ForceBinsDocument)
    assert (teacher.n_items, teacher.n_failed) == (3, 0)
    assert teacher.metrics["overall"]["force_mae_mev_per_a"] == pytest.approx(0.0, abs=1e-9)
    recipe = CalculatorRecipe("ase.calculators.lj:LennardJones", {"sigma": 3.4, "epsilon": 0.0208})
    other = run(ForceBinsMaker(model=recipe).make(labels), ForceBinsDocument)
    # twice the well depth: twice the forces, so that the error is the force itself
    expected = np.abs(np.concatenate([a.get_forces() for a in labels])).mean() * 1e3
    assert other.metrics["overall"]["force_mae_mev_per_a"] == pytest.approx(expected, rel=1e-6)


def test_a_structure_that_the_model_cannot_compute_is_one_failure_among_results() -> None:
    job = EVScanMaker(model=EMT(), parameters={"n_points": 5}).make([bulk("Cu"), bulk("NaCl", "rocksalt", a=5.64)])
    found = run(job, EVScanDocument)
    assert (found.n_items, found.n_failed) == (2, 1)
    assert [r.failure is None for r in found.results] == [True, False]
    assert found.results[1].energies == [None] * 5
    assert found.metrics["failed_percent"] == 50.0


def test_a_model_that_cannot_be_made_is_a_failed_document() -> None:
    job = EVScanMaker(model=CalculatorRecipe("ase.calculators.lj:NoSuch")).make(bulk("Ar"))
    found = run(job, EVScanDocument)
    assert found.failure.reason == "cannot_run"
    assert "NoSuch" in found.failure.message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EVScanMaker().make(bulk("Ar"), "chgnet/r2scann"), "did you mean 'chgnet/r2scan'"),
        (lambda: EVScanMaker(model=Path("a.pt")), "A path was given as model"),
        (lambda: EVScanMaker(model=3.0), "A float was given as model"),
        (lambda: EVScanMaker(parameters={"n_pointz": 5}), "has no field 'n_pointz'; known are n_points"),
        (lambda: ForceBinsMaker(model=EMT()).make([]), "list of labeled structures is empty"),
        (lambda: ForceBinsMaker(model=EMT()).make(bulk("Ar")), "carry no energy and forces"),
        (lambda: ForceBinsMaker(model=EMT()).make("nowhere"), "is no release folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_when_the_job_is_made(make, message) -> None:
    with pytest.raises(InputError, match=message):
        make()
