"""The benchmark makers on a live database, with CHGNet r2SCAN, one fake potential, and a release made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ase import Atoms
from jobflow import run_locally
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from aqvolt_flows.benchmark_registry import benchmark_named
from aqvolt_flows.benchmarks import jobs, parts
from aqvolt_flows.benchmarks.base import Wanted
from aqvolt_flows.chemistry import describe_structure
from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.models import resolve_model
from aqvolt_flows.potentials import Evaluation, load_potential
from aqvolt_flows.schemas.candidate import CandidateDocument
from aqvolt_flows.schemas.parameters import EVScanParameters, ForceBinParameters
from aqvolt_flows.schemas.provenance import ArtifactRef
from aqvolt_flows.schemas.release import ReleaseDocument
from aqvolt_flows.stores import Database

CHGNET = "chgnet/r2scan"
#: Lattice parameters near the r2SCAN minimum, Å.
LATTICES = {"LiF": ("F", 4.00), "LiCl": ("Cl", 5.10)}


def rock_salt(name: str) -> Structure:
    halogen, a = LATTICES[name]
    cubic = Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), ["Li", halogen], [[0, 0, 0], [0.5] * 3])
    return cubic.get_primitive_structure()


def add_candidates(database: Database) -> list[str]:
    documents = [
        CandidateDocument(
            key=f"key-{name}",
            candidate_id=f"candidate-{name}",
            name=name,
            source="user",
            status="accepted",
            structure=rock_salt(name).as_dict(),
            **describe_structure(rock_salt(name)),
        )
        for name in LATTICES
    ]
    database.upsert("candidates", documents)
    return [d.candidate_id for d in documents]


def add_release(database: Database, nested: bool) -> str:
    """Write a release whose labels are CHGNet's own values, energies lowered by 20 meV/atom, in one of two layouts."""
    rng = np.random.default_rng(0)
    systems = []
    for spread in (0.0, 0.05, 0.3):
        atoms = rock_salt("LiCl").to_ase_atoms(msonable=False)
        atoms.positions += rng.normal(0, spread, atoms.positions.shape)
        systems.append(atoms)
    rows = []
    for i, (atoms, e) in enumerate(zip(systems, load_potential(CHGNET).evaluate(systems), strict=True)):
        shape = (lambda a: np.asarray(a).tolist()) if nested else (lambda a: np.asarray(a).ravel().tolist())
        rows.append(
            {
                "frame_id": f"frame-{i}",
                "label_id": f"label-{i}",
                "formula": "LiCl",
                "n_atoms": 2,
                "atomic_numbers": atoms.numbers.tolist(),
                "positions": shape(atoms.positions),
                "cell": shape(atoms.cell.array),
                "energy": e.energy - 0.040,
                "forces": shape(e.forces),
                "stress": e.stress.tolist(),
            }
        )
    folder = Path(database.settings.path(database.settings.release_root)) / "demo"
    (folder / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows[:1]), folder / "data" / "train.parquet")
    pq.write_table(pa.Table.from_pylist(rows[1:]), folder / "data" / "test.parquet")
    database.upsert(
        "releases",
        [
            ReleaseDocument(
                key="key-release",
                release_id="demo@0123456789ab",
                name="demo",
                content_hash="0123456789ab",
                counts={},
                protocols={},
                path="demo",
                manifest={},
            )
        ],
    )
    return "demo@0123456789ab"


SCAN, BINS = benchmark_named("ev-scan"), benchmark_named("force_bins")


def scan_key(model: Any, parameters: EVScanParameters, ids: list[str]) -> str:
    return SCAN.key(model, parameters, SCAN.subject(Wanted(ids)))


def bins_key(model: Any, parameters: ForceBinParameters, content_hash: str) -> str:
    release = {"release_id": "demo@0123456789ab", "content_hash": content_hash}
    return BINS.key(model, parameters, BINS.subject(Wanted(release=release)))


def run(job: Any) -> dict[str, Any]:
    return run_locally(job, ensure_success=True, log=False)[job.uuid][1].output


def test_an_ev_scan_of_real_halides(database: Database) -> None:
    ids = add_candidates(database)
    parameters = EVScanParameters(n_points=11)
    key = scan_key(resolve_model(database, CHGNET), parameters, ids)
    maker = jobs.EVScanMaker(parameters=parameters.model_dump(mode="json"))
    output = run(maker.make(CHGNET, ids, key))
    assert output["benchmark_id"] == f"benchmark-{key}"
    assert (output["n_items"], output["n_failed"]) == (2, 0)
    # Both lattices are at the minimum, so that both sides are monotonic in a sound potential.
    assert output["metrics"]["spearman_compression_energy"] == pytest.approx(-1.0)
    assert output["metrics"]["spearman_tension_energy"] == pytest.approx(1.0)
    stored = database["benchmarks"].find_one({"key": key})
    rows = pq.read_table(database.artifacts.local_path(ArtifactRef(**stored["details"]))).to_pylist()
    assert [len(r["energies"]) for r in rows] == [11, 11]
    licl = next(r for r in rows if r["name"] == "LiCl")
    # The single point as given, computed apart from the benchmark.
    alone = load_potential(CHGNET).evaluate([rock_salt("LiCl").to_ase_atoms(msonable=False)])[0].energy
    assert licl["energies"][5] == pytest.approx(alone, abs=1e-4)


def test_running_again_computes_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = add_candidates(database)
    parameters = EVScanParameters(n_points=5)
    model = resolve_model(database, CHGNET)
    key = scan_key(model, parameters, ids)
    first = SCAN.run(database, model, parameters, ids, key)
    before = database["benchmarks"].find_one({"key": key})
    monkeypatch.setattr(parts, "load_potential", lambda *a: pytest.fail("computed again"))
    again = SCAN.run(database, model, parameters, list(reversed(ids)), key)
    unlike = {"last_updated", "campaigns"}  # the store says both
    assert again.model_dump(exclude=unlike) == first.model_dump(exclude=unlike)
    assert database["benchmarks"].find_one({"key": key}) == before
    assert database["benchmarks"].count_documents({}) == 1


def test_keys_follow_what_decides_the_result(database: Database) -> None:
    model = resolve_model(database, CHGNET)
    base = scan_key(model, EVScanParameters(), ["a", "b"])
    assert base == scan_key(model, EVScanParameters(), ["b", "a"])
    assert base != scan_key(model, EVScanParameters(n_points=11), ["a", "b"])
    assert base != scan_key(model, EVScanParameters(), ["a"])
    assert base != bins_key(model, ForceBinParameters(), "hash")


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])
def test_force_bins_see_the_offset_and_nothing_else(database: Database, nested: bool) -> None:
    release_id = add_release(database, nested)
    parameters = ForceBinParameters(split="all")
    key = bins_key(resolve_model(database, CHGNET), parameters, "0123456789ab")
    output = run(jobs.ForceBinsMaker(parameters=parameters.model_dump(mode="json")).make(CHGNET, release_id, key))
    overall = output["metrics"]["overall"]
    assert (output["n_items"], output["n_failed"], output["release_id"]) == (3, 0, release_id)
    assert overall["energy_mean_error_mev_per_atom"] == pytest.approx(20.0, abs=0.05)
    assert overall["force_mae_mev_per_a"] == pytest.approx(0.0, abs=0.05)
    assert overall["stress_mae_gpa"] == pytest.approx(0.0, abs=1e-3)
    assert sum(b["n_items"] for b in output["metrics"]["bins"]) == 3
    # The undisplaced rock salt has no forces: it is in the first bin.
    assert output["metrics"]["bins"][0]["n_items"] >= 1


def test_a_model_that_gives_nan_is_counted(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    release_id = add_release(database, True)

    class Broken:
        name, elements = "broken", frozenset({3, 17})

        def evaluate(self, systems: list[Atoms]) -> list[Evaluation]:
            return [Evaluation(float("nan"), np.zeros((len(s), 3)), np.zeros(6)) for s in systems]

    model = resolve_model(database, CHGNET)
    monkeypatch.setattr(parts, "load_potential", lambda *a: Broken())
    document = BINS.run(database, model, ForceBinParameters(split="all"), release_id, "broken")
    assert (document.n_items, document.n_failed) == (3, 3)
    assert document.metrics["overall"]["failed_percent"] == 100.0
    assert {f["reason"] for f in document.failures} == {"not_finite"}


def test_an_empty_split_is_a_failed_document_and_a_sentence(database: Database) -> None:
    release_id = add_release(database, True)
    parameters = ForceBinParameters(split="val")
    model = resolve_model(database, CHGNET)
    with pytest.raises(InputError, match="no labels"):
        BINS.run(database, model, parameters, release_id, "empty")
    output = run(jobs.ForceBinsMaker(parameters=parameters.model_dump(mode="json")).make(CHGNET, release_id, "empty"))
    assert output["status"] == "failed"
    assert "no labels" in output["failure"]["message"]
    assert database["benchmarks"].count_documents({"status": "failed"}) == 1


def test_an_unknown_model_is_a_failed_document(database: Database) -> None:
    output = run(jobs.EVScanMaker().make("chgnet/r2scann", add_candidates(database), "unknown"))
    assert output["status"] == "failed"
    assert "did you mean" in output["failure"]["message"]


def test_a_release_without_its_folder_is_a_sentence(database: Database) -> None:
    release_id = add_release(database, True)
    (database.settings.path("releases") / "demo").rename(database.settings.path("releases") / "moved")
    with pytest.raises(ResourceError, match="has no files in the artifact store; copy the folder there"):
        BINS.run(database, resolve_model(database, CHGNET), ForceBinParameters(), release_id, "gone")


def test_parts_of_a_release_give_what_the_whole_gives_and_predictions_give_other_bins(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    release_id = add_release(database, True)
    model, parameters = resolve_model(database, CHGNET), ForceBinParameters(split="all")
    whole = BINS.run(database, model, parameters, release_id, "whole")
    monkeypatch.setattr(type(BINS), "part_size", 2)  # a part with labels of both files
    parts = BINS.run(database, model, parameters, release_id, "parts")
    assert len(parts.predictions) == 2

    def rows(document: Any) -> list[dict[str, Any]]:
        return pq.read_table(database.artifacts.local_path(document.details)).to_pylist()

    assert (
        [r["item_id"] for r in rows(parts)] == [r["item_id"] for r in rows(whole)] == [f"label-{i}" for i in range(3)]
    )
    assert [r["subset"] for r in rows(whole)] == ["train", "test", "test"]
    assert parts.metrics["overall"]["energy_mae_mev_per_atom"] == pytest.approx(20.0, abs=0.05)
    # errors again, from the stored arrays alone
    predicted = [r for ref in parts.predictions for r in pq.read_table(database.artifacts.local_path(ref)).to_pylist()]
    labels = pq.read_table(database.settings.path("releases") / "demo" / "data" / "test.parquet").to_pylist()
    for label, found in zip(labels, predicted[1:], strict=True):
        errors = np.abs(np.array(found["forces"]) - np.ravel(label["forces"]))
        row = next(r for r in rows(parts) if r["item_id"] == label["label_id"])
        assert row["force_mae"] == pytest.approx(errors.mean(), abs=1e-5)
        assert row["energy_error"] == pytest.approx((found["energy"] - label["energy"]) / 2, abs=1e-9)
