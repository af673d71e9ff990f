"""The whole chain as a user runs it: every stage a Firework, twice the same, and killed at any point."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import readme

from aqvolt_flows.settings import load_settings
from aqvolt_flows.stores import IDENTITIES, Database, close_clients
from aqvolt_launch.embedded import server as embedded
from aqvolt_launch.launchpad import close_launchpads, get_launchpad

CAMPAIGN = Path(__file__).with_name("mini.yaml")
STAGES = ["candidates", "explore", "sample", "label", "build", "release", "train", "benchmark", "report"]


def environment() -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AQVOLT_")}
    return clean | {"OMP_NUM_THREADS": "2", "PYTHONWARNINGS": "ignore"}


def command(workdir: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "aqvolt_launch",
        "demo",
        "--workdir",
        str(workdir),
        "--campaign",
        str(CAMPAIGN),
        "--json",
    ]


def run(workdir: Path) -> dict:
    done = subprocess.run(
        command(workdir), env=environment(), cwd=workdir.parent, capture_output=True, text=True, timeout=550
    )
    assert done.returncode == 0, done.stderr[-3000:] + worker_log(workdir)
    return json.loads(done.stdout)


def worker_log(workdir: Path) -> str:
    log = workdir / ".aqvolt" / "launches" / "workers.log"
    return log.read_text()[-3000:] if log.is_file() else ""


def snapshot(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, dict]]:
    """Every document of every collection, by identity."""
    for name in [n for n in os.environ if n.startswith("AQVOLT_")]:
        monkeypatch.delenv(name)
    settings = load_settings(workdir / "aqvolt.yaml")
    embedded.start(settings)
    try:
        database = Database.connect(settings)
        found = {
            name: {d[identity]: {k: v for k, v in d.items() if k != "_id"} for d in database[name].find()}
            for name, identity in IDENTITIES.items()
        }
        found["outputs"] = {d["uuid"]: {"index": d["index"]} for d in database["outputs"].find()}
        assert database["outputs"].count_documents({}) == len(found["outputs"])  # no uuid twice
        fireworks = get_launchpad(settings).fireworks
        found["fireworks"] = {
            str(f["fw_id"]): {"state": f["state"]} for f in fireworks.find({}, {"fw_id": 1, "state": 1})
        }
        return found
    finally:
        close_clients()
        close_launchpads()
        embedded.stop(settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, dict]:
    workdir = tmp_path_factory.mktemp("chain") / "demo"
    return workdir, run(workdir)


@pytest.mark.slow
def test_every_stage_ran_as_fireworks(finished, monkeypatch):
    workdir, result = finished
    assert [s["stage"] for s in result["stages"]] == STAGES
    by_stage = {s["stage"]: s for s in result["stages"]}
    assert by_stage["candidates"]["documents"] == 3
    assert by_stage["candidates"]["failures"] == 1  # the oxyfluoride
    assert by_stage["explore"]["documents"] == 2
    frames = by_stage["sample"]["documents"]
    assert frames >= 6
    assert by_stage["label"]["documents"] == by_stage["build"]["documents"] == frames
    assert by_stage["train"]["documents"] == 1
    assert by_stage["benchmark"]["documents"] == 4  # two benchmarks of two models
    assert sum(s["failures"] for s in result["stages"] if s["stage"] not in {"candidates", "benchmark"}) == 0
    documents = snapshot(workdir, monkeypatch)
    assert {f["state"] for f in documents["fireworks"].values()} == {"COMPLETED"}
    assert len(documents["fireworks"]) >= len(STAGES) + frames  # one a frame, two for sampling, two for training
    assert all("surrogate" in d["protocol_name"] for d in documents["labels"].values())
    [model] = documents["models"].values()
    assert model["content_hash"] == result["content_hash"]


@pytest.mark.slow
def test_the_release_opens_where_users_open_it(finished, tmp_path):
    import ase.io
    from datasets import load_dataset
    from fairchem.core.datasets import AseDBDataset

    release = Path(finished[1]["release_path"])
    splits = {p.stem: str(p) for p in (release / "data").glob("*.parquet")}
    table = load_dataset("parquet", data_files=splits, cache_dir=str(tmp_path))
    total = sum(len(table[s]) for s in splits)
    lmdb = AseDBDataset({"src": [str(p) for p in sorted((release / "exports" / "aselmdb").iterdir())]})
    frames = [a for p in (release / "exports" / "extxyz").glob("*.extxyz") for a in ase.io.read(p, ":")]
    assert total == len(lmdb) == len(frames) == finished[1]["stages"][4]["documents"]
    energies = sorted(e for s in splits for e in table[s]["energy"])
    np.testing.assert_allclose(sorted(a.get_potential_energy() for a in frames), energies, atol=1e-6)
    card = (release / "README.md").read_text()
    assert "surrogate" in card.lower()
    report = Path(finished[1]["report_path"]).read_text()
    assert report.startswith("<!doctype html") or report.lower().startswith("<!doctype html")


@pytest.mark.slow
def test_the_trained_model_predicts(finished, monkeypatch):
    from ase.build import bulk

    from aqvolt_flows.models import resolve_model
    from aqvolt_flows.potentials import load_potential

    workdir, _ = finished
    documents = snapshot(workdir, monkeypatch)
    settings = load_settings(workdir / "aqvolt.yaml")
    embedded.start(settings)
    try:
        model = resolve_model(Database.connect(settings), next(iter(documents["models"])))
    finally:
        close_clients()
        embedded.stop(settings)
    atoms = bulk("LiCl", "rocksalt", a=5.2, cubic=True)
    [result] = load_potential(model.load).evaluate([atoms])
    # Four steps teach only the composition: the linear references put LiCl within 2 eV/atom of CHGNet's -6.29.
    assert result.energy / len(atoms) == pytest.approx(-6.29, abs=2.0)
    assert result.forces.shape == (8, 3)
    assert np.isfinite(result.stress).all()


@pytest.mark.slow
def test_a_second_run_recomputes_nothing(finished, monkeypatch):
    workdir, first = finished
    before = snapshot(workdir, monkeypatch)
    second = run(workdir)
    assert second["recomputed"] == 0
    assert (second["content_hash"], second["release_id"]) == (first["content_hash"], first["release_id"])
    assert snapshot(workdir, monkeypatch) == before


def kill_everything(workdir: Path, process: subprocess.Popen) -> None:
    """SIGKILL the command, its worker and its database at once."""
    doomed = [process.pid, *(p.pid for p in psutil.Process(process.pid).children(recursive=True))]
    every = psutil.process_iter(["cmdline"])
    doomed += [other.pid for other in every if any(str(workdir) in part for part in other.info["cmdline"] or [])]
    for pid in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_killed_at_random_points_it_ends_the_same(finished, tmp_path, monkeypatch):
    undisturbed, first = finished
    workdir = tmp_path / "project"
    draw = random.Random(20261123)  # the seed only makes a failure repeatable
    for _ in range(3):
        process = subprocess.Popen(
            command(workdir), env=environment(), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + draw.uniform(3, min(60, first["seconds"] * 0.6))
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        if process.poll() is not None:
            break
        kill_everything(workdir, process)
    run(workdir)
    mine, theirs = snapshot(workdir, monkeypatch), snapshot(undisturbed, monkeypatch)
    for name in ("candidates", "trajectories", "frames", "labels"):
        assert mine[name].keys() == theirs[name].keys(), name
    for name in ("releases", "models", "benchmarks"):
        assert len(mine[name]) == len(theirs[name]), name
    for label_id, label in mine["labels"].items():  # the same work gives the same numbers, up to single precision
        assert label["energy"] == pytest.approx(theirs["labels"][label_id]["energy"], abs=1e-3)
    assert {f["state"] for f in mine["fireworks"].values()} == {"COMPLETED"}
    shutil.rmtree(workdir)


@pytest.mark.slow
def test_the_blocks_of_the_readme_run_on_the_demos_folder(finished, tmp_path):
    """Every line of every block of README's section about the demo, as a reader would paste it."""
    workdir, _ = finished
    activate = workdir.parent / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True, exist_ok=True)
    activate.write_text(f'export PATH="{Path(sys.executable).parent}:$PATH"\n')
    look, query = readme.blocks("The demo", "sh")
    try:
        said = readme.shell(look, workdir.parent, environment())
    finally:
        embedded.stop(load_settings(workdir / "aqvolt.yaml"))
    assert "exclude_elements" in said or "excluded" in said, "the rejected candidate has a reason"
    for step in ("candidate", "trajectory", "frame", "label", "release", "model"):
        assert f"│ {step}" in said, "the lineage is whole"
    assert "Nothing was sent" in said
    assert not (workdir.parent / "share").exists()
    assert "max(max_force)" in readme.shell(query, workdir.parent, environment())
    assert (workdir / "frames.xyz").read_text().startswith("2\n")  # primitive LiCl
    [code] = readme.blocks("The demo", "python")
    environ = environment() | {"HF_DATASETS_CACHE": str(tmp_path / "cache")}
    readme.python(code, workdir.parent, environ)


@pytest.mark.slow
def test_the_tutorials_run_on_the_demos_folder(finished):
    """Every command of the page for a laptop, and the scripts of the page about releases."""
    workdir, result = finished
    page = (readme.HOUSE / "docs" / "tutorials" / "laptop.md").read_text()
    code = "\n".join(code for language, code in readme.fenced(page) if language == "sh")
    try:
        said = readme.shell(code, workdir.parent, environment())
    finally:
        embedded.stop(load_settings(workdir / "aqvolt.yaml"))
    assert "LiOF" in said, "the rejected candidate"
    assert result["release_id"] in said
    assert (workdir / "labels.xyz").stat().st_size > 0
    page = (readme.HOUSE / "docs" / "tutorials" / "release.md").read_text()
    scripts = [code for language, code in readme.fenced(page) if language == "python"]
    assert len(scripts) == 2
    for script in scripts:
        assert readme.python(script, workdir.parent, environment(), result["release_path"])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(p.stem for p in (readme.HOUSE / "notebooks").glob("*.ipynb")))
def test_a_notebook_runs_beside_the_demos_folder(name, finished, tmp_path):
    """Every cell, in a kernel of its own; the last cell of each checks what came out."""
    workdir, _ = finished
    folder = workdir.parent / f"notebooks-{name}"
    folder.mkdir()
    code = (
        "import sys, nbformat\n"
        "from nbclient import NotebookClient\n"
        "book = nbformat.read(sys.argv[1], as_version=4)\n"
        "assert not any(cell.get('outputs') for cell in book.cells), 'committed without outputs'\n"
        "where = {'metadata': {'path': sys.argv[2]}}\n"
        "NotebookClient(book, timeout=300, kernel_name='python3', resources=where).execute()\n"
        "print(sum(bool(cell.get('outputs')) for cell in book.cells))\n"
    )
    own = {"IPYTHONDIR": str(tmp_path / "ipython"), "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")}
    environ = environment() | own | {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "MPLBACKEND": "agg"}
    said = readme.python(code, folder, environ, str(readme.HOUSE / "notebooks" / f"{name}.ipynb"), str(folder))
    assert int(said) >= 3
