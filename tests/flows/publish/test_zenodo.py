"""Publishing on Zenodo: a draft that goes on, MD5 of what arrived, folders that come back, a token that stays home."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import servers
from publishable import published, seal

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.publish.content import read_content
from aqvolt_flows.publish.places import target_named
from aqvolt_flows.publish.pull import pull
from aqvolt_flows.publish.rest import Rest
from aqvolt_flows.publish.zenodo import ZenodoTarget


def quiet(_: str) -> None:
    return None


def flat(files):
    return {name.replace("/", "--"): data for name, data in files.items()}


def test_a_draft_is_made_and_continued_and_published(zenodo, folder):
    content = read_content(folder)
    assert ZenodoTarget().plan(content).notes[0] == "A new record is made."
    assert zenodo.deposits == {}, "a plan changes nothing"
    draft = ZenodoTarget().push(content, quiet)
    assert zenodo.data[1000] == flat(published(folder))
    assert (draft.target, draft.state, draft.doi) == ("zenodo:1000", "draft", "10.5072/zenodo.1000")
    metadata = zenodo.deposits[1000]["metadata"]
    assert metadata["creators"] == [{"name": "Example, Ann"}]
    assert (metadata["license"], metadata["upload_type"]) == ("cc-by-4.0", "dataset")
    assert content.content_hash in metadata["description"]
    sent = list(zenodo.uploads)
    plan = ZenodoTarget(public=True).plan(content)
    assert (plan.upload, len(plan.keep)) == ((), 5)
    assert "cannot be changed" in plan.notes[1]
    done = ZenodoTarget(public=True).push(content, quiet)
    assert (done.state, done.version) == ("public", "1000")
    assert zenodo.deposits[1000]["submitted"] is True
    assert zenodo.uploads == sent, "nothing was sent again"
    again = ZenodoTarget(public=True).push(content, quiet)
    assert (again.version, len(zenodo.deposits)) == ("1000", 1)


def test_another_content_is_another_record_unless_a_draft_is_named(zenodo, folder):
    ZenodoTarget().push(read_content(folder), quiet)
    (folder / "data" / "val.parquet").unlink()
    (folder / "README.md").write_text("# other\n")
    seal(folder)
    content = read_content(folder)
    assert ZenodoTarget().push(content, quiet).target == "zenodo:1001"
    plan = ZenodoTarget("1000").plan(content)
    assert plan.remove == ("data--val.parquet",)
    ZenodoTarget("1000").push(content, quiet)
    assert zenodo.data[1000] == zenodo.data[1001] == flat(published(folder))
    ZenodoTarget("1001", public=True).push(content, quiet)
    (folder / "README.md").write_text("# third\n")
    seal(folder)
    with pytest.raises(InputError, match=r"zenodo:1001 is published with another content.*push to zenodo"):
        ZenodoTarget("1001").push(read_content(folder), quiet)


PUSH = """
import sys
from pathlib import Path
from aqvolt_flows.publish.content import read_content
from aqvolt_flows.publish.zenodo import ZenodoTarget
print(ZenodoTarget().push(read_content(Path(sys.argv[1])), lambda s: print(s, flush=True)).target)
"""


def test_a_killed_push_goes_on(zenodo, folder):
    zenodo.stall_at_upload = 2
    command = [sys.executable, "-c", PUSH, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert zenodo.stalled.wait(60)
        os.kill(process.pid, signal.SIGKILL)
        said = process.stdout.read().decode()
    assert "uploaded README.md" in said
    assert servers.TOKEN not in said
    zenodo.go_on.set()
    zenodo.stall_at_upload = None
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "zenodo:1000"
    assert len(zenodo.deposits) == 1
    assert zenodo.data[1000] == flat(published(folder))
    assert sorted(zenodo.uploads) == sorted(zenodo.data[1000]), "each file was received once"


def test_damage_is_found(zenodo, folder):
    zenodo.damage = True
    with pytest.raises(ResourceError, match=r"zenodo:1000 differs from .*README.md.*push it again"):
        ZenodoTarget().push(read_content(folder), quiet)


@pytest.mark.parametrize("public", [True, False])
def test_a_pull_restores_the_folders_and_goes_on(zenodo, folder, tmp_path, public):
    ZenodoTarget(public=public).push(read_content(folder), quiet)
    zenodo.cut_downloads = 2000  # the connection breaks after so many bytes
    for _ in range(4):
        with pytest.raises(ResourceError, match=r"run the same command again"):
            pull(target_named("zenodo:1000"), "zenodo:1000", tmp_path / "r", None, quiet)
    zenodo.cut_downloads = None
    content = pull(target_named("zenodo:1000"), "zenodo:1000", tmp_path / "r", None, quiet)
    assert published(content.folder) == published(folder)
    train = [first for path, first in zenodo.served if "train.parquet" in path]
    assert train[:1] == [0]
    assert any(first > 0 for first in train), "it went on where it was cut"


def test_names_that_lead_out_are_refused(zenodo, folder, tmp_path):
    ZenodoTarget(public=True).push(read_content(folder), quiet)
    for name in ("..--..--evil", "a--..--b", "--etc--passwd", ".ssh--key", "a/../../b"):
        zenodo.data[1000] = {name: b"x"}
        with pytest.raises(InputError, match="no name of a release"):
            pull(target_named("zenodo:1000"), name, tmp_path / "r", None, quiet)
    assert not (tmp_path / "evil").exists()


def test_errors_are_one_sentence_and_show_no_token(zenodo, folder, monkeypatch, tmp_path):
    content = read_content(folder)
    with pytest.raises(ResourceError, match=r"Zenodo answered 404 to GET .*/77 \(not found\); check the number"):
        ZenodoTarget("77").plan(content)
    with pytest.raises(ResourceError, match=r"Zenodo answered 404"):
        pull(target_named("zenodo:77"), "x", tmp_path / "r", None, quiet)
    monkeypatch.setenv("ZENODO_TOKEN", "wrong")
    with pytest.raises(ResourceError, match=r"answered 401 .*check the token") as refused:
        ZenodoTarget().push(content, quiet)
    assert "wrong" not in str(refused.value)
    monkeypatch.delenv("ZENODO_TOKEN")
    with pytest.raises(ResourceError, match=r"set ZENODO_TOKEN \(scope deposit:write\)"):
        ZenodoTarget().push(content, quiet)
    plan = ZenodoTarget().plan(content)
    assert (len(plan.upload), plan.notes[0]) == (5, "Without ZENODO_TOKEN it is unknown what is on Zenodo already.")
    with pytest.raises(InputError, match="Which record"):
        pull(target_named("zenodo"), "x", tmp_path / "r", None, quiet)
    monkeypatch.setenv("ZENODO_URL", "http://zenodo.example.org/api")
    with pytest.raises(InputError, match="not https"):
        ZenodoTarget()


def test_what_zenodo_cannot_take_is_said_before(zenodo, folder):
    content = read_content(folder)
    manifest = {k: v for k, v in content.manifest.items() if k != "license"}
    bare = type(content)(content.folder, content.files, manifest)
    with pytest.raises(InputError, match=r"names no single license.*--license"):
        ZenodoTarget().push(bare, quiet)
    ZenodoTarget(license="cc0-1.0").push(bare, quiet)
    assert zenodo.deposits[1000]["metadata"]["license"] == "cc0-1.0"
    (folder / "data" / "a--b.parquet").write_bytes(b"x")
    seal(folder)
    with pytest.raises(InputError, match=r"a--b\.parquet has '--' in its name"):
        ZenodoTarget().plan(read_content(folder))
    (folder / "data" / "a--b.parquet").unlink()
    for number in range(100):
        (folder / f"{number}.txt").write_text("x")
    seal(folder)
    with pytest.raises(InputError, match=r"has 105 files .*takes 100 files and 50 GB.*hf:ORG/NAME"):
        ZenodoTarget().plan(read_content(folder))


def test_a_token_is_not_sent_to_another_host(tmp_path):
    """Also not by a redirect; the other host is another port here."""
    seen: list[str | None] = []

    class Elsewhere(servers.Service):
        def routes(self):
            return [("GET", "/x", self.read)]

        def read(self, handler, body):
            seen.append(handler.headers.get("Authorization"))
            handler.answer(200, {"ok": True})

    class Here(Elsewhere):
        def read(self, handler, body):
            seen.append(handler.headers.get("Authorization"))
            handler.answer(302, None, {"Location": f"{elsewhere.url}/x"})

    with servers.running(Elsewhere()) as elsewhere, servers.running(Here()) as here:
        rest = Rest("A service", here.url, "token")
        assert rest.json("GET", "/x") == {"ok": True}
        assert rest.json("GET", f"{elsewhere.url}/x") == {"ok": True}
    assert seen == ["Bearer token", None, None]
