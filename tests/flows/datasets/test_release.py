"""Making a release: numbers recomputed from the files by plain pyarrow and hashlib, filters, protocols, splits."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from datetime import UTC, datetime

import label_factory
import numpy as np
import pytest
import yaml
from conftest_release import SPLITS, changed, create, independent_content_hash, make_labels, rows_of, tree

from aqvolt_flows.datasets import folder
from aqvolt_flows.datasets.jobs import ReleaseMaker
from aqvolt_flows.datasets.licenses import card_license, licenses_of
from aqvolt_flows.datasets.release import create_release, labels_fingerprint
from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.schemas.parameters import ReleaseParameters

pytestmark = pytest.mark.usefixtures("no_pictures")


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


def test_the_same_labels_in_another_database_are_the_same_bytes(labelled, parameters, tmp_path):
    wanted = changed(parameters, exports=["extxyz"])
    document, first = create(labelled, wanted, tmp_path / "a")
    labels = make_labels(range(20, 30), "LiF") + make_labels(reversed(range(20)))
    labels += make_labels([30], status="unconverged")
    labelled["labels"].delete_many({})
    labelled.upsert("labels", labels)
    later = datetime(2031, 1, 1, tzinfo=UTC)
    labelled["labels"].update_many({}, {"$set": {"last_updated": later, "cost_core_hours": 9.0}})
    for label in labelled["labels"].find({"status": "valid"}):  # what labels of one protocol may differ in
        hashes = {"Li": f"{label['frame_id'][-1]:0>64}"}
        labelled["labels"].update_one({"_id": label["_id"]}, {"$set": {"protocol.potcar_hashes": hashes}})
    again, second = create(labelled, wanted, tmp_path / "b")
    before, after = tree(first), tree(second)
    told = [json.loads(files.pop("manifest.json")) for files in (before, after)]
    assert before == after
    (one,) = told[1]["protocols"].values()
    speaker = min(labelled["labels"].find({"status": "valid"}), key=lambda label: label["label_id"])
    assert one["potcar_hashes"] == speaker["protocol"]["potcar_hashes"], "in whatever order labels come"
    for manifest in told:
        for protocol in manifest["protocols"].values():
            protocol.pop("potcar_hashes")
    assert told[0] == told[1]
    assert document.manifest["labels_as_of"] != again.manifest["labels_as_of"] == later.isoformat()


@pytest.mark.parametrize(
    ("named", "card", "listed"),
    [
        ({"sampled": {None}}, "mit", {"sampled": "mit"}),
        ({"MatPES": {None}}, "bsd-3-clause", {"MatPES": "bsd-3-clause"}),
        ({"mine": {"cc0-1.0"}}, "cc0-1.0", {"mine": "cc0-1.0"}),
        ({"mine": {None}}, "other", {"mine": "unknown"}),
        ({"MP": {None}, "MatPES": {None}}, "other", {"MP": "cc-by-4.0", "MatPES": "bsd-3-clause"}),
        ({"mine": {None, "mit"}}, "other", {"mine": "mit and unknown"}),
        ({"MatPES": {None}, "aimd": {None}}, "other", {"MatPES": "bsd-3-clause", "aimd": "mit"}),
    ],
)
def test_the_license_is_that_of_the_sources(named, card, listed):
    found = licenses_of(named, "mit")
    assert (found, card_license(found)) == (listed, card)


def test_a_card_of_a_mixture_lists_every_license(labelled, parameters, tmp_path):
    labelled["labels"].update_many({"formula": "LiF"}, {"$set": {"source": "MatPES"}})
    labelled["labels"].update_one({"frame_id": "frame-0000"}, {"$set": {"source": "mine", "provenance.license": "mit"}})
    _, path = create(labelled, parameters, tmp_path)
    text = (path / "README.md").read_text()
    assert yaml.safe_load(text.split("---\n", 2)[1])["license"] == "other"
    for row in ("| MatPES | 10 | bsd-3-clause |", "| mine | 1 | mit |", "| sampled | 19 | cc-by-4.0 |"):
        assert row in text


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


def test_the_hash_of_the_list_of_frames_is_the_content_hash(labelled, parameters, tmp_path):
    document, path = create(labelled, parameters, tmp_path / "releases")
    data = (path / "frames.tsv").read_bytes()
    assert hashlib.sha256(data).hexdigest() == document.content_hash
    lines = [line.split("\t") for line in data.decode().splitlines()[1:]]
    listed = {(frame, label, split) for frame, label, split, _ in lines}
    assert listed == {(r["frame_id"], r["label_id"], s) for s, rows in rows_of(path).items() for r in rows}
    assert lines == sorted(lines)


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


@pytest.mark.parametrize(("off", "dropped"), [(0.0005, {"duplicate": 2}), (0.5, {"contradiction": 3})])
def test_copies_with_several_energies_leave_together(labelled, parameters, tmp_path, off, dropped):
    """Three copies of one label: one with the energy of the first, one that is off by so many eV per atom."""
    (first,) = make_labels([0])
    moved = {"label_id": f"{first.label_id}-z", "key": "z", "frame_id": "frame-z"}
    same = first.model_copy(update={"label_id": f"{first.label_id}-y", "key": "y", "frame_id": "frame-y"})
    other = first.model_copy(update=moved | {"energy": first.energy + off * first.n_atoms})
    labelled.upsert("labels", [same, other])
    document, path = create(labelled, parameters, tmp_path / "releases")
    assert document.counts["dropped"] == dropped
    assert document.counts["total"] == 32 - sum(dropped.values())
    if "contradiction" in dropped:
        assert "none is believed" in (path / "README.md").read_text()
