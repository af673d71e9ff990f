from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from jobflow import Flow, JobStore, Response, run_locally
from maggma.stores import MemoryStore

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.identity import file_sha256
from aqvolt_flows.models import resolve_model
from aqvolt_flows.potentials import load_potential
from aqvolt_flows.schemas.parameters import TrainingParameters
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.schemas.release import ReleaseDocument
from aqvolt_flows.stores import Database
from aqvolt_flows.training.export import export_model
from aqvolt_flows.training.jobs import TrainStageMaker, TwoStageTrainMaker, model_id_of, train_key
from aqvolt_flows.training.resume import ResumeError
from aqvolt_flows.training.stages import DivergedError, StageStoppedError, load_checkpoint, strip_direct_head

HASH = "ab" * 32
TOY: dict[str, Any] = {
    "architecture": "eSEN-toy",
    "n_layers": 2,
    "sphere_channels": 16,
    "hidden_channels": 16,
    "n_distance_basis": 16,
    "cutoff_a": 5.0,
    "ema_decay": 0.8,
    "direct": {
        "steps": 30,
        "max_atoms": 24,
        "max_neighbors": 30,
        "learning_rate": 4e-3,
        "bf16": True,
        "energy_coefficient": 10,
        "force_coefficient": 30,
    },
    "conservative": {
        "steps": 60,
        "max_atoms": 24,
        "max_neighbors": 300,
        "learning_rate": 5e-3,
        "bf16": False,
        "energy_coefficient": 40,
        "force_coefficient": 60,
        "stress_coefficient": 60,
    },
}


@pytest.fixture
def released(database: Database, release: Path) -> Database:
    """The database with the document of the toy release."""
    document = ReleaseDocument(
        key="k",
        release_id="toy@1",
        name="toy",
        content_hash=HASH,
        counts={"total": 28},
        protocols={"lj": 28},
        path=release.name,
        manifest={},
    )
    database.upsert("releases", [document])
    return database


def run(flow: Flow, tmp_path: Path) -> Any:
    """Run a flow to its end and return its output."""
    store = JobStore(MemoryStore())
    store.connect()
    root = tmp_path / "launch"
    root.mkdir(exist_ok=True)
    responses = run_locally(flow, store=store, ensure_success=True, root_dir=root)
    return responses[flow.jobs[-1].uuid][1].output


def flow_of(parameters: dict[str, Any]) -> Flow:
    return TwoStageTrainMaker(parameters=parameters).make("toy@1", HASH, train_key(parameters, HASH))


def test_the_key_knows_parameters_and_data_and_nothing_else():
    assert train_key(TOY, HASH) == train_key(TrainingParameters(**TOY), HASH)
    assert train_key(TOY, HASH) != train_key(TOY | {"seed": 1}, HASH)
    assert train_key(TOY, HASH) != train_key(TOY, "cd" * 32)
    assert train_key({}, HASH) == train_key({"n_layers": 4}, HASH)


def test_the_flow_is_two_jobs_of_plain_values():
    flow = flow_of(TOY)
    first, second = flow.jobs
    assert list(second.input_references) == [first.output]
    assert len(json.dumps(flow.as_dict(), default=str)) < 20_000


def test_an_oversize_structure_is_a_failed_model(released: Database, tmp_path: Path):
    parameters = TOY | {"conservative": TOY["conservative"] | {"max_atoms": 7}}
    output = run(flow_of(parameters), tmp_path)
    stored = list(released["models"].find({}, {"_id": 0}))
    assert len(stored) == 1
    assert stored[0]["status"] == output["status"] == "failed"
    assert stored[0]["failure"]["reason"] == "bad_input"
    message = stored[0]["failure"]["message"]
    assert "6 of 24 train labels have more atoms than a batch (up to 8, training.conservative.max_atoms = 7)" in message
    assert "train-0, train-4, train-8" in message
    assert "set training.on_oversize: drop or a larger max_atoms" in message
    assert stored[0]["model_id"] == output["model_id"] == model_id_of(train_key(parameters, HASH))


def test_an_empty_training_split_is_a_failed_model(released: Database, release: Path, tmp_path: Path):
    np.savez(release / "exports/aselmdb/train/metadata.npz", natoms=np.zeros(0, dtype=np.int64))
    assert "empty training split" in run(flow_of(TOY), tmp_path)["failure"]["message"]


def test_what_a_machine_lacks_is_no_document(released: Database, release: Path):
    make = TrainStageMaker.make.original  # the function inside the job
    shutil.rmtree(release / "exports")
    with pytest.raises(ResourceError, match="--export aselmdb"):
        make(TrainStageMaker(parameters=TOY), "toy@1", HASH, "k")
    with pytest.raises(InputError, match="plan it again"):
        make(TrainStageMaker(parameters=TOY), "toy@1", "cd" * 32, "k")
    assert released["models"].count_documents({}) == 0


def test_the_key_of_earlier_trainings_is_kept():
    """Seen before these fields came; how a run is continued, watched or fits into memory is not part of it."""
    assert train_key(TOY, HASH) == "271b148aba64908a882d16f0"
    direct = TOY["direct"] | {"activation_checkpointing": True}
    assert train_key(TOY | {"resume": "any", "best_by": "stress_mae", "direct": direct}, HASH) == train_key(TOY, HASH)


@pytest.mark.parametrize(
    "change",
    [
        {"on_divergence": "stop"},
        {"max_skips": 3},
        {"max_loss_ratio": 10.0},
        {"direct": TOY["direct"] | {"batch_atoms": 48}},
    ],
)
def test_what_changes_the_result_changes_the_key(change: dict):
    assert train_key(TOY | change, HASH) != train_key(TOY, HASH)


def made_of(monkeypatch: pytest.MonkeyPatch, outcome: Callable[..., Any]) -> Any:
    """Run stage 1's job with another function in the place of the trainer."""
    monkeypatch.setattr("aqvolt_flows.training.jobs.train_stage", outcome)
    return TrainStageMaker.make.original(TrainStageMaker(parameters=TOY), "toy@1", HASH, train_key(TOY, HASH))


def raising(error: Exception) -> Callable[..., Any]:
    def outcome(*_: Any, **__: Any) -> Any:
        raise error

    return outcome


def test_a_stage_that_stopped_in_time_is_replaced_by_itself(released: Database, monkeypatch: pytest.MonkeyPatch):
    response = made_of(monkeypatch, raising(StageStoppedError("stopped after 2 steps")))
    assert isinstance(response, Response)
    (job,) = response.replace.jobs if isinstance(response.replace, Flow) else [response.replace]
    assert job.maker == TrainStageMaker(parameters=TOY)
    assert job.function_args == ("toy@1", HASH, train_key(TOY, HASH), None)
    assert released["models"].count_documents({}) == 0


def test_a_job_after_its_time_waits_and_does_not_spin(released: Database, monkeypatch: pytest.MonkeyPatch):
    slept: list[float] = []
    monkeypatch.setattr("aqvolt_flows.training.jobs.time.sleep", slept.append)
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 60))  # the allocation ends within stop_before_s
    made_of(monkeypatch, raising(StageStoppedError("stopped")))
    assert slept.count(30.0) == 1, "the patch is of time.sleep itself: other threads sleep, too"


def test_divergence_is_the_models_failure(released: Database, monkeypatch: pytest.MonkeyPatch):
    output = made_of(monkeypatch, raising(DivergedError("The training diverged: at step 3.")))
    stored = released["models"].find_one({"key": output["key"]})
    assert stored["failure"]["reason"] == output["failure"]["reason"] == "diverged"
    assert "at step 3" in stored["failure"]["message"]


@pytest.mark.parametrize("error", [ResumeError("was 1 and is 2"), ResourceError("the disk is full")])
def test_what_says_nothing_about_the_training_is_no_document(
    released: Database, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    with pytest.raises(type(error), match=str(error)):
        made_of(monkeypatch, raising(error))
    assert released["models"].count_documents({}) == 0


def test_a_truncated_file_is_a_failed_model(released: Database, release: Path, tmp_path: Path):
    (file,) = (release / "exports/aselmdb/train").glob("*.aselmdb")
    with file.open("r+b") as handle:
        handle.truncate(file.stat().st_size - 1)
    output = run(flow_of(TOY), tmp_path)
    assert output["failure"]["reason"] == "bad_input"
    assert "was cut short" in output["failure"]["message"]


@pytest.mark.slow  # imports fairchem
def test_a_file_that_is_no_checkpoint_is_one_sentence(tmp_path: Path):
    junk = tmp_path / "junk.pt"
    junk.write_bytes(b"no pickle at all")
    with pytest.raises(InputError, match="not a checkpoint that torch wrote"):
        load_potential(f"fairchem:{junk}@sha256:{file_sha256(junk)}").torchsim_model()
    with pytest.raises(InputError, match="not a checkpoint that torch wrote"):
        strip_direct_head(junk, tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()


WORKER = """
import json, sys
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from aqvolt_flows.training.jobs import TwoStageTrainMaker
given = json.loads(sys.argv[1])
flow = TwoStageTrainMaker(parameters=given["parameters"]).make("toy@1", given["hash"], given["key"])
run_locally(flow, store=JobStore(MemoryStore()), root_dir=given["root"])
"""


def killed_when(there: Path, tmp_path: Path, key: str) -> None:
    """Run the training in a process group of its own and SIGKILL all of it once a file is there."""
    root = tmp_path / f"killed-{there.parent.name}"
    root.mkdir()
    arguments = json.dumps({"parameters": TOY, "hash": HASH, "key": key, "root": str(root)})
    worker = subprocess.Popen([sys.executable, "-c", WORKER, arguments], start_new_session=True)
    try:
        deadline = time.monotonic() + 150
        while not there.exists():
            assert worker.poll() is None, "the worker ended before it could be killed"
            assert time.monotonic() < deadline, "no checkpoint in time"
            time.sleep(0.01)
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_stages_from_three_kills_to_a_potential(
    released: Database, tmp_path: Path, labelled_atoms: Callable[..., Atoms]
):
    """Killed in stage 1, between the stages, and in stage 2."""
    key = train_key(TOY, HASH)
    folder = released.settings.path(f".aqvolt/training/{key}")
    killed_when(folder / "direct/checkpoints/step_10/.metadata", tmp_path, key)
    assert not (folder / "direct/checkpoints/final/.metadata").exists()
    killed_when(folder / "stripped.pt", tmp_path, key)
    assert (folder / "direct/checkpoints/final/.metadata").exists()
    assert not any(folder.glob("conservative/checkpoints/step_*"))
    killed_when(folder / "conservative/checkpoints/step_20/.metadata", tmp_path, key)
    output = run(flow_of(TOY), tmp_path)

    document = released["models"].find_one({}, {"_id": 0})
    assert document["status"] == output["status"] == "trained", document["failure"]
    assert document["model_id"] == model_id_of(key)
    direct, conservative = document["stages"]
    assert (direct["steps"], conservative["steps"]) == (30, 60)
    assert direct["attempts"] == 2  # resumed once, and not started again by the two later workers
    assert conservative["attempts"] in (2, 3)  # the second worker was killed while or before it started
    for stage in (direct, conservative):
        assert stage["metrics"]["forces_mae"] < 0.5 * stage["metrics_first"]["forces_mae"]
        assert stage["metrics"]["forces_cosine_similarity"] > 0.8
        assert stage["batch"]["atoms_per_step_limit"] == 24
        assert stage["best"]["metric"] == "forces_mae"
        assert stage["n_skipped"] == 0
    best = ArtifactRef(**conservative["best"]["checkpoint"])
    assert load_checkpoint(released.artifacts.local_path(best)).model_state_dict
    assert set(conservative["metrics"]) >= {"energy_per_atom_mae", "forces_mae", "stress_mae"}

    weights_are_kept_but_for_the_force_head(released, output, tmp_path)
    it_predicts_derivatives_of_its_energy(released, document, labelled_atoms)
    again = run(flow_of(TOY), tmp_path)
    assert again["checkpoint"] == document["checkpoint"]
    assert list(released["models"].find({}, {"_id": 0})) == [document]


def weights_are_kept_but_for_the_force_head(database: Database, output: dict[str, Any], tmp_path: Path) -> None:
    """Stage 1's checkpoint is stored, is no potential, and stripped keeps all other weights bit for bit."""
    import torch

    others = (output["checkpoint"]["sha256"], output["stages"][1]["best"]["checkpoint"]["sha256"])
    (source,) = [p for p in Path(database.artifacts.root).rglob("*.pt") if not p.name.startswith(others)]
    with pytest.raises(InputError, match="predicts energy, forces; expected energy, forces and stress"):
        load_potential(f"fairchem:{source}@sha256:{file_sha256(source)}").torchsim_model()
    strip_direct_head(source, tmp_path / "stripped.pt")
    before, after = load_checkpoint(source), load_checkpoint(tmp_path / "stripped.pt")
    lost = before.model_state_dict.keys() - after.model_state_dict.keys()
    assert lost
    assert all("output_heads.forces." in name for name in lost)
    assert any("output_heads.energy." in name for name in after.model_state_dict)
    assert all(torch.equal(before.model_state_dict[name], value) for name, value in after.model_state_dict.items())
    with pytest.raises(InputError, match=r"another architecture \(sphere_channels 16 instead of 128\)"):
        strip_direct_head(source, tmp_path / "other.pt", {"sphere_channels": 128, "num_layers": 2})
    with pytest.raises(InputError, match="expected energy and forces of a direct stage"):
        strip_direct_head(tmp_path / "stripped.pt", tmp_path / "twice.pt")


def it_predicts_derivatives_of_its_energy(
    database: Database, document: dict[str, Any], labelled_atoms: Callable[..., Atoms]
) -> None:
    """Independent: central differences of the energy, F = -dE/dx and stress = dE/dε / V (ASE's sign).

    The step of 0.01 Å leaves an error of second order of about 3e-4 eV/Å, and float32 one of 2e-4 eV/Å.
    """
    assert ArtifactRef(**document["checkpoint"]).bytes > 0
    resolved = resolve_model(database, document["model_id"])
    assert document["model"] == document["model_id"]
    assert str(database.settings.path(".")) not in json.dumps(document["stages"]) + document["model"]
    assert {stage["curve"]["format"] for stage in document["stages"]} == {"parquet"}
    assert set(document["stages"][1]["validation"][""]) >= {"energy_per_atom_mae", "forces_mae", "stress_mae"}
    assert set(document["references"]) == {"Li", "F", "Cl"}
    it_is_a_folder_that_fairchem_loads(database, document, labelled_atoms)
    potential = load_potential(resolved.load)
    atoms = labelled_atoms("LiCl", 5.13, 77, cubic=True)
    atoms.calc = None
    h, moved = 0.01, []
    for sign in (1, -1):
        for atom, axis in ((0, 0), (3, 2)):
            shifted = atoms.copy()
            shifted.positions[atom, axis] += sign * h
            moved.append(shifted)
        for i, j in ((0, 0), (1, 2)):
            strain = np.zeros((3, 3))
            strain[i, j] += sign * h / 8
            strain[j, i] += sign * h / 8
            strained = atoms.copy()
            strained.set_cell(atoms.cell[:] @ (np.eye(3) + strain), scale_atoms=True)
            moved.append(strained)
    here, *energies = [e if i == 0 else e.energy for i, e in enumerate(potential.evaluate([atoms, *moved], 16))]
    slopes = (np.array(energies[:4]) - np.array(energies[4:])) / (2 * np.array([h, h, h / 4, h / 4]))
    assert np.abs(here.forces).max() > 0.1  # else the comparison would say nothing
    assert -slopes[:2] == pytest.approx([here.forces[0, 0], here.forces[3, 2]], abs=1e-3)
    expected = [here.stress[0], here.stress[3]]
    assert slopes[2:] / atoms.get_volume() == pytest.approx(expected, abs=5e-5)
    atoms.calc = potential.calculator()
    assert atoms.get_potential_energy() == pytest.approx(here.energy, abs=1e-4)
    assert atoms.get_forces() == pytest.approx(here.forces, abs=1e-4)
    assert atoms.get_stress() == pytest.approx(here.stress, abs=1e-5)


#: No module of ours can be imported: what runs below is fairchem alone.
ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("aqvolt"):
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
from ase.io import read
from fairchem.core import FAIRChemCalculator
atoms = read("atoms.xyz")
atoms.calc = FAIRChemCalculator.from_model_checkpoint("inference_ckpt.pt", inference_settings="batch", device="cpu")
print(repr(float(atoms.get_potential_energy())), float(abs(atoms.get_forces()).max()), atoms.get_stress().shape)
assert not [m for m in sys.modules if m.startswith("aqvolt")]
"""


def it_is_a_folder_that_fairchem_loads(
    database: Database, document: dict[str, Any], labelled_atoms: Callable[..., Atoms]
) -> None:
    """The exported folder, in a process that cannot import us, gives the energy that we compute."""
    folder = export_model(database, document["model_id"], database.settings.path("out"))
    atoms = labelled_atoms("LiCl", 5.13, 5)
    atoms.calc = None
    atoms.write(folder / "atoms.xyz")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ALONE], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    energy, force, shape = done.stdout.strip().splitlines()[-1].split(" ", 2)
    (ours,) = load_potential(str(folder)).evaluate([atoms])
    assert float(energy) == pytest.approx(ours.energy, abs=1e-4)
    assert float(force) == pytest.approx(float(np.abs(ours.forces).max()), abs=1e-4)
    assert shape == "(6,)"
