"""Trained models by identity, name and folder: no torch, the weights are bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from aqvolt_flows.errors import DatabaseError, InputError, ResourceError
from aqvolt_flows.identity import file_sha256
from aqvolt_flows.models import identity_of, resolve_model
from aqvolt_flows.potentials.checkpoints import channel_hash
from aqvolt_flows.potentials.given import check_model_given, storable
from aqvolt_flows.potentials.registry import check_model, located, model_hash, path_hash
from aqvolt_flows.potentials.trained import MODEL_FILE, folder_string, string_of
from aqvolt_flows.potentials.trust import trust
from aqvolt_flows.schemas.model import ModelDocument, model_name_of
from aqvolt_flows.settings import CONFIG_NAME, CONFIG_VARIABLE, load_settings
from aqvolt_flows.stores import Database


def stored(database: Database, key: str, weights: bytes = b"weights", **values: Any) -> ModelDocument:
    """Store a trained model whose weights are some bytes."""
    reference = database.artifacts.put_bytes(weights, "pt")
    document = ModelDocument(
        **{
            "key": key,
            "model_id": f"model-{key}",
            "status": "trained",
            "release_id": "demo@fd93b4425eee",
            "content_hash": "ab" * 32,
            "architecture": "eSEN-L4",
            "checkpoint": reference,
            "model": f"model-{key}",
        }
        | values
    )
    database.upsert("models", [document])
    return document


def exported(folder: Path, **values: Any) -> Path:
    folder.mkdir()
    (folder / "inference_ckpt.pt").write_bytes(b"weights")
    about = {"family": "fairchem", "weights": "inference_ckpt.pt", "sha256": file_sha256(folder / "inference_ckpt.pt")}
    (folder / MODEL_FILE).write_text(json.dumps(about | values))
    return folder


def test_identity_and_name_lead_to_the_same_weights(database: Database):
    document = stored(database, "0a", name="demo-sevennet", family="sevennet", channel="R2SCAN")
    path = database.artifacts.local_path(document.checkpoint)
    for name in ("model-0a", "demo-sevennet"):
        assert located(name) == f"sevennet:{path}#R2SCAN@sha256:{document.checkpoint.sha256}"
        assert model_hash(name) == channel_hash(document.checkpoint.sha256, "R2SCAN")
        check_model(name)
        check_model_given(name)
        assert resolve_model(database, name).name == "model-0a"
        assert identity_of(database, name) == "model-0a"


def test_a_name_means_the_newest_trained_model(database: Database):
    stored(database, "0a", b"old", name="mine")
    stored(database, "0b", b"new", name="mine")
    failed = {"status": "failed", "checkpoint": None, "failure": {"reason": "x", "message": "y"}}
    stored(database, "0c", name="mine", **failed)
    assert identity_of(database, "mine") == "model-0b"
    with pytest.raises(InputError, match=r"training of model-0c failed \(x\)"):
        located("model-0c")
    with pytest.raises(InputError, match="There is no model 'model-0d' in the collection models"):
        model_hash("model-0d")


def test_a_document_of_version_0_1_loads_and_has_a_name(database: Database, tmp_path: Path):
    """It has no name, no family, and the path of the machine that trained; the artifact is what counts."""
    document = stored(database, "0a", model="fairchem:/elsewhere/artifacts/sha256/aa/aa.pt")
    later = dict.fromkeys(("name", "family", "trainer"), "")
    database["models"].update_one({"model_id": "model-0a"}, {"$unset": later})
    assert resolve_model(database, "model-0a").load == string_of(
        "fairchem", database.artifacts.local_path(document.checkpoint), None, document.checkpoint.sha256
    )
    assert identity_of(database, "demo-eSEN-L4") == "model-0a"
    assert ModelDocument(**database["models"].find_one({}, {"_id": 0})).trainer == "esen"


def test_a_moved_project_loads_its_models(
    database: Database, project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
):
    """The folder is moved, as to another machine: the same document leads to the new place."""
    document = stored(database, "0a", name="mine")
    assert str(project) not in json.dumps(document.model_dump(mode="json"))
    there = tmp_path_factory.mktemp("elsewhere") / "project"
    shutil.copytree(project, there)
    shutil.rmtree(project / "artifacts")
    with pytest.raises(ResourceError, match="point artifact_root at the store"):
        located("mine")
    monkeypatch.setenv(CONFIG_VARIABLE, str(there / CONFIG_NAME))
    path, digest = there / "artifacts" / document.checkpoint.path, document.checkpoint.sha256
    assert located("mine") == f"fairchem:{path}@sha256:{digest}"
    assert resolve_model(Database.connect(load_settings()), "mine").load == located("mine")


def test_a_folder_is_a_model_string(project: Path, database: Database):
    folder = exported(project / "mine", model_id="model-0a")
    assert located("mine") == f"fairchem:{Path('mine') / 'inference_ckpt.pt'}"
    assert model_hash(str(folder)) == file_sha256(folder / "inference_ckpt.pt")
    check_model_given(folder)
    assert storable(folder) == str(folder)
    assert identity_of(database, "mine") == str(folder), "jobs run elsewhere: no relative path"
    stored(database, "0a")
    assert identity_of(database, "mine") == "model-0a"
    assert resolve_model(database, str(folder)).load == f"fairchem:{folder / 'inference_ckpt.pt'}"


def test_a_folder_does_not_vouch_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whoever made the folder wrote its hash, too: the user or ``models`` must know it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = exported(tmp_path / "mine")
    assert "@sha256" not in folder_string(folder)
    with pytest.raises(InputError, match="run 'aqvolt model trust"):
        check_model(str(folder))
    trust(path_hash(folder), folder)
    check_model(str(folder))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sha256": "0" * 64}, r"hash to .*says 000000000000…; export the model again"),
        ({"weights": "other.pt"}, "there are no weights 'other.pt' beside it"),
        ({"weights": "../../secret.pt"}, "there are no weights"),
        ({"family": 7}, "does not describe a model"),
    ],
)
def test_a_folder_that_is_none_says_so(tmp_path: Path, change: dict[str, Any], said: str):
    folder = exported(tmp_path / "mine", **change)
    with pytest.raises(InputError, match=said):
        located(str(folder))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"family": "fairchem"}', "not json"])
def test_a_description_that_cannot_be_read_says_so(tmp_path: Path, text: str):
    folder = exported(tmp_path / "mine")
    (folder / MODEL_FILE).write_text(text)
    with pytest.raises(InputError, match=r"does not describe a model .*'aqvolt model export NAME DIR'"):
        check_model(str(folder))


def test_without_a_project_an_unknown_name_is_no_potential(project: Path):
    with pytest.raises(InputError, match=r"There is no potential 'demo-sevennet'; known are .*a trained model's name"):
        check_model("demo-sevennet")
    with pytest.raises(DatabaseError, match="No database"):
        check_model("model-0a")


def test_a_path_that_is_no_folder_of_ours_is_still_refused(tmp_path: Path):
    with pytest.raises(InputError, match="write it as a model string, 'fairchem:"):
        check_model_given(tmp_path)


def test_names_are_usable_as_they_are():
    assert model_name_of({"name": "a b/c", "release_id": "x@1", "architecture": ""}) == "a-b-c"
