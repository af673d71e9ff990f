"""A campaign of n statics that cost nothing, through the real LaunchPad: what each part takes, what the paper's asks.

Frames are written as sampling does; ``aqvolt submit``'s own submission queues one Firework a frame; worker processes
run a job that returns an outcome of the size of a real one (28 atoms, the paper's mean) without computing; the label
builder makes labels; then status, costs, a builder with nothing to do, and a backup. All parts are the product's but
the physics. At the end the unit costs are multiplied to the paper's campaign: 24,555 runs, 186,627 statics, 322,656
labels.

On an embedded database of its own, or on the MongoDB that ``--uri`` names (a database of its own, dropped at the end).

Examples
--------
Embedded:        python tests/performance/scale.py --n 2000
A server:        python tests/performance/scale.py --n 186627 --workers 32 --uri mongodb://user@host/?authSource=admin
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from jobflow import job
from labeling import NAMES, settings_for, start_server

PAPER = {"runs": 24_555, "statics": 186_627, "labels": 322_656}
ATOMS = 28
HERE = Path(__file__).resolve().parent
#: Bytes in the artifact store, assumed: a frame of 28 atoms (positions, forces and cell in float32, with Parquet's
#: overhead), and the compressed vasprun.xml and OUTCAR of a run.
FRAME_BYTES, RAW_BYTES = 900, 400_000


@job
def static(frame_id: str, key: str) -> dict[str, Any]:
    """Return an outcome of a real one's size; the numbers follow from the key."""
    import numpy as np

    from aqvolt_flows.schemas.label import LabelOutcome
    from aqvolt_flows.schemas.provenance import Protocol

    rng = np.random.default_rng(int(frame_id[-8:], 16))
    protocol = Protocol(code="surrogate", version="1", functional="none", settings_hash="ab" * 32)
    numbers = [3] * (ATOMS // 2) + [17] * (ATOMS // 2)
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), -1).reshape(-1, 3)[:ATOMS] * 2.6
    outcome = LabelOutcome(
        frame_id=frame_id,
        key=key,
        status="converged",
        protocol=protocol,
        atomic_numbers=numbers,
        positions=(grid + rng.normal(0, 0.05, (ATOMS, 3))).tolist(),
        cell=(np.eye(3) * 10.4).tolist(),
        energy=-3.3 * ATOMS,
        forces=rng.normal(0, 0.5, (ATOMS, 3)).tolist(),
        stress=rng.normal(0, 0.01, 6).tolist(),
        cost_core_hours=1e-6,
        details={"wall_s": 0.0, "cores": 1},
    )
    return outcome.model_dump(mode="json")


def units(n: int) -> Any:
    """Return the units of work, as the planner of labels streams them."""
    from aqvolt_flows.work import Stream, WorkItem

    def read(_by_priority: bool) -> Iterator[WorkItem]:
        for i in range(n):
            frame_id, key = f"frame-{i:024x}", f"{i:024x}"
            tags = {"chemsys": NAMES[i % 3][1], "atoms": ATOMS, "electrons": 4 * ATOMS, "frame_id": frame_id}
            yield WorkItem(
                "label",
                key,
                f"static {NAMES[i % 3][0]}",
                partial(static, frame_id, key),
                category="vasp",
                priority=i % 900,
                template=static,
                arguments=(frame_id, key),
                tags=tags | {"labeler": "surrogate"},
            )

    return Stream(n, read)


def fill_frames(settings: Any, n: int) -> None:
    """Write n documents of frames, without their Parquet files."""
    from itertools import batched

    from aqvolt_flows.schemas.frame import FrameDocument
    from aqvolt_flows.schemas.provenance import ArtifactRef
    from aqvolt_flows.stores import Database

    database = Database.connect(settings)
    database.ensure_indexes()
    for numbers in batched(range(n), 1000):
        documents = [
            FrameDocument(
                key=f"frame-key-{i}",
                frame_id=f"frame-{i:024x}",
                trajectory_id=f"trajectory-{i // 8}",
                candidate_id=f"candidate-{i // 40}",
                sample_key="sample-1",
                step=10 * i,
                formula=NAMES[i % 3][0],
                chemsys=NAMES[i % 3][1],
                elements=NAMES[i % 3][2],
                n_atoms=ATOMS,
                temperature_k=300.0,
                artifact=ArtifactRef(sha256="0" * 64, format="parquet", bytes=1),
                row=i,
                surrogate_energy=-1.0,
                surrogate_max_force=1.0,
                structure_cluster=i,
                structure_distance=0.0,
                atom_clusters=list(range(i % 5)),
            )
            for i in numbers
        ]
        database.upsert("frames", documents)


def timed(name: str, rows: dict[str, float], action: Any) -> Any:
    """Run an action, print and keep its seconds."""
    started = time.perf_counter()
    found = action()
    rows[name] = time.perf_counter() - started
    print(f"{name:<28} {rows[name]:10.2f} s", flush=True)
    return found


def run_workers(number: int) -> None:
    """Run worker processes until nothing is left."""
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "aqvolt_launch", "work", "--category", "vasp", "--until-empty"]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(number)]
    if any(process.wait() for process in processes):
        sys.exit("A worker failed.")


def sizes(settings: Any) -> dict[str, float]:
    """Return the mean BSON size of documents of each collection, bytes."""
    import bson

    from aqvolt_flows.stores import Database

    mongo = Database.connect(settings).mongo
    found = {}
    for name in ("fireworks", "workflows", "launches", "outputs", "frames", "labels"):
        sample = [len(bson.encode(d)) for d in mongo[name].find().limit(200)]
        found[name] = sum(sample) / max(len(sample), 1)
    return found


def campaign(settings: Any, n: int, workers: int) -> tuple[dict[str, float], dict[str, float]]:
    """Run it all; return seconds of each part and sizes."""
    from aqvolt_builders.registry import run_builder
    from aqvolt_flows.stores import Database
    from aqvolt_launch.launchpad import get_launchpad
    from aqvolt_launch.project.copies import backup
    from aqvolt_launch.project.status import collect_status
    from aqvolt_launch.submission.submit import submit

    rows: dict[str, float] = {}
    timed("frames written", rows, lambda: fill_frames(settings, n))
    report = timed("submitted", rows, lambda: submit(units(n), settings))
    timed("submitted again", rows, lambda: submit(units(n), settings))
    timed("status, all queued", rows, lambda: collect_status(settings))
    timed("run", rows, lambda: run_workers(workers))
    timed("labels built", rows, lambda: run_builder("labels"))
    timed("builder, nothing new", rows, lambda: run_builder("labels"))
    timed("costs built", rows, lambda: run_builder("costs"))
    status = timed("status, all done", rows, lambda: collect_status(settings))
    with tempfile.TemporaryDirectory() as folder:
        timed("backup", rows, lambda: backup(settings, Path(folder) / "backup"))
    database = Database.connect(settings)
    launches = get_launchpad(settings).launches.count_documents({})
    outcomes, labels = (database[name].count_documents({}) for name in ("outputs", "labels"))
    assert report.submitted == outcomes == labels == n, (report.submitted, outcomes, labels)
    assert launches == n, f"{launches} launches of {n} statics"
    assert status["progress"][0]["done"] == n
    return rows, sizes(settings)


def main() -> None:
    """Measure, and print unit costs and what the paper's campaign asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--uri", help="a MongoDB; by default an embedded database of its own")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="aqvolt-scale-"))
    os.environ["AQVOLT_JOB_PACKAGES"] = "scale"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    process, uri = (None, given.uri) if given.uri else start_server(folder)
    os.environ["AQVOLT_ROOT"] = str(folder)
    settings = settings_for(uri, str(folder))
    try:
        rows, bytes_of = campaign(settings, given.n, given.workers)
        if process is not None:
            disk = sum(p.stat().st_size for p in (folder / "db").rglob("*") if p.is_file())
            print(f"files of the database          {disk / 2**20:8.0f} MiB, {disk / given.n / 1024:.1f} KiB a static")
        print("\nper static:", ", ".join(f"{k} {1000 * v / given.n:.2f} ms" for k, v in rows.items()))
        print("bytes a document:", ", ".join(f"{k} {v:.0f}" for k, v in bytes_of.items()))
        per_static = sum(v for k, v in bytes_of.items() if k != "labels")
        total = per_static * PAPER["statics"] + bytes_of["labels"] * PAPER["labels"]
        print(f"the paper's campaign: {total / 1e9:.2f} GB of documents")
        for name in ("submitted", "run", "labels built", "status, all done", "backup"):
            print(f"  {name}: {rows[name] / given.n * PAPER['statics'] / 3600:.2f} h at this rate")
        print(f"  artifacts: {(PAPER['labels'] * FRAME_BYTES + PAPER['statics'] * RAW_BYTES) / 1e9:.0f} GB")
    finally:
        from pymongo import MongoClient

        from aqvolt_flows.stores import close_clients
        from aqvolt_launch.launchpad import close_launchpads

        with MongoClient(uri) as client:
            client.drop_database(settings.database)
        close_clients()
        close_launchpads()
        if process is not None:
            process.terminate()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    import scale  # by its name, so that workers can import its job

    scale.main()
