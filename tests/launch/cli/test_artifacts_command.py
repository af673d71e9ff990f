"""``aqvolt artifacts verify`` finds every damaged file, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aqvolt_flows.artifacts import SPARE_BYTES, ArtifactStore
from aqvolt_flows.errors import ResourceError
from aqvolt_flows.settings import load_settings
from aqvolt_launch.cli import commands
from aqvolt_launch.cli.app import app

commands.register(app)


def test_a_flipped_bit_a_cut_file_and_a_stranger_are_named(project: Path) -> None:
    (project / "aqvolt.yaml").write_text("{}\n")
    store = ArtifactStore(load_settings().artifact_url)
    refs = [store.put_bytes(bytes([n]) * 1000, "parquet" if n % 2 else "tar.gz") for n in range(6)]
    done = CliRunner().invoke(app, ["artifacts", "verify"])
    assert done.exit_code == 0, done.output
    assert "6 files" in done.output
    assert "0 damaged" in done.output
    flipped, cut = store.local_path(refs[1]), store.local_path(refs[4])
    data = bytearray(flipped.read_bytes())
    data[500] ^= 1
    flipped.write_bytes(data)
    cut.write_bytes(cut.read_bytes()[:-1])
    stranger = flipped.with_name("notes.txt")
    stranger.write_text("x")
    half = cut.with_name(f"{cut.name}.{'0' * 32}.part")
    half.write_text("x")
    done = CliRunner().invoke(app, ["artifacts", "verify", "--json"])
    assert done.exit_code == 1
    found = json.loads(done.output)
    assert found["damaged"] == 3
    assert sorted(Path(row["file"]).name for row in found["faults"]) == sorted(
        p.name for p in (flipped, cut, stranger, half)
    )
    assert all(row["fault"] for row in found["faults"])


def test_a_disk_that_would_fill_up_is_said_before(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    store = ArtifactStore(load_settings().artifact_url)
    there = store.put_bytes(b"already there", "bin")
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=SPARE_BYTES + 10))
    assert store.put_bytes(b"already there", "bin") == there
    with pytest.raises(ResourceError, match=r"has 64 MiB free, .* free space or set artifact_root"):
        store.put_bytes(b"more than ten bytes", "bin")
    assert [p.name for p in project.rglob("*.part")] == []
