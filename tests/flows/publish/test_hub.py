"""Publishing on a Hub: the tree of the commit is the folder, nothing is sent twice, and damage is found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import servers
from hypothesis import given
from hypothesis import strategies as st
from publishable import published, seal

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.publish.content import read_content
from aqvolt_flows.publish.hub import HubTarget, downloaded_dataset
from aqvolt_flows.publish.places import target_named
from aqvolt_flows.publish.pull import pull
from aqvolt_flows.publish.targets import hub_reference

# the client's plain uploads use a spelling that its HTTP library no longer likes
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def quiet(_: str) -> None:
    return None


def test_a_push_arrives_whole_and_a_second_sends_nothing(hub, folder):
    target, content = HubTarget("org/halides"), read_content(folder)
    plan = target.plan(content)
    assert {f.name for f in plan.upload} == set(published(folder))
    assert plan.notes == ("A new dataset repository is made, private (make it public on its page, or with --public).",)
    assert hub.repos == {}, "a plan changes nothing"
    done = target.push(content, quiet)
    assert hub.files("org/halides", done.version) == published(folder) | {".gitattributes": b"*.parquet filter=lfs\n"}
    assert (done.state, done.files, done.bytes) == ("private", 5, sum(map(len, published(folder).values())))
    assert done.url == f"{hub.url}/datasets/org/halides/tree/{done.version}"
    sent = list(hub.uploads)
    assert len(sent) == 3, "the card and the manifest are small and go with the commit"
    again = target.push(content, quiet)
    assert (again.version, hub.uploads) == (done.version, sent)
    assert len(hub.repos["org/halides"]["commits"]) == 2


def test_a_new_release_replaces_the_old_one(hub, folder):
    target = HubTarget("org/halides", public=True)
    first = target.push(read_content(folder), quiet)
    assert first.state == "public"
    (folder / "data" / "val.parquet").unlink()
    (folder / "data" / "test.parquet").write_bytes(b"PAR1" + b"\5" * 2000)
    seal(folder)
    content = read_content(folder)
    plan = target.plan(content)
    assert [f.name for f in plan.keep] == ["README.md", "data/train.parquet", "exports/lmdb/train/data.0000.aselmdb"]
    assert plan.remove == ("data/val.parquet",)
    second = target.push(content, quiet)
    assert set(hub.files("org/halides", second.version)) == set(published(folder)) | {".gitattributes"}
    assert "data/val.parquet" in hub.files("org/halides", first.version), "the old commit stays"


def test_what_arrives_damaged_is_found(hub, folder):
    hub.damage = True
    with pytest.raises(ResourceError, match=r"differs from .* in data/train.parquet, .*push it again"):
        HubTarget("org/halides").push(read_content(folder), quiet)


PUSH = """
import sys
from pathlib import Path
from aqvolt_flows.publish.content import read_content
from aqvolt_flows.publish.hub import HubTarget
print(HubTarget("org/halides").push(read_content(Path(sys.argv[1])), lambda s: print(s, flush=True)).version)
"""


def test_a_killed_push_goes_on(hub, folder, tmp_path):
    hub.stall_at_upload = 1
    environment = os.environ | {"HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-W", "ignore", "-c", PUSH, str(folder)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert hub.stalled.wait(60)
        os.kill(process.pid, signal.SIGKILL)
        said = process.stdout.read().decode()
    first = list(hub.uploads)
    assert len(first) == 1
    assert set(hub.files("org/halides")) == {".gitattributes"}, "half a release is never seen"
    assert servers.TOKEN not in said
    hub.go_on.set()
    hub.stall_at_upload = None
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    commit = done.stdout.splitlines()[-1]
    assert hub.files("org/halides", commit) == published(folder) | {".gitattributes": b"*.parquet filter=lfs\n"}
    assert len(hub.uploads) == 3
    assert hub.uploads[:1] == first, "what was there was not sent again"
    assert len(set(hub.uploads)) == 3


def test_a_pull_restores_the_folder_and_goes_on_after_a_cut(hub, folder, tmp_path):
    HubTarget("org/halides").push(read_content(folder), quiet)
    content = pull(target_named("hf:org/halides"), "hf:org/halides", tmp_path / "releases", None, quiet)
    assert content.folder == tmp_path / "releases" / read_content(folder).identity.replace("@", "-")
    assert published(content.folder) == published(folder)
    assert {p.name for p in (tmp_path / "releases").iterdir()} == {content.folder.name}, "nothing stays beside it"
    served = len(hub.served)
    assert pull(target_named("hf:org/halides"), "hf:org/halides", tmp_path / "releases", None, quiet) == content
    assert len(hub.served) >= served
    hub.damage = False


def test_a_pull_of_a_commit_gives_that_commit(hub, folder, tmp_path):
    target = HubTarget("org/halides")
    first = target.push(read_content(folder), quiet).version
    before = published(folder)
    (folder / "README.md").write_text("# changed\n")
    seal(folder)
    target.push(read_content(folder), quiet)
    old = pull(target_named(f"hf:org/halides@{first}"), "x", tmp_path / "old", None, quiet)
    assert published(old.folder) == before
    new = pull(target_named("hf:org/halides"), "y", tmp_path / "new", tmp_path / "new" / "here", quiet)
    assert new.folder == tmp_path / "new" / "here"
    assert published(new.folder) == published(folder)
    with pytest.raises(InputError, match=r"holds halides@.*give another --out"):
        pull(target_named(f"hf:org/halides@{first}"), "z", tmp_path, tmp_path / "new" / "here", quiet)


def test_a_pulled_folder_that_is_not_what_it_says_is_refused(hub, folder, tmp_path):
    files = published(folder)
    hub.add("org/broken", files | {"data/train.parquet": b"PAR1 something else"})
    with pytest.raises(InputError, match=r"data/train.parquet was changed"):
        pull(target_named("hf:org/broken"), "hf:org/broken", tmp_path / "releases", None, quiet)
    hub.add("org/bare", {"data/train.parquet": b"PAR1"})
    with pytest.raises(InputError, match=r"has no README.md"):
        pull(target_named("hf:org/bare"), "hf:org/bare", tmp_path / "releases", None, quiet)


def test_errors_are_one_sentence_and_show_no_token(hub, folder, monkeypatch, tmp_path):
    hub.add("org/secret", published(folder), private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    for do in (
        lambda: HubTarget("org/new").push(read_content(folder), quiet),
        lambda: pull(target_named("hf:org/secret"), "a", tmp_path / "r", None, quiet),
        lambda: pull(target_named("hf:org/nothing"), "b", tmp_path / "r", None, quiet),
    ):
        with pytest.raises(
            ResourceError, match=r"^The Hub (answered 40[14] for|could not be used) hf:org/\w+"
        ) as refused:
            do()
        assert "hf_wrong" not in str(refused.value)
        assert "\n" not in str(refused.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ResourceError, match=r"no token for the Hub; set HF_TOKEN, or run 'hf auth login'"):
        HubTarget("org/new").push(read_content(folder), quiet)
    assert HubTarget("org/new").plan(read_content(folder)).upload, "a plan needs no token"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(ResourceError, match="could not be used for hf:org/new"):
        HubTarget("org/new").plan(read_content(folder))


def test_a_dataset_is_downloaded_for_an_import_once(hub, tmp_path):
    hub.add("org/set", {"README.md": b"x", "a/one.parquet": b"1" * 2000, "b/two.parquet": b"2" * 2000})
    found = downloaded_dataset("hf:org/set", tmp_path)
    assert {p.name for p in found.rglob("*.parquet")} == {"one.parquet", "two.parquet"}
    one = downloaded_dataset("hf:org/set/a", tmp_path / "part")
    assert [p.name for p in one.rglob("*.parquet")] == ["one.parquet"]
    assert not list((tmp_path / "part").rglob("two.parquet"))
    file = downloaded_dataset("hf:org/set/b/two.parquet", tmp_path / "file")
    assert file.read_bytes() == b"2" * 2000
    gets = [path for path, _ in hub.served]
    downloaded_dataset("hf:org/set", tmp_path)
    assert [path for path, _ in hub.served] == gets, "nothing is downloaded twice"
    with pytest.raises(InputError, match="has nothing at c"):
        downloaded_dataset("hf:org/set/c", tmp_path)
    with pytest.raises(InputError, match="leads out"):
        downloaded_dataset("hf:org/set/../x", tmp_path)


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,10}", fullmatch=True)


@given(NAMES, NAMES, st.one_of(st.none(), NAMES))
def test_references_are_read_back(org, name, revision):
    text = f"hf:{org}/{name}" + (f"@{revision}" if revision else "")
    assert hub_reference(text) == (f"{org}/{name}", revision)


@pytest.mark.parametrize("text", ["hf:", "hf:name", "hf:a/b/c", "hf:a/b c", "s3:x/y", "zenodo:abc", "ftp:x"])
def test_places_that_are_none(text):
    with pytest.raises(InputError, match=r"write|expected"):
        target_named(text)
