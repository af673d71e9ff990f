"""Releases: numbers recomputed from the files by plain pyarrow and hashlib, formats opened by those who read them."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import ase.io
import label_factory
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from conftest_release import independent_content_hash, make_labels

from aqvolt_flows.datasets import folder
from aqvolt_flows.datasets.jobs import ReleaseMaker
from aqvolt_flows.datasets.release import create_release, labels_fingerprint
from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.releases import release_folder, release_path
from aqvolt_flows.schemas.parameters import ReleaseParameters

SPLITS = ("train", "val", "test")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Pictures have tests of their own (test_card.py) and take most of the time of a small release."""
    monkeypatch.setattr("aqvolt_flows.datasets.plots.available", lambda: False)


def changed(parameters, **changes):
    return ReleaseParameters(**(parameters.model_dump() | changes))


def create(database, parameters, root):
    document = create_release(database, parameters, root)
    return document, root / document.path


def tree(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def rows_of(path):
    return {s: pq.read_table(path / "data" / f"{s}.parquet").to_pylist() for s in SPLITS}


def test_the_manifest_can_be_recomputed_from_the_parquet(labelled, parameters, tmp_path):
    document, path = create(labelled, parameters, tmp_path / "releases")
    manifest = json.loads((path / "manifest.json").read_text())
    rows = rows_of(path)
    everything = [r for split in rows.values() for r in split]
    assert manifest["counts"]["by_split"] == {s: len(r) for s, r in rows.items()}
    assert manifest["counts"]["total"] == len(everything) == 30
    assert manifest["counts"]["atoms"] == sum(len(r["atomic_numbers"]) for r in everything) == 240
    assert manifest["counts"]["by_source"] == {"sampled": 30}
    assert manifest["counts"]["by_protocol"] == {label_factory.SURROGATE.name: 30} == document.protocols
    assert manifest["counts"]["rejected"] == {"unconverged": 1}
    assert manifest["content_hash"] == independent_content_hash(path) == document.content_hash
    assert manifest["release_id"] == f"halides@{document.content_hash[:12]}" == document.release_id
    assert path.name == f"halides-{document.content_hash[:12]}"
    for name, said in manifest["files"].items():
        data = (path / name).read_bytes()
        assert (said["sha256"], said["bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
    assert set(manifest["files"]) == {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()} - {
        "manifest.json"
    }


def test_the_numbers_are_the_labels(labelled, parameters, tmp_path):
    _, path = create(labelled, parameters, tmp_path / "releases")
    for split in rows_of(path).values():
        assert [r["frame_id"] for r in split] == sorted(r["frame_id"] for r in split)
        for row in split:
            number = int(row["frame_id"].rpartition("-")[2])
            result = label_factory.outcome(number, row["formula"])
            assert row["energy"] == result.energy
            assert row["positions"] == result.positions
            assert row["forces"] == result.forces
            assert row["cell"] == result.cell
            assert row["stress"] == result.stress
            assert row["max_force"] == pytest.approx(np.linalg.norm(result.forces, axis=1).max())


def test_card_and_stats_say_what_the_parquet_says(labelled, parameters, tmp_path):
    _, path = create(labelled, parameters, tmp_path / "releases")
    everything = [r for split in rows_of(path).values() for r in split]
    stats = json.loads((path / "stats.json").read_text())
    forces = np.array([np.linalg.norm(r["forces"], axis=1).max() for r in everything])
    cohesive = [r["cohesive_energy_per_atom"] for r in everything]
    assert stats["all"]["max_force"]["max"] == pytest.approx(forces.max())
    assert stats["all"]["max_force"]["median"] == pytest.approx(np.median(forces))
    assert stats["all"]["cohesive_energy_per_atom"]["mean"] == pytest.approx(np.mean(cohesive))
    assert stats["elements"] == {"Li": 30, "F": 10, "Cl": 20}
    assert stats["formulas"] == {"LiCl": 20, "LiF": 10}
    text = (path / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    meta = yaml.safe_load(front)
    assert meta["license"] == "cc-by-4.0"
    assert meta["size_categories"] == ["n<1K"]
    assert [f["split"] for f in meta["configs"][0]["data_files"]] == list(SPLITS)
    assert "SURROGATE LABELS" in body
    assert "30 of 30 labels were predicted by a machine-learning potential" in body
    for split, rows in rows_of(path).items():
        assert f"| {split} | {len(rows)} | {8 * len(rows)} |" in body
    assert f"| max force | eV/Å | {forces.mean():.4g} | {forces.min():.4g} |" in body


def test_labels_computed_by_dft_carry_no_surrogate_warning(database, parameters, tmp_path):
    database.upsert("labels", make_labels(range(5), protocol=label_factory.VASP))
    _, path = create(database, parameters, tmp_path / "releases")
    assert "SURROGATE" not in (path / "README.md").read_text()


def test_again_is_the_same_release_untouched(labelled, parameters, tmp_path):
    document, path = create(labelled, parameters, tmp_path / "releases")
    labelled.upsert("releases", [document])
    stored = labelled["releases"].find_one({})
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*")}
    again, _ = create(labelled, parameters, tmp_path / "releases")
    assert labelled.upsert("releases", [again]) == 0
    assert {p: p.stat().st_mtime_ns for p in path.rglob("*")} == before
    assert labelled["releases"].find_one({}) == stored
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]


def test_two_roots_hold_the_same_bytes(labelled, parameters, tmp_path):
    wanted = changed(parameters, exports=["aselmdb", "extxyz"])
    _, first = create(labelled, wanted, tmp_path / "a")
    _, second = create(labelled, wanted, tmp_path / "b")
    assert tree(first) == tree(second)


def test_content_hash_knows_neither_dates_nor_the_order_of_insertion(labelled, parameters, tmp_path):
    document, _ = create(labelled, parameters, tmp_path / "a")
    labelled["labels"].delete_many({})
    labels = make_labels(range(20, 30), "LiF") + make_labels(reversed(range(20)))
    labelled.upsert(
        "labels", [label.model_copy(update={"source_uuid": "another", "cost_core_hours": 9.0}) for label in labels]
    )
    assert create(labelled, parameters, tmp_path / "b")[0].content_hash == document.content_hash


@pytest.mark.parametrize("field", ["energy", "forces", "stress", "positions", "cell"])
def test_content_hash_sees_every_number(labelled, parameters, tmp_path, field):
    document, _ = create(labelled, parameters, tmp_path / "a")
    one = labelled["labels"].find_one({"frame_id": "frame-0004"})
    value = np.array(one[field], dtype=float)
    value[tuple(0 for _ in value.shape)] += 1e-4
    labelled["labels"].update_one({"frame_id": "frame-0004"}, {"$set": {field: value.tolist()}})
    assert create(labelled, parameters, tmp_path / "b")[0].content_hash != document.content_hash


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


def test_exports_can_join_an_existing_release(labelled, parameters, tmp_path):
    document, path = create(labelled, parameters, tmp_path / "releases")
    data = {k: v for k, v in tree(path).items() if k.startswith("data/")}
    again, _ = create(labelled, changed(parameters, exports=["extxyz"]), tmp_path / "releases")
    assert again.content_hash == document.content_hash
    assert {k: v for k, v in tree(path).items() if k.startswith("data/")} == data
    assert folder.verify(path)["files"] == len(tree(path)) - 1
    assert (path / "exports" / "extxyz" / "train.extxyz").is_file()


class TestFilters:
    def test_each_is_counted(self, labelled, parameters, tmp_path):
        labelled.upsert("labels", make_labels([40], forces=[[0.0, 0.0, 801.0]] + [[0.0] * 3] * 7))
        labelled.upsert("labels", make_labels([41], energy=1000.0))
        copy = label_factory.outcome(3)
        shifted = (np.array(copy.positions) + 4e-4).tolist()
        labelled.upsert("labels", make_labels([42], seed=3, positions=shifted))
        labelled["labels"].update_one({"frame_id": "frame-0007"}, {"$set": {"stress": [0.0] * 5}})
        document, _ = create(labelled, parameters, tmp_path / "releases")
        assert document.counts["dropped"] == {"max_force": 1, "cohesive_energy": 1, "duplicate": 1, "incomplete": 1}
        assert document.counts["total"] == 29
        assert document.manifest["filters"]["max_force_ev_per_a"] == 800.0
        kept = changed(parameters, duplicate_tolerance_a=0, max_force_ev_per_a=802.0, max_cohesive_energy_ev=1e6)
        assert create(labelled, kept, tmp_path / "releases")[0].counts["total"] == 32

    def test_at_the_limit_a_label_stays(self, labelled, parameters, tmp_path):
        labelled.upsert("labels", make_labels([40], forces=[[0.0, 0.0, 800.0]] + [[0.0] * 3] * 7))
        assert create(labelled, parameters, tmp_path / "releases")[0].counts["total"] == 31

    def test_nothing_left_says_how_many_by_what(self, labelled, parameters, tmp_path):
        with pytest.raises(
            InputError, match=r"30 by max_force \(largest force above 1e-09 eV/Å\).*1 rejected as unconverged"
        ):
            create_release(labelled, changed(parameters, max_force_ev_per_a=1e-9), tmp_path / "releases")
        assert not (tmp_path / "releases").exists()

    def test_no_labels_at_all(self, database, parameters, tmp_path):
        with pytest.raises(InputError, match="aqvolt build labels"):
            create_release(database, parameters, tmp_path / "releases")


class TestProtocols:
    @pytest.fixture
    def mixed(self, labelled):
        labelled.upsert("labels", make_labels(range(5), protocol=label_factory.VASP))
        return labelled

    def test_two_are_refused_and_listed(self, mixed, parameters, tmp_path):
        with pytest.raises(InputError) as error:
            create_release(mixed, parameters, tmp_path / "releases")
        for part in (
            label_factory.VASP.name,
            label_factory.SURROGATE.name,
            "5 labels",
            "30 labels",
            "--filter protocol=",
        ):
            assert part in str(error.value)
        assert not (tmp_path / "releases").exists()

    def test_one_can_be_chosen_by_name_or_identity(self, mixed, parameters, tmp_path):
        for wanted in (label_factory.VASP.name, label_factory.VASP.protocol_id):
            document, _ = create(mixed, changed(parameters, protocol=wanted), tmp_path / "releases")
            assert document.counts["by_protocol"] == {label_factory.VASP.name: 5}
            assert document.counts["dropped"] == {"other_protocol": 30}

    def test_a_mixture_that_is_allowed_says_so(self, mixed, parameters, tmp_path):
        document, path = create(mixed, changed(parameters, allow_mixed_protocols=True), tmp_path / "releases")
        assert document.counts["total"] == 35, "the same frame under two protocols is no duplicate"
        text = (path / "README.md").read_text()
        assert "Mixed theory levels" in text
        assert "30 of 35 labels were predicted" in text


class TestSplits:
    @pytest.mark.parametrize(
        ("group_by", "field"), [("trajectory", "trajectory_id"), ("candidate", "candidate_id"), ("formula", "formula")]
    )
    def test_no_group_is_in_two_splits(self, labelled, parameters, tmp_path, group_by, field):
        _, path = create(labelled, changed(parameters, group_by=group_by), tmp_path / "releases")
        seen = {}
        for split, row in folder.read_release(path):
            assert seen.setdefault(getattr(row, field), split) == split

    def test_new_labels_move_no_old_frame(self, labelled, parameters, tmp_path):
        first, old = create(labelled, parameters, tmp_path / "releases")
        assert first.manifest["splits"]["borrowed"] == {}
        labelled.upsert("labels", make_labels(range(50, 90)))
        _, new = create(labelled, parameters, tmp_path / "releases")
        found = folder.diff(old, new)
        assert (len(found["added"]), found["removed"], found["relabelled"], found["moved"]) == (40, [], [], {})

    def test_borrowing_is_in_manifest_and_card(self, database, tmp_path):
        database.upsert("labels", make_labels(range(4)))
        document, path = create(database, ReleaseParameters(name="tiny"), tmp_path / "releases")
        assert min(document.counts["by_split"].values()) == 1
        assert document.manifest["splits"]["borrowed"]
        assert "borrowed" in (path / "README.md").read_text()

    def test_a_split_without_rows_has_no_file(self, labelled, tmp_path):
        wanted = ReleaseParameters(
            name="whole", train_fraction=1.0, val_fraction=0.0, test_fraction=0.0, exports=["extxyz"]
        )
        document, path = create(labelled, wanted, tmp_path / "releases")
        assert document.counts["by_split"] == {"train": 30, "val": 0, "test": 0}
        assert [p.name for p in (path / "data").iterdir()] == ["train.parquet"]
        assert folder.verify(path)["counts"]["total"] == 30


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


def test_the_hash_of_the_list_of_frames_is_the_content_hash(labelled, parameters, tmp_path):
    document, path = create(labelled, parameters, tmp_path / "releases")
    data = (path / "frames.tsv").read_bytes()
    assert hashlib.sha256(data).hexdigest() == document.content_hash
    lines = [line.split("\t") for line in data.decode().splitlines()[1:]]
    listed = {(frame, label, split) for frame, label, split, _ in lines}
    assert listed == {(r["frame_id"], r["label_id"], s) for s, rows in rows_of(path).items() for r in rows}
    assert lines == sorted(lines)


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


def test_a_root_that_cannot_be_written(labelled, parameters, tmp_path):
    (tmp_path / "releases").write_text("a file, not a folder")
    with pytest.raises(ResourceError, match="release_root"):
        create_release(labelled, parameters, tmp_path / "releases")


def test_a_failure_half_way_leaves_nothing(labelled, parameters, tmp_path, monkeypatch):
    from aqvolt_flows.datasets import release

    def fail(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(release.card, "render", fail)
    with pytest.raises(ResourceError, match="No space left"):
        create_release(labelled, parameters, tmp_path / "releases")
    assert not (tmp_path / "releases").exists()


def test_a_killed_writer_leaves_nothing_for_long(labelled, parameters, tmp_path):
    script = (
        "import os, sys\n"
        "from aqvolt_flows.datasets import release\n"
        "from aqvolt_flows.schemas.parameters import ReleaseParameters\n"
        "from aqvolt_flows.stores import Database\n"
        "release.card.render = lambda *_: os.kill(os.getpid(), 9)\n"
        "release.create_release(Database.connect(), ReleaseParameters.model_validate_json(sys.argv[1]), sys.argv[2])\n"
    )
    root = tmp_path / "releases"
    done = subprocess.run([sys.executable, "-c", script, parameters.model_dump_json(), str(root)], check=False)
    assert done.returncode == -9
    assert [p.suffix for p in root.iterdir()] == [".part"]
    _, path = create(labelled, parameters, root)
    assert list(root.iterdir()) == [path]
    assert folder.verify(path)["counts"]["total"] == 30


def test_the_row_of_a_frame_is_found_without_a_database(labelled, parameters, tmp_path):
    _, path = create(labelled, parameters, tmp_path / "releases")
    for split, rows in rows_of(path).items():
        assert folder.frame_split(path, rows[0]["frame_id"]) == {rows[0]["label_id"]: split}
    assert folder.frame_split(path, "frame-9999") == {}


def test_fingerprint_changes_when_and_only_when_the_release_would(labelled, parameters):
    first = labels_fingerprint(labelled, parameters)
    assert labels_fingerprint(labelled, parameters) == first
    labelled["labels"].update_many({}, {"$set": {"cost_core_hours": 3.0}})
    labelled.upsert("labels", make_labels([77], status="killed"))
    assert labels_fingerprint(labelled, parameters) == first
    assert labels_fingerprint(labelled, changed(parameters, split_salt="x")) != first
    labelled.upsert("labels", make_labels([78]))
    assert labels_fingerprint(labelled, parameters) != first


def test_the_job_stores_the_document_under_the_planners_key(labelled, parameters):
    maker = ReleaseMaker(parameters=parameters.model_dump(mode="json"))
    result = ReleaseMaker.make.original(maker, "planner-key")
    stored = labelled["releases"].find_one({})
    assert (stored["key"], stored["release_id"], stored["content_hash"]) == (
        "planner-key",
        result["release_id"],
        result["content_hash"],
    )
    path = labelled.settings.path(labelled.settings.release_root) / result["path"]
    assert folder.verify(path)["counts"] == result["counts"]
    assert ReleaseMaker.make.original(maker, "planner-key") == result
    assert labelled["releases"].count_documents({}) == 1


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
