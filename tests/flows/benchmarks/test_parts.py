"""Benchmarks in parts: kills, resumption, jobs, the builder, and what is in which denominator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jobflow import run_locally
from pymatgen.core import Lattice, Structure

from aqvolt_builders.registry import run_builder
from aqvolt_flows.artifacts import ArtifactStore
from aqvolt_flows.benchmark_registry import BENCHMARKS, BenchmarkEntry
from aqvolt_flows.benchmarks import jobs, parts
from aqvolt_flows.benchmarks.items import GivenItems, Item, broken_item, items_of
from aqvolt_flows.benchmarks.parts import PartedBenchmark, failed_row, row_of
from aqvolt_flows.benchmarks.rows import NOT_COVERED
from aqvolt_flows.chemistry import describe_structure
from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.models import ResolvedModel
from aqvolt_flows.potentials import model_hash
from aqvolt_flows.schemas.base import Parameters
from aqvolt_flows.schemas.candidate import CandidateDocument
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.stores import Database

CHGNET = "chgnet/r2scan"


class Volume(PartedBenchmark):
    """Volumes per atom, computed without any model; counts what it computes."""

    name, title, job_name, parameters, part_size = "volume", "Volumes", "volumes", Parameters, 2
    columns = pa.schema([("volume_per_atom", pa.float64()), ("noise", pa.float64())])
    predictions = {"cell": pa.list_(pa.float64())}  # noqa: RUF012 - a class variable of the base
    table = ("model", "n_items", "mean_volume")
    computed: list[str] = []  # noqa: RUF012 - shared on purpose: each part makes its own benchmark
    killed_at = ""

    def compute_part(self, potential, parameters, items: Sequence[Item], workdir: Path, progress) -> list[dict]:
        rows = []
        for item in items:
            if item.name == self.killed_at:
                raise KeyboardInterrupt
            self.computed.append(item.name)
            structure: Any = item.structure
            if item.name == "bad":
                rows.append(failed_row(item, Failure(reason="model_error", message="no")))
                continue
            v = structure.volume / len(structure)
            # two rows a structure, as seeds are
            rows += [
                row_of(item, volume_per_atom=v, noise=n, cell=structure.lattice.matrix.ravel().tolist(), atom_steps=10)
                for n in (0.0, 1.0)
            ]
        return rows

    def aggregate(self, rows, parameters) -> dict:
        values = [r["volume_per_atom"] for r in rows if r["volume_per_atom"] is not None]
        return {"mean_volume": float(np.mean(values)) if values else None, "n_rows": len(rows)}


class Salts:
    """A potential that knows Li and Cl."""

    name, device, elements = "salts", "cpu", frozenset({3, 17})


@pytest.fixture
def volume(monkeypatch: pytest.MonkeyPatch) -> type[Volume]:
    monkeypatch.setitem(BENCHMARKS._entries, "volume", BenchmarkEntry("volume", "volumes", f"{__name__}:Volume"))
    monkeypatch.setattr(parts, "load_potential", lambda *_: Salts())
    monkeypatch.setattr(Volume, "computed", [])
    monkeypatch.setattr(Volume, "killed_at", "")
    return Volume


def salt(a: float) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), ["Li", "Cl"], [[0] * 3, [0.5] * 3])


def add_candidates(database: Database, n: int) -> list[str]:
    structures = {f"salt {i}": salt(5.0 + 0.1 * i) for i in range(n)}
    documents = [
        CandidateDocument(
            key=f"key-{name}",
            candidate_id=f"candidate-{name[-1]}",
            name=name,
            source="user",
            status="accepted",
            structure=s.as_dict(),
            **describe_structure(s),
        )
        for name, s in structures.items()
    ]
    database.upsert("candidates", documents)
    return [d.candidate_id for d in documents]


def model() -> ResolvedModel:
    return ResolvedModel(CHGNET, CHGNET, model_hash(CHGNET))


def plain(document: Any) -> dict[str, Any]:
    return document.model_dump(exclude={"last_updated", "campaigns", "seconds", "key", "benchmark_id"})


def test_a_killed_benchmark_resumes_and_ends_in_the_same_document(database, volume, monkeypatch) -> None:
    ids = add_candidates(database, 5)
    whole = volume().run(database, model(), Parameters(), ids, "whole")
    assert volume.computed == [f"salt {i}" for i in range(5)]
    volume.computed.clear()
    monkeypatch.setattr(volume, "killed_at", "salt 3")
    with pytest.raises(KeyboardInterrupt):
        volume().run(database, model(), Parameters(), ids, "killed")
    assert database["benchmarks"].find_one({"key": "killed"}) is None
    assert database["benchmark_parts"].count_documents({"benchmark_key": "killed"}) == 1
    monkeypatch.setattr(volume, "killed_at", "")
    volume.computed.clear()
    resumed = volume().run(database, model(), Parameters(), list(reversed(ids)), "killed")
    assert volume.computed == ["salt 2", "salt 3", "salt 4"], "the first part was stored"
    assert plain(resumed) == plain(whole)
    assert (whole.n_items, whole.n_structures, whole.atom_steps) == (10, 5, 100)
    assert whole.metrics["mean_volume"] == pytest.approx(np.mean([(5 + 0.1 * i) ** 3 / 8 for i in range(5)]))
    rows = pq.read_table(database.artifacts.local_path(whole.details)).to_pylist()
    assert "cell" not in rows[0], "arrays are apart"
    cells = [r for ref in whole.predictions for r in pq.read_table(database.artifacts.local_path(ref)).to_pylist()]
    assert [r["item_id"] for r in cells] == [r["item_id"] for r in rows]
    assert cells[0]["cell"][0] == pytest.approx(5.0)


@pytest.mark.filterwarnings("ignore:Some jobs are not connected")  # jobflow, of parts that do not wait for each other
def test_a_large_set_is_one_job_a_part_and_the_last_writes_the_document(database, volume) -> None:
    ids = add_candidates(database, 5)
    job = jobs.BenchmarkMaker("volumes", "volume", {}).make(CHGNET, ids, "fanned")
    outputs = run_locally(job, ensure_success=True, log=False)
    assert outputs[job.uuid][1].output == {"benchmark_key": "fanned", "n_parts": 3}
    assert len(outputs) == 4
    stored = database["benchmarks"].find_one({"key": "fanned"})
    assert (stored["status"], stored["n_items"], stored["n_structures"]) == ("completed", 10, 5)
    assert sorted(volume.computed) == [f"salt {i}" for i in range(5)]
    assert [o[1].output["benchmark_id"] for o in outputs.values() if "benchmark_id" in o[1].output] == [
        "benchmark-fanned"
    ], "one of them wrote it"


def test_the_builder_makes_the_row_that_a_killed_worker_did_not(database, volume, monkeypatch) -> None:
    ids = add_candidates(database, 3)
    monkeypatch.setattr(volume, "finish", lambda *_: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        volume().run(database, model(), Parameters(), ids, "lost")
    assert database["benchmarks"].count_documents({}) == 0
    monkeypatch.setattr(volume, "finish", PartedBenchmark.finish)
    assert run_builder("benchmarks") == {"processed": 1, "completed": 1}
    assert database["benchmarks"].find_one({"key": "lost"})["n_items"] == 6
    assert run_builder("benchmarks") == {"processed": 0}


def test_a_part_whose_rows_were_deleted_is_computed_again(database, volume) -> None:
    ids = add_candidates(database, 2)
    items = volume().item_set(database, Parameters(), ids)
    part = volume().run_part(database, model(), Parameters(), items, "k", 0)
    database.artifacts.local_path(part.rows).unlink()
    volume.computed.clear()
    again = volume().run_part(database, model(), Parameters(), items, "k", 0)
    assert volume.computed == ["salt 0", "salt 1"]
    assert again.rows == part.rows


def test_counts_say_what_is_in_which_denominator(volume, tmp_path: Path) -> None:
    half = Structure(Lattice.cubic(4), [{"Li": 0.5, "Cl": 0.5}], [[0] * 3])
    slab = Structure(Lattice(np.eye(3) * 9, pbc=(True, True, False)), ["Li", "Cl"], [[0] * 3, [0.5] * 3])
    named = [("good", salt(5)), ("bad", salt(6)), ("rubidium", Structure(Lattice.cubic(4), ["Rb"], [[0] * 3]))]
    named += [("half", half), ("slab", slab)]
    items = [*items_of(named), broken_item("torn", "file", 1, "it ends in the middle")]
    document, rows = volume().measure(Salts(), model(), Parameters(), GivenItems(items, "mixed"), tmp_path)
    by_name = {r["name"]: r["failure_reason"] for r in rows}
    assert by_name == {
        "good": None,
        "bad": "model_error",
        "rubidium": NOT_COVERED,
        "half": "bad_structure",
        "slab": "bad_structure",
        "torn": "unreadable",
    }
    assert "not trained on Rb" in next(r["failure_message"] for r in rows if r["name"] == "rubidium")
    assert "2 of 3 directions" in next(r["failure_message"] for r in rows if r["name"] == "slab")
    assert (document.n_items, document.n_failed, document.n_not_covered, document.n_refused) == (7, 1, 1, 3)
    found = document.metrics
    assert (found["n_covered"], found["n_computed"], found["n_rows"]) == (3, 2, 3)
    assert found["failed_percent"] == pytest.approx(100 / 3)
    assert found["coverage_percent"] == pytest.approx(75.0)  # 3 of the 4 rows that could be measured
    assert found["failed_by_reason"] == {"model_error": 1}
    assert volume.computed == ["good", "bad"]


def test_equal_structures_are_two_items(volume, tmp_path: Path) -> None:
    items = items_of([("a", salt(5)), ("b", salt(5))])
    assert items[1].identity == f"{items[0].identity}-2"
    document, _ = volume().measure(Salts(), model(), Parameters(), GivenItems(items, "twins"), tmp_path)
    assert (document.n_items, document.n_structures) == (4, 2)


def test_an_empty_set_is_a_sentence(volume, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'nothing' is empty; volume needs at least one structure"):
        volume().measure(Salts(), model(), Parameters(), GivenItems([], "nothing"), tmp_path)


def test_a_full_disk_is_a_failed_document_and_the_next_run_goes_on(database, volume, monkeypatch) -> None:
    ids = add_candidates(database, 2)
    put = ArtifactStore.put_file

    def full(*_args: Any) -> None:
        raise ResourceError("The artifact store at artifacts cannot be written (No space left on device); free space.")

    monkeypatch.setattr(ArtifactStore, "put_file", full)
    job = jobs.BenchmarkMaker("volumes", "volume", {}).make(CHGNET, ids, "full")
    output = run_locally(job, ensure_success=True, log=False)[job.uuid][1].output
    assert output["status"] == "failed"
    assert "No space left on device" in output["failure"]["message"]
    monkeypatch.setattr(ArtifactStore, "put_file", put)
    assert volume().run(database, model(), Parameters(), ids, "full").status == "completed"
    assert database["benchmarks"].count_documents({}) == 1
