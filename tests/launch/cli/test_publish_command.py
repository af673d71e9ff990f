"""``aqvolt release push`` and ``pull`` and ``labels import hf:…`` on a live database and a Hub on this machine."""

from __future__ import annotations

import json

import label_factory
import pytest
import servers
from in_process import command_of

from aqvolt_flows.errors import AqvoltError, InputError
from aqvolt_flows.schemas.release import ReleaseDocument
from aqvolt_launch.cli import build, labels, publish, query, release

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def aqvolt(database):
    return command_of(build, release, publish, query, labels)


@pytest.fixture
def released(database, aqvolt, monkeypatch):
    monkeypatch.setattr("aqvolt_flows.datasets.plots.available", lambda: False)
    label_factory.fill(database, 12)
    aqvolt("build", "labels")
    return json.loads(aqvolt("release", "create", "halides", "--split", "60/20/20", "--json"))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    from huggingface_hub import constants

    with servers.running(servers.Hub()) as service:
        monkeypatch.setenv("HF_ENDPOINT", service.url)
        monkeypatch.setenv("HF_TOKEN", servers.TOKEN)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield service


def test_plan_push_record_pull(aqvolt, database, released, hub, tmp_path):
    said = aqvolt("release", "push", "hf:org/halides")
    assert "Nothing was sent; --yes does it." in said
    assert "data/train.parquet" in said
    assert hub.repos == {}
    assert json.loads(aqvolt("release", "push", "hf:org/halides", "--json"))["done"] is None
    done = json.loads(aqvolt("release", "push", "hf:org/halides", "halides", "--yes", "--json"))
    assert done["recorded"] is True
    commit = done["done"]["version"]
    document = ReleaseDocument(**database["releases"].find_one({}, {"_id": 0}))
    assert [(p.target, p.version, p.kind) for p in document.publications] == [("hf:org/halides", commit, "hub")]
    shown = aqvolt("release", "push", "hf:org/halides", released["release_id"], "--yes")
    assert "compared by hashes" in shown
    assert commit in shown
    assert len(database["releases"].find_one()["publications"]) == 1, "the last push to a place"
    copy = tmp_path / "share" / "halides"
    aqvolt("release", "push", copy, released["path"], "--yes")
    assert [p["kind"] for p in database["releases"].find_one()["publications"]] == ["hub", "folder"]
    again = json.loads(aqvolt("release", "create", "halides", "--split", "60/20/20", "--json"))
    assert again["new"] is False
    assert len(database["releases"].find_one()["publications"]) == 2, "making the release again keeps them"
    assert servers.TOKEN not in said + shown + json.dumps(done)

    # another project, whose database has no such release
    before = database["releases"].find_one({}, {"_id": 0, "last_updated": 0, "publications": 0, "campaigns": 0})
    database["releases"].delete_many({})
    there = tmp_path / "releases" / released["path"].rsplit("/", 1)[-1]
    there.rename(tmp_path / "moved")
    found = json.loads(aqvolt("release", "pull", "hf:org/halides", "--json"))
    assert found["content_hash"] == released["content_hash"]
    assert found["path"] == str(there)
    assert found["registered"] is True
    after = database["releases"].find_one({}, {"_id": 0, "last_updated": 0, "campaigns": 0})
    before["manifest"].pop("labels_as_of")
    assert after["manifest"].pop("labels_as_of") is None
    assert after == before
    assert released["content_hash"] in aqvolt("release", "verify", "halides")
    assert "written: " in aqvolt("release", "pull", "hf:org/halides", "--out", tmp_path / "out")


def test_outside_a_project_a_release_is_pulled_and_pushed_as_a_folder(
    aqvolt, released, hub, tmp_path, monkeypatch, capsys
):
    aqvolt("release", "push", "hf:org/halides", released["path"], "--yes")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv("AQVOLT_CONFIG_FILE")
    (tmp_path / "aqvolt.yaml").unlink()
    found = json.loads(aqvolt("release", "pull", "hf:org/halides", "--json"))
    assert found["registered"] is False
    [folder] = elsewhere.iterdir()
    assert found["counts"]["total"] == 12
    said = aqvolt("release", "push", "hf:org/again", folder, "--yes")
    assert "written nowhere else" in said
    assert set(hub.files("org/again")) == set(hub.files("org/halides"))
    with pytest.raises(AqvoltError, match="not a project"):
        aqvolt("release", "push", "hf:org/again")


def test_labels_are_imported_from_the_hub(aqvolt, database, released, hub, tmp_path):
    aqvolt("release", "push", "hf:org/halides", "halides", "--yes")
    database["labels"].delete_many({})
    command = ("labels", "import", "hf:org/halides", "--source", "aqvolt26", "--functional", "any", "--json")
    reports = json.loads(aqvolt(*command))
    assert sum(r["labels"] for r in reports) == 12
    assert {r["file"] for r in reports} == {f"data/{s}.parquet" for s in ("train", "val", "test")}
    assert database["labels"].count_documents({"status": "valid"}) == 12
    one = json.loads(aqvolt("labels", "import", "hf:org/halides/data/val.parquet", *command[3:]))
    assert [r["file"] for r in one] == ["val.parquet"]
    with pytest.raises(InputError, match="hf:org/halides has nothing at nowhere"):
        aqvolt("labels", "import", "hf:org/halides/nowhere", *command[3:])


def test_nothing_to_push(aqvolt, database):
    with pytest.raises(InputError, match="There is no release yet"):
        aqvolt("release", "push", "hf:org/halides")
    with pytest.raises(InputError, match="is no place to publish"):
        aqvolt("release", "pull", "s3:bucket")
