"""Training in a script: labels in, a model string out, outside a project."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones
from jobflow import JobStore, run_locally
from labelled_splits import label, write_split
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


@pytest.mark.slow
def test_two_releases_are_trained_on_together_without_what_is_bad(nowhere: Path) -> None:
    """By hand: 8 frames, and 2 of the 4 that have a stress, of 8 atoms in batches of 16 are 5 steps an epoch."""
    good = [label("LiCl", 5.13, seed, cubic=True) for seed in range(8)]
    others = [label("LiF", 4.03, seed, cubic=True) for seed in range(5)]
    del others[2].calc.results["stress"]
    validation = {"a": [label("LiCl", 5.13, seed) for seed in (70, 71)], "b": [label("LiF", 4.03, 72)]}
    for name, train in (("a", good), ("b", others)):
        write_split(nowhere / name, "train", train)
        write_split(nowhere / name, "val", validation[name])
        (nowhere / name / "manifest.json").write_text("{}")
    mixture = [{"release": str(nowhere / "a")}, {"release": str(nowhere / "b"), "weight": 0.5}]
    epochs = {"steps": None, "epochs": 3}
    toy = TOY | {"mixture": mixture, "on_bad_labels": "drop", "direct": TOY["direct"] | epochs}
    found = run(TrainMaker(parameters=toy, device="cpu").make())
    assert found.status == "trained", found.failure
    assert (found.n_train, found.n_val, found.validated_on) == (12, 3, "val")
    assert found.stages[0]["steps"] == 3 * 5  # 8 + 2 frames of 8 atoms, two in a batch
    by_source = found.stages[1]["sources"]  # two and one validation frames: means over all are weighted by them
    assert set(by_source) == {"a", "b"}
    whole = (2 * by_source["a"]["energy_per_atom_mae"] + by_source["b"]["energy_per_atom_mae"]) / 3
    assert found.stages[1]["metrics"]["energy_per_atom_mae"] == pytest.approx(whole, rel=1e-5)
    (dropped,) = found.preflight["findings"]
    assert dropped["sentence"].startswith("1 of 5 train labels of b have no stress")
    assert [s["weight"] for s in found.preflight["sources"]] == [1.0, 0.5]
    assert found.preflight["references"]["undetermined"] == ["Li - F - Cl"]


def test_a_mixture_and_a_release_are_not_both_given(nowhere: Path) -> None:
    maker = TrainMaker(parameters=TOY | {"mixture": [{"release": str(nowhere)}]})
    with pytest.raises(InputError, match=r"A release was given beside parameters\.mixture"):
        maker.make(labels(2))


def test_a_training_too_short_for_its_average_is_a_failed_document(nowhere: Path) -> None:
    found = run(TrainMaker(parameters=TOY | {"ema_decay": 0.9}, device="cpu").make(labels(4)))
    assert (found.status, found.failure.reason) == ("failed", "bad_input")
    assert "training.direct has 2 steps, fewer than the 10 that the averaged weights remember" in found.failure.message
