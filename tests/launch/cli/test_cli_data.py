"""``aqvolt build | release | query | why`` on a live database."""

from __future__ import annotations

import csv
import io
import json

import ase.io
import label_factory
import pytest
from conftest_release import independent_content_hash
from in_process import command_of

from aqvolt_flows.candidates.select import build_structure
from aqvolt_flows.errors import AqvoltError, DatabaseError, InputError
from aqvolt_flows.schemas.benchmark import BenchmarkDocument
from aqvolt_flows.schemas.candidate import CandidateDocument
from aqvolt_flows.schemas.model import ModelDocument
from aqvolt_flows.schemas.parameters import Prototype, Site
from aqvolt_launch.cli import build, query, release


@pytest.fixture
def aqvolt(database):
    return command_of(build, release, query)


@pytest.fixture
def filled(database):
    label_factory.fill(database, 12)
    database["outputs"].insert_one(label_factory.output(label_factory.outcome(12, status="killed"), "uuid-12"))
    return database


def created(aqvolt, *arguments):
    return json.loads(aqvolt("release", "create", "halides", "--split", "60/20/20", *arguments, "--json"))


def test_build_then_release_then_everything_a_release_can_do(aqvolt, filled, tmp_path):
    assert json.loads(aqvolt("build", "labels", "--json")) == [
        {"builder": "labels", "processed": 13, "valid": 12, "rejected": 1}
    ]
    assert "12 valid" not in aqvolt("build", "all"), "nothing is new"
    first = created(aqvolt)
    assert first["new"] is True
    assert first["counts"]["total"] == 12
    assert first["content_hash"] == independent_content_hash(tmp_path / "releases" / first["path"])
    assert created(aqvolt)["new"] is False
    assert first["content_hash"] in aqvolt("release", "verify", "halides")
    assert json.loads(aqvolt("release", "verify", first["path"], "--json"))["counts"] == first["counts"]
    second = created(aqvolt, "--filter", "max_force=0.5", "--export", "extxyz")
    assert second["counts"]["dropped"]["max_force"] == 12 - second["counts"]["total"] > 0
    found = json.loads(aqvolt("release", "diff", first["release_id"], second["release_id"], "--json"))
    assert len(found["removed"]) == second["counts"]["dropped"]["max_force"]
    assert "filter max_force_ev_per_a" in aqvolt("release", "diff", first["release_id"], second["release_id"])
    aqvolt("release", "export", first["release_id"], "--format", "extxyz", "--out", tmp_path / "out")
    assert len(ase.io.read(tmp_path / "out" / "train.extxyz", ":")) == first["counts"]["by_split"]["train"]
    card = aqvolt("release", "card", first["release_id"])
    assert card == (tmp_path / "releases" / first["path"] / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--split", "9/1"), "--split '9/1' is not understood"),
        (("--split", "moon"), "group_by is 'moon'"),
        (("--filter", "mass=3"), "names are max_force"),
        (("--filter", "max_force=big"), "needs a number"),
        (("--filter", "max_force=-1"), "max_force_ev_per_a is -1"),
        (("--export", "xlsx"), " is 'xlsx': Input should be 'aselmdb', 'extxyz' or 'matpes-json'"),
        (("--query", "{"), "--query '{' is not JSON"),
        (("--query", "[1]"), "--query '[1]' is not a query"),
        (("--hold-out", "gnome"), "--hold-out gnome '' is not JSON"),
        (("--hold-out", 'test={"source": "gnome"}'), "a hold-out cannot be called test"),
        (("--from", "nowhere.yaml"), "no campaign file nowhere.yaml"),
        ((), "There are no labels to release"),
    ],
)
def test_release_create_explains_what_is_wrong(aqvolt, tmp_path, arguments, message):
    with pytest.raises(AqvoltError) as error:
        aqvolt("release", "create", "halides", *arguments)
    assert message in str(error.value)
    assert not (tmp_path / "releases").exists()


def test_hold_out_and_query_by_command(aqvolt, filled, tmp_path):
    aqvolt("build", "labels")
    rule = 'late={"frame_id": {"$gte": "frame-0009"}}'
    found = created(aqvolt, "--hold-out", rule, "--query", '{"source": "sampled"}')
    assert found["counts"]["by_split"]["late"] == 3
    assert found["counts"]["total"] == 12
    assert (tmp_path / "releases" / found["path"] / "data" / "late.parquet").is_file()


def test_split_option_has_three_forms():
    assert release._split("formula") == {"group_by": "formula"}
    assert release._split("80/10/10:candidate") == {
        "train_fraction": 0.8,
        "val_fraction": 0.1,
        "test_fraction": 0.1,
        "group_by": "candidate",
    }
    assert "group_by" not in release._split("1/1/1")


def test_a_release_nobody_knows(aqvolt):
    for name in ("halides", "halides@0123456789ab"):
        with pytest.raises(InputError, match="aqvolt query releases"):
            aqvolt("release", "verify", name)
    with pytest.raises(InputError, match="no folder releases/x"):
        aqvolt("release", "verify", "releases/x")


class TestQuery:
    def test_formats_agree(self, aqvolt, filled):
        aqvolt("build", "labels")
        where = json.dumps({"status": "valid", "max_force": {"$lt": 0.6}})
        stored = sorted(d["label_id"] for d in filled["labels"].find(json.loads(where)))
        assert 0 < len(stored) < 12
        found = json.loads(aqvolt("query", "labels", where, "--format", "json"))
        assert [d["label_id"] for d in found] == stored
        rows = list(
            csv.DictReader(
                io.StringIO(aqvolt("query", "labels", where, "--format", "csv", "--fields", "label_id,protocol.code"))
            )
        )
        assert [r["label_id"] for r in rows] == stored
        assert {r["protocol.code"] for r in rows} == {"surrogate"}
        frames = ase.io.read(io.StringIO(aqvolt("query", "labels", where, "--format", "extxyz")), ":", format="extxyz")
        assert [a.info["label_id"] for a in frames] == stored
        for atoms, document in zip(frames, found, strict=True):
            assert atoms.get_potential_energy() == pytest.approx(document["energy"])

    def test_table_is_cut_and_says_so(self, aqvolt, filled):
        assert "3 of 12" in aqvolt("query", "frames", "--limit", "3")
        assert "nothing" in aqvolt("query", "frames", '{"formula": "NaCl"}').lower() or "none" in aqvolt(
            "query", "frames", '{"formula": "NaCl"}'
        )

    def test_rejected_labels_have_no_structure(self, aqvolt, filled):
        aqvolt("build", "labels")
        assert aqvolt("query", "labels", '{"status": "rejected"}', "--format", "extxyz") == ""

    def test_candidates_as_extxyz(self, aqvolt, database):
        salt = Prototype(
            name="LiCl",
            spacegroup="Fm-3m",
            a=5.13,
            sites=[Site(element="Li", xyz=(0, 0, 0)), Site(element="Cl", xyz=(0.5, 0.5, 0.5))],
            references=["x"],
        )
        structure = build_structure(salt)
        database.upsert("candidates", [candidate("candidate-LiCl", structure)])
        atoms = ase.io.read(io.StringIO(aqvolt("query", "candidates", "--format", "extxyz")), format="extxyz")
        assert (len(atoms), atoms.info["candidate_id"]) == (len(structure), "candidate-LiCl")
        assert atoms.get_volume() == pytest.approx(structure.volume)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("labels", "{chemsys: 1}"), "not JSON at character 2"),
            (("labels", "[1]"), "JSON list; expected an object"),
            (("labels", '{"$nope": 1}'), "refused the filter"),
            (("lables",), "no collection 'lables'"),
            (("labels", "--format", "xml"), "known are table, json, csv, extxyz"),
            (("models", "--format", "extxyz"), "hold no structures"),
        ],
    )
    def test_bad_input_is_one_sentence(self, aqvolt, arguments, message):
        with pytest.raises(InputError) as error:
            aqvolt("query", *arguments)
        assert message in str(error.value)
        assert "\n" not in str(error.value)

    def test_no_database(self, aqvolt, monkeypatch):
        monkeypatch.setenv("AQVOLT_MONGO_URI", "mongodb://127.0.0.1:1/")
        monkeypatch.setenv("AQVOLT_TIMEOUT_S", "0.2")
        with pytest.raises(DatabaseError, match="No MongoDB answers"):
            aqvolt("query", "labels")


def candidate(identity, structure=None):
    return CandidateDocument(
        key=f"key-{identity}",
        candidate_id=identity,
        name="LiCl (rock salt)",
        source="user",
        status="accepted",
        formula="LiCl",
        chemsys="Cl-Li",
        elements=["Cl", "Li"],
        n_atoms=8,
        structure=structure.as_dict() if structure else {},
    )


def test_why_walks_from_candidate_to_benchmark(aqvolt, filled):
    aqvolt("build", "labels")
    filled.upsert("candidates", [candidate("candidate-LiCl"), candidate("candidate-other")])
    all_in = created(aqvolt)
    target = "frame-0004"
    limit = filled["labels"].find_one({"frame_id": target})["max_force"] - 1e-6
    without = created(aqvolt, "--filter", f"max_force={limit}")
    assert without["content_hash"] != all_in["content_hash"]
    for number, made in enumerate((all_in, without)):
        filled.upsert(
            "models",
            [
                ModelDocument(
                    key=f"m{number}",
                    model_id=f"model-{number}",
                    status="trained",
                    release_id=made["release_id"],
                    content_hash=made["content_hash"],
                    architecture="eSEN-L4",
                )
            ],
        )
        filled.upsert(
            "benchmarks",
            [
                BenchmarkDocument(
                    key=f"b{number}",
                    benchmark_id=f"benchmark-{number}",
                    benchmark="ev_scan",
                    model=f"model-{number}",
                    model_id=f"model-{number}",
                    model_hash="",
                    dataset="5 candidates",
                    status="completed",
                    n_items=5,
                    n_failed=0,
                    metrics={"x": 1.0},
                )
            ],
        )
    steps = json.loads(aqvolt("why", target, "--json"))
    assert [(s["what"], s["identity"]) for s in steps] == [
        ("candidate", "candidate-LiCl"),
        ("frame", target),
        ("label", filled["labels"].find_one({"frame_id": target})["label_id"]),
        ("release", all_in["release_id"]),
        ("model", "model-0"),
        ("benchmark", "benchmark-0"),
    ]
    assert "benchmark-0" in aqvolt("why", target)


def test_why_of_an_unknown_frame(aqvolt):
    with pytest.raises(InputError, match="no frame 'frame-x'"):
        aqvolt("why", "frame-x")


def test_build_of_an_unknown_name(aqvolt):
    with pytest.raises(InputError, match="known are labels, benchmarks, costs and all"):
        aqvolt("build", "tables")


def test_a_release_is_queried_without_a_database(aqvolt, filled, tmp_path, monkeypatch, capsys):
    aqvolt("build", "labels")
    path = created(aqvolt)["path"]
    with_server = json.loads(aqvolt("query", "labels", '{"max_force": {"$lt": 0.5}, "status": "valid"}', "--json"))
    release_folder = tmp_path / "releases" / path
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv("AQVOLT_CONFIG_FILE")
    (tmp_path / "aqvolt.yaml").unlink()
    asked = ("query", '{"max_force": {"$lt": 0.5}}', "--release", release_folder)
    found = json.loads(aqvolt(*asked, "--json"))
    assert [r["label_id"] for r in found] == [r["label_id"] for r in with_server]
    assert len(found) > 0
    assert found[0]["energy_per_atom"] == pytest.approx(with_server[0]["energy"] / 8)
    assert json.loads(aqvolt("query", "labels", *asked[1:], "--json")) == found
    frames = ase.io.read(io.StringIO(aqvolt(*asked, "--format", "extxyz")), ":", format="extxyz")
    assert [a.info["label_id"] for a in frames] == [r["label_id"] for r in found]
    rows = list(csv.DictReader(io.StringIO(aqvolt(*asked, "--format", "csv", "--fields", "label_id,stress"))))
    assert json.loads(rows[0]["stress"]) == with_server[0]["stress"]
    assert "1 of " in aqvolt(*asked, "--limit", "1")
    sql = "SELECT formula, count(*) AS n FROM labels GROUP BY formula"
    assert json.loads(aqvolt("query", "--release", release_folder, "--sql", sql, "--json")) == [
        {"formula": "LiCl", "n": 12}
    ]
    assert "LiCl" in aqvolt("query", "--release", release_folder, "--sql", sql)
    assert list(elsewhere.iterdir()) == []
    for arguments, message in (
        (("query", "frames", "--release", release_folder), "holds labels, not frames"),
        (("query", "--sql", sql), "name it with --release"),
        (("query", *asked[1:], "--sql", sql), "neither a filter nor"),
        (("query", "--release", elsewhere), "is not a release"),
        (("query", "--release", "halides"), "not a project"),
    ):
        with pytest.raises(AqvoltError, match=message):
            aqvolt(*arguments)
