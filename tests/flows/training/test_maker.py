"""Training in a script: labels in, a model string out, outside a project."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore

from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import file_sha256
from aqvolt_flows.makers import ForceBinsMaker, TrainMaker
from aqvolt_flows.schemas.train import TrainDocument

STAGE = {"steps": 2, "max_atoms": 16, "max_neighbors": 20, "bf16": False, "learning_rate": 1e-3}
TOY = {
    "architecture": "eSEN-toy", "n_layers": 1, "sphere_channels": 8, "hidden_channels": 8, "n_distance_basis": 8,
    "ema_decay": 0.5, "direct": STAGE | {"energy_coefficient": 1, "force_coefficient": 1},
    "conservative": STAGE | {"energy_coefficient": 1, "force_coefficient": 1, "stress_coefficient": 1},
}  # fmt: skip


def labels(n: int, stress: bool = True):
    found = []
    for i in range(n):
        atoms = bulk("Ar", "fcc", a=5.2, cubic=True)
        atoms.rattle(0.15, seed=i)
        atoms.calc = LennardJones(sigma=3.4, epsilon=0.0104)
        atoms.get_stress() if stress else atoms.get_forces()
        if not stress:
            atoms.calc.results.pop("stress")
        found.append(atoms)
    return found


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(job) -> TrainDocument:
    store = JobStore(MemoryStore())
    run_locally(job, store=store, ensure_success=True, log=False)
    return TrainDocument.model_validate(store.get_output(job.uuid, load=True))


@pytest.mark.slow
def test_labels_become_a_model_that_loads_by_its_string(nowhere: Path) -> None:
    maker = TrainMaker(parameters=TOY, device="cpu")
    found = run(maker.make(labels(6), labels(2)))
    assert found.status == "trained", found.failure
    assert [s["stage"] for s in found.stages] == ["direct", "conservative"]
    assert [s["steps"] for s in found.stages] == [2, 2]
    assert (found.n_train, found.n_val, found.validated_on) == (6, 2, "val")
    assert file_sha256(found.checkpoint) == found.sha256
    assert set(found.references) == {"Ar"}
    # the reference of one element is the mean energy per atom, by definition of least squares
    mean = np.mean([a.get_potential_energy() / len(a) for a in labels(6)])
    assert found.references["Ar"] == pytest.approx(mean, abs=1e-6)
    from aqvolt_flows.schemas.benchmark_results import ForceBinsDocument

    store = JobStore(MemoryStore())
    job = ForceBinsMaker(model=found.model, device="cpu").make(labels(1))
    run_locally(job, store=store, ensure_success=True, log=False)
    assert ForceBinsDocument.model_validate(store.get_output(job.uuid, load=True)).n_failed == 0
    again = run(maker.make(labels(6), labels(2)))  # the run folders are there: nothing is trained again
    assert again.sha256 == found.sha256
    assert [s["attempts"] for s in again.stages] == [1, 1]


def test_labels_without_stress_are_a_failed_document_before_anything_is_trained(nowhere: Path) -> None:
    found = run(TrainMaker(parameters=TOY, device="cpu").make(labels(2, stress=False)))
    assert (found.status, found.failure.reason) == ("failed", "bad_input")
    assert "2 of 2 train labels have no stress, which the conservative stage learns: 0, 1." in found.failure.message
    assert not list(nowhere.glob("training-*"))


@pytest.mark.parametrize(
    ("given", "message"),
    [([], "is empty"), ("nowhere", "is no release folder"), ([bulk("Ar")], "carry no energy"), (5, "Label 0 is a int")],
)
def test_what_cannot_be_trained_on_is_refused_when_the_job_is_made(given, message) -> None:
    with pytest.raises(InputError, match=message):
        TrainMaker(parameters=TOY).make(given)
