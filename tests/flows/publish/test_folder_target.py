"""Publishing into another folder, and what is refused before anything is written."""

from __future__ import annotations

import json
import subprocess

import pytest
from publishable import published, seal

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.publish import folder as folder_module
from aqvolt_flows.publish.content import listed, read_content, read_file
from aqvolt_flows.publish.folder import FolderTarget
from aqvolt_flows.publish.places import target_named
from aqvolt_flows.publish.pull import pull
from aqvolt_flows.publish.record import write_publication
from aqvolt_flows.schemas.model import ModelDocument

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def quiet(_: str) -> None:
    return None


def test_a_copy_is_whole_and_made_once(folder, tmp_path):
    content, copy = read_content(folder), tmp_path / "share" / "halides"
    target = target_named(str(copy))
    assert {f.name for f in target.plan(content).upload} == set(published(folder))
    assert not copy.exists()
    said: list[str] = []
    done = target.push(content, said.append)
    assert published(copy) == published(folder)
    assert (done.kind, done.version, done.files) == ("folder", content.content_hash, 5)
    assert len(said) == 5
    target.push(content, said.append)
    assert len(said) == 5, "nothing is copied twice"
    (copy / "data" / "val.parquet").write_bytes(b"PAR1 damaged")
    assert [f.name for f in target.plan(content).upload] == ["data/val.parquet"]
    target.push(content, said.append)
    assert published(copy) == published(folder)


def test_a_broken_copy_is_found_and_goes_on(folder, tmp_path, monkeypatch):
    content, copy = read_content(folder), tmp_path / "copy"
    real, calls = folder_module.shutil.copyfileobj, []

    def killed(source, out, size):
        calls.append(source.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(source, out, size)

    monkeypatch.setattr(folder_module.shutil, "copyfileobj", killed)
    with pytest.raises(KeyboardInterrupt):
        FolderTarget(copy).push(content, quiet)
    assert len(published(copy)) == 2, "no half file"
    FolderTarget(copy).push(content, quiet)
    assert published(copy) == published(folder)
    assert len(calls) == 3 + 3
    monkeypatch.setattr(folder_module.shutil, "copyfileobj", lambda source, out, size: out.write(b"noise"))
    with pytest.raises(ResourceError, match=r"differs from .* in README.md"):
        FolderTarget(tmp_path / "third").push(content, quiet)


def test_folders_of_something_else_are_not_touched(folder, tmp_path):
    content = read_content(folder)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"holds thesis.tex, which is not of halides@"):
        FolderTarget(other).push(content, quiet)
    assert [p.name for p in other.iterdir()] == ["thesis.tex"]
    with pytest.raises(InputError, match="is the folder that would be copied"):
        FolderTarget(folder).plan(content)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is not a folder"):
        FolderTarget(tmp_path / "file").plan(content)
    copy = tmp_path / "copy"
    FolderTarget(copy).push(content, quiet)
    (folder / "README.md").write_text("# another\n")
    seal(folder)
    with pytest.raises(InputError, match="holds another release"):
        FolderTarget(copy).plan(read_content(folder))


def test_a_folder_is_pulled(folder, tmp_path):
    content = pull(target_named(str(folder)), str(folder), tmp_path / "r", None, quiet)
    assert published(content.folder) == published(folder)
    assert not (content.folder / ".hidden").exists()
    with pytest.raises(InputError, match=r"no folder .*expected one, hf:ORG/NAME or zenodo:ID"):
        pull(target_named("nowhere"), "nowhere", tmp_path / "q", None, quiet)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "README.md").unlink(), "has no README.md"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json is not JSON"),
        (lambda f: (f / "manifest.json").write_text("[]"), "is not a JSON object"),
        (lambda f: (f / "data" / "new.parquet").touch(), r"data/new.parquet is not listed"),
        (lambda f: (f / "data" / "val.parquet").unlink(), r"data/val.parquet is missing"),
        (lambda f: (f / "data" / "val.parquet").write_bytes(b"x"), r"data/val.parquet was changed"),
    ],
)
def test_a_folder_that_is_not_what_it_says_is_not_published(folder, break_it, message):
    break_it(folder)
    with pytest.raises(InputError, match=message):
        read_content(folder)


def test_a_folder_with_a_card_but_no_manifest_has_a_content_hash(tmp_path):
    """As an exported model may be."""
    (tmp_path / "README.md").write_text("# model\n")
    (tmp_path / "weights.pt").write_bytes(b"1")
    first = read_content(tmp_path)
    assert first.identity == tmp_path.name
    (tmp_path / "weights.pt").write_bytes(b"2")
    assert read_content(tmp_path).content_hash != first.content_hash


def test_the_manifest_cannot_name_a_folder_elsewhere(folder, tmp_path):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"release_id": "../../evil@x"}))
    content = pull(target_named(str(folder)), "x", tmp_path / "r", None, quiet)
    assert content.folder.parent == tmp_path / "r"


def test_hashes_are_those_of_other_programs(folder):
    # git hash-object --stdin <<< "" and sha256sum, md5sum of a file with one newline
    (folder / "newline").write_bytes(b"\n")
    found = read_file("newline", folder / "newline")
    assert found.git == "8b137891791fe96927ad78e64b0aad7bded08bdc"
    assert found.sha256 == "01ba4719c80b6fe911b091a7c05124b64eeece964e09c058ef8f9805daca546b"
    assert found.md5 == "68b329da9893e34099c7d8ad5cb9c940"
    assert "exports/lmdb/train/data.0000.aselmdb-lock" not in listed(folder)


@pytest.fixture
def model(tmp_path):
    """A folder as 'aqvolt model export' writes it: weights, what loads them, a card, and hashes as sha256sum does."""
    root = tmp_path / "esen"
    root.mkdir()
    (root / "inference_ckpt.pt").write_bytes(b"weights" * 500)
    about = {"model_id": "model-0123456789abcdef01234567", "name": "esen", "content_hash": "that of its release"}
    (root / "aqvolt_model.json").write_text(json.dumps(about))
    (root / "README.md").write_text("# esen\n")
    names = sorted(p.name for p in root.iterdir())
    sums = subprocess.run(["sha256sum", *names], cwd=root, capture_output=True, text=True, check=True).stdout
    (root / "SHA256SUMS").write_text(sums)
    return root


def test_an_exported_model_is_published_and_verified_by_its_own_hashes(model, hub, tmp_path):
    content = read_content(model)
    assert content.identity == "model-0123456789abcdef01234567"
    assert content.content_hash != "that of its release"
    done = target_named("hf:org/esen", "model").push(content, quiet)
    assert hub.repos["org/esen"]["type"] == "model"
    assert done.url == f"{hub.url}/org/esen/tree/{done.version}"
    back = pull(target_named("hf:org/esen", "model"), "hf:org/esen", tmp_path / "models", None, quiet)
    assert published(back.folder) == published(model)
    assert back.folder.name == content.identity
    (model / "inference_ckpt.pt").write_bytes(b"other")
    with pytest.raises(InputError, match=r"inference_ckpt\.pt was changed"):
        read_content(model)
    (model / "SHA256SUMS").write_text("nonsense\n")
    with pytest.raises(InputError, match="not a list of SHA-256 hashes"):
        read_content(model)


def test_where_a_model_is_is_written_into_its_document(model, database):
    document = ModelDocument(
        key="k",
        model_id="model-0123456789abcdef01234567",
        status="trained",
        release_id="r@1",
        content_hash="h",
        architecture="eSEN",
    )
    database.upsert("models", [document])
    content = read_content(model)
    done = FolderTarget(model.parent / "copy").push(content, quiet)
    assert write_publication(database, "models", content, done)
    stored = ModelDocument(**database["models"].find_one({}, {"_id": 0}))
    assert [p.version for p in stored.publications] == [content.content_hash]
    database.upsert("models", [document])
    assert database["models"].find_one()["publications"], "written again, it keeps them"
    database["models"].delete_many({})
    assert not write_publication(database, "models", content, done)
