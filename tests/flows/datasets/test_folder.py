"""A release's folder: verified, compared, exported, fetched, and opened by those who read its formats."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import ase.io
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest_release import SPLITS, changed, create, independent_content_hash, make_labels, rows_of, tree

from aqvolt_flows.datasets import folder
from aqvolt_flows.datasets.release import create_release
from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.releases import release_folder, release_path

pytestmark = pytest.mark.usefixtures("no_pictures")


def test_readers_of_others_open_it(labelled, parameters, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    document, path = create(labelled, changed(parameters, exports=["extxyz"]), tmp_path / "releases")
    files = {s: str(path / "data" / f"{s}.parquet") for s in SPLITS}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    whole = datasets.load_dataset(str(path), cache_dir=str(tmp_path / "cache2"))  # by the card's front matter
    assert (
        {s: len(d) for s, d in loaded.items()} == {s: len(d) for s, d in whole.items()} == document.counts["by_split"]
    )
    assert np.array(loaded["train"][0]["positions"]).shape == (8, 3)
    for split, rows in rows_of(path).items():
        frames = ase.io.read(path / "exports" / "extxyz" / f"{split}.extxyz", index=":")
        assert len(frames) == len(rows)
        for atoms, row in zip(frames, rows, strict=True):
            assert atoms.info["frame_id"] == row["frame_id"]
            assert atoms.info["label_id"] == row["label_id"]
            assert atoms.get_potential_energy() == pytest.approx(row["energy"], abs=1e-6)
            np.testing.assert_allclose(atoms.get_forces(), row["forces"], atol=1e-7)
            np.testing.assert_allclose(atoms.get_stress(), row["stress"], atol=1e-7)
            np.testing.assert_allclose(atoms.positions, row["positions"], atol=1e-7)
            assert atoms.pbc.all()


def test_fairchem_opens_the_lmdb(labelled, parameters, tmp_path):
    ase_datasets = pytest.importorskip("fairchem.core.datasets")
    _, path = create(labelled, changed(parameters, exports=["aselmdb"]), tmp_path / "releases")
    for split, rows in rows_of(path).items():
        source = path / "exports" / "aselmdb" / split
        dataset = ase_datasets.AseDBDataset(
            {"src": str(source), "a2g_args": {"r_energy": True, "r_forces": True, "r_stress": True}}
        )
        assert len(dataset) == len(rows)
        assert dataset.get_metadata("natoms", list(range(len(rows)))) == [8] * len(rows)
        for index, row in enumerate(rows):
            atoms = dataset.get_atoms(index)
            assert atoms.get_potential_energy() == row["energy"]
            np.testing.assert_array_equal(atoms.get_forces(), row["forces"])
            np.testing.assert_array_equal(atoms.get_stress(), row["stress"])
            np.testing.assert_array_equal(atoms.positions, row["positions"])
            np.testing.assert_array_equal(atoms.cell.array, row["cell"])
            assert atoms.numbers.tolist() == row["atomic_numbers"]
            assert (atoms.info["frame_id"], atoms.info["label_id"]) == (row["frame_id"], row["label_id"])
            assert not {"energy", "forces", "stress"} & set(atoms.info)
        assert float(dataset[0].energy) == pytest.approx(rows[0]["energy"], rel=1e-6)
        del dataset
    folder.verify(path)  # readers leave nothing behind that looks like tampering


class TestVerify:
    @pytest.fixture
    def released(self, labelled, parameters, tmp_path):
        return create(labelled, parameters, tmp_path / "releases")[1]

    def test_a_whole_release_passes(self, released):
        found = folder.verify(released)
        assert found["content_hash"] == independent_content_hash(released)

    @pytest.mark.parametrize("name", ["data/train.parquet", "README.md", "stats.json", "frames.tsv", "croissant.json"])
    def test_a_changed_file_is_named(self, released, name):
        data = bytearray((released / name).read_bytes())
        data[len(data) // 2] ^= 1
        (released / name).write_bytes(data)
        with pytest.raises(InputError, match=f"{name} was changed"):
            folder.verify(released)

    def test_missing_and_added_files_are_named(self, released):
        (released / "data" / "val.parquet").unlink()
        (released / "data" / "extra.parquet").write_bytes(b"x")
        with pytest.raises(
            InputError, match=r"data/extra\.parquet is not in the manifest; data/val\.parquet is missing"
        ):
            folder.verify(released)

    def test_a_forged_manifest_is_caught_by_its_content(self, released):
        path = released / "data" / "test.parquet"
        table = pq.read_table(path)
        energies = table.column("energy").to_numpy() + 1.0
        pq.write_table(table.set_column(table.schema.get_field_index("energy"), "energy", [energies]), path)
        manifest = json.loads((released / "manifest.json").read_text())
        manifest["files"]["data/test.parquet"] = {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        (released / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(
            InputError, match=f"content_hash.*{len(energies)} rows are not as .* first frame-.* in test"
        ):
            folder.verify(released)

    @pytest.mark.parametrize("keep", [0.5, 0.999])
    def test_a_truncated_parquet_is_named(self, released, keep):
        path = released / "data" / "train.parquet"
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
        with pytest.raises(InputError, match=r"data/train\.parquet was changed"):
            folder.verify(released)
        with pytest.raises(InputError, match=r"train\.parquet is not a readable Parquet"):
            list(folder.read_release(released))

    def test_forged_counts_are_caught(self, released):
        manifest = json.loads((released / "manifest.json").read_text())
        manifest["counts"]["by_split"]["train"] += 1
        (released / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(InputError, match=r"counts\.by_split"):
            folder.verify(released)

    def test_a_truncated_parquet_is_refused_by_export(self, released, tmp_path):
        path = released / "data" / "train.parquet"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(InputError, match="not a readable Parquet"):
            folder.export(released, "extxyz", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_what_is_no_release_is_refused(self, tmp_path):
        with pytest.raises(InputError, match=r"no readable manifest\.json"):
            folder.verify(tmp_path)
        (tmp_path / "manifest.json").write_text("{")
        with pytest.raises(InputError, match="not JSON"):
            folder.verify(tmp_path)

    def test_a_damaged_folder_stops_creating_it_again(self, labelled, parameters, released):
        (released / "README.md").write_text("mine")
        with pytest.raises(InputError, match=r"README\.md was changed"):
            create_release(labelled, parameters, released.parent)
        assert (released / "README.md").read_text() == "mine"


def test_releases_without_a_list_of_frames_are_compared_by_their_data(labelled, parameters, tmp_path):
    _, old = create(labelled, parameters, tmp_path / "releases")
    labelled["labels"].update_one({"frame_id": "frame-0002"}, {"$set": {"energy": -50.0}})
    _, new = create(labelled, parameters, tmp_path / "releases")
    by_list = folder.diff(old, new)
    (old / "frames.tsv").unlink()
    assert folder.diff(old, new) == by_list
    assert by_list["relabelled"] == ["frame-0002"]
    (new / "frames.tsv").write_text("aqvolt-release/1\n")
    with pytest.raises(InputError, match=r"frames\.tsv was changed"):
        folder.diff(old, new)


def test_a_release_of_an_earlier_version_lacks_columns_and_is_read(labelled, parameters, tmp_path):
    _, path = create(labelled, parameters, tmp_path / "releases")
    for split in SPLITS:
        file = path / "data" / f"{split}.parquet"
        pq.write_table(pq.read_table(file).drop_columns(["magmoms", "bandgap", "record_id", "provenance"]), file)
    rows = dict(folder.read_release(path))
    assert all(row.magmoms is row.bandgap is row.provenance is None for row in rows.values())
    folder.export(path, "parquet", tmp_path / "out")
    assert pq.read_table(tmp_path / "out" / "train.parquet").column("magmoms").null_count > 0


def test_an_export_that_fails_leaves_nothing(labelled, parameters, tmp_path):
    _, path = create(labelled, parameters, tmp_path / "releases")
    (path / "data" / "val.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"val\.parquet"):
        folder.export(path, "extxyz", tmp_path / "out" / "deep")
    assert not list(tmp_path.rglob("*.part"))
    assert not (tmp_path / "out" / "deep").exists()


def test_diff_lists_what_changed(labelled, parameters, tmp_path):
    _, old = create(labelled, parameters, tmp_path / "releases")
    labelled["labels"].delete_one({"frame_id": "frame-0001"})
    labelled["labels"].update_one({"frame_id": "frame-0002"}, {"$set": {"energy": -50.0}})
    labelled.upsert("labels", make_labels([60]))
    _, new = create(labelled, changed(parameters, max_force_ev_per_a=700.0), tmp_path / "releases")
    found = folder.diff(old, new)
    assert (found["added"], found["removed"], found["relabelled"]) == (["frame-0060"], ["frame-0001"], ["frame-0002"])
    assert found["filters"] == {"max_force_ev_per_a": [800.0, 700.0]}
    assert not found["same"]
    assert folder.diff(old, old)["same"]


@pytest.mark.parametrize("format", ["parquet", "extxyz", "aselmdb", "matpes-json"])
def test_export_writes_every_split(labelled, parameters, tmp_path, format):
    document, path = create(labelled, parameters, tmp_path / "releases")
    assert folder.export(path, format, tmp_path / "out") == document.counts["by_split"]
    with pytest.raises(InputError, match="not an empty folder"):
        folder.export(path, format, tmp_path / "out")
    if format == "parquet":
        assert tree(tmp_path / "out") == {
            k.removeprefix("data/"): v for k, v in tree(path).items() if k.startswith("data/")
        }


def test_unknown_export_format(labelled, parameters, tmp_path):
    _, path = create(labelled, parameters, tmp_path / "releases")
    with pytest.raises(InputError, match="known are parquet, aselmdb, extxyz, matpes-json"):
        folder.export(path, "xlsx", tmp_path / "out")


def test_the_row_of_a_frame_is_found_without_a_database(labelled, parameters, tmp_path):
    _, path = create(labelled, parameters, tmp_path / "releases")
    for split, rows in rows_of(path).items():
        assert folder.frame_split(path, rows[0]["frame_id"]) == {rows[0]["label_id"]: split}
    assert folder.frame_split(path, "frame-9999") == {}


def test_a_moved_release_still_verifies(labelled, parameters, tmp_path):
    _, path = create(labelled, parameters, tmp_path / "releases")
    moved = Path(shutil.copytree(path, tmp_path / "elsewhere"))
    assert folder.verify(moved) == folder.verify(path)


def test_a_release_folder_can_be_fetched_from_the_artifact_store(labelled, parameters):
    """What another machine, with the database and the store but not the folder, reads: the same bytes."""
    root = labelled.settings.path(labelled.settings.release_root)
    exported = changed(parameters, exports=["extxyz"])
    document, path = create(labelled, exported, root)
    labelled.upsert("releases", [document])
    before = tree(path)
    shutil.rmtree(path)
    row = labelled["releases"].find_one({"release_id": document.release_id})
    assert release_path(labelled, row) == path
    assert not path.exists()
    assert release_folder(labelled, row) == path
    assert tree(path) == before
    folder.verify_files(path)
    shutil.rmtree(path)
    with pytest.raises(ResourceError, match=r"no files in the artifact store; copy the folder"):
        release_folder(labelled, row | {"files": []})
    assert [p for p in root.iterdir() if p.name.startswith(".")] == []
