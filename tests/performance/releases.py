"""Releases at size: builder with nothing new, release create, exports beside ASE's own writers, loading rates.

Fills an embedded database of its own (or the empty database that ``--uri`` names) with N synthetic labels of 17 atoms,
and prints one table. Naive writers get the first ``--naive`` structures of the same release, one call a structure.

Example: python tests/performance/releases.py -n 20000
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np

N_ATOMS = 17
METALS = (
    11,
    12,
    13,
    19,
    20,
    21,
    22,
    23,
    24,
    25,
    26,
    27,
    28,
    29,
    30,
    31,
    37,
    38,
    39,
    40,
    41,
    42,
    48,
    49,
    50,
    57,
    72,
    73,
)
HALOGENS = (9, 17, 35, 53)
ENDED = "2026-01-01T00:00:00"
#: What was done, on how many rows, wall and processor seconds of this process, notes.
Row = tuple[str, int, tuple[float, float], str]
STEPS = ("rebuild", "create", "parquet", "aselmdb", "naive", "load")


def synthetic_labels(n: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield ``n`` documents of ``labels`` made of the jobs that :func:`output_of` gives.

    About 75 labels a system, as in the paper (322,656 of 4,336); energies, forces and pressures are drawn so that their
    means and deviations are those of Table S2 by order of magnitude.
    """
    from aqvolt_flows.chemistry import cohesive_energy_per_atom, describe, symbols_of
    from aqvolt_flows.datasets.labels import BUILDER_VERSION
    from aqvolt_flows.schemas.label import LabelDocument
    from aqvolt_flows.schemas.provenance import Protocol
    from aqvolt_flows.units import EV_PER_A3_IN_GPA, pressure_gpa

    protocol = Protocol(code="vasp", version="6.4.3", functional="r2SCAN", settings_hash="cd" * 32)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    for first in range(0, n, 75):
        rng = np.random.default_rng([seed, first])
        (metal, other), halogen = rng.choice(METALS, 2, replace=False), rng.choice(HALOGENS)
        numbers = np.array([3] * 4 + [metal] * 2 + [other] + [halogen] * 10)
        symbols = symbols_of(numbers)
        grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3)[rng.permutation(27)[:N_ATOMS]] / 3
        cell = np.diag(rng.uniform(6.5, 8.0, 3)) + rng.normal(scale=0.4, size=(3, 3))
        scalars = describe(symbols)
        free = -cohesive_energy_per_atom(0.0, symbols) * N_ATOMS
        for i in range(first, min(first + 75, n)):
            scale = 1 + rng.normal(scale=0.03)
            positions = grid @ (cell * scale) + rng.normal(scale=0.15, size=(N_ATOMS, 3))
            forces = rng.standard_t(3, size=(N_ATOMS, 3)) * 0.5
            forces -= forces.mean(axis=0)
            stress = np.concatenate([np.full(3, rng.normal(1.7, 20.0)), rng.normal(scale=3.0, size=3)])
            stress = stress / EV_PER_A3_IN_GPA
            cohesive = min(rng.normal(-3.33, 0.76), -0.05)
            energy = free + cohesive * N_ATOMS
            name = hashlib.sha256(f"{seed}/{i}".encode()).hexdigest()
            document = LabelDocument.model_construct(
                key=name[:24],
                last_updated=now,
                label_id=f"label-{name[24:48]}",
                frame_id=f"frame-{name[:24]}",
                trajectory_id=f"trajectory-{first // 75}-{i % 5}",
                candidate_id=f"candidate-{first // 75:05d}",
                source="sampled" if i % 4 else "aimd",
                status="valid",
                protocol=protocol,
                protocol_id=protocol.protocol_id,
                protocol_name=protocol.name,
                **scalars,
                temperature_k=float(300 * (1 + i % 5)),
                atomic_numbers=numbers.tolist(),
                positions=positions.tolist(),
                cell=(cell * scale).tolist(),
                energy=energy,
                forces=forces.tolist(),
                stress=stress.tolist(),
                cohesive_energy_per_atom=cohesive,
                energy_per_atom=energy / N_ATOMS,
                max_force=float(np.linalg.norm(forces, axis=1).max()),
                pressure_gpa=pressure_gpa(stress),
                cost_core_hours=1.0,
                builder_version=BUILDER_VERSION,
                source_uuid=f"uuid-{name[:24]}",
                source_completed_at=ENDED,
                newest_source_at=ENDED,
            )
            yield document.model_dump(mode="python", warnings=False)


def output_of(label: dict[str, Any]) -> dict[str, Any]:
    """Return the labeling job that a label came from, without its arrays: the builder reads them for new jobs only."""
    return {
        "uuid": label["source_uuid"],
        "index": 1,
        "completed_at": ENDED,
        "name": "static",
        "metadata": {"aqvolt": {"stage": "label", "key": label["key"]}},
        "output": {"frame_id": label["frame_id"], "status": "converged"},
    }


def settings_of(folder: Path, uri: str | None) -> Any:
    """Return settings of a project in ``folder``, on its own embedded database or on the server at ``uri``."""
    from aqvolt_flows.settings import AqvoltSettings

    values = {"mongo_uri": uri, "database": "aqvolt_performance"} if uri else {}
    return AqvoltSettings(root=folder, timeout_s=120, **values)


def fill(folder: Path, uri: str | None, n: int) -> None:
    """Insert labels and their jobs, unless they are there."""
    from aqvolt_flows.stores import Database

    database = Database.connect(settings_of(folder, uri))
    database.ensure_indexes()
    if database["labels"].estimated_document_count() == n:
        return
    database["labels"].delete_many({})
    database["outputs"].delete_many({})
    started = time.perf_counter()
    for block in batched(synthetic_labels(n), 2000):
        database["outputs"].insert_many([output_of(label) for label in block], ordered=False)
        database["labels"].insert_many(block, ordered=False)
    print(f"{n} labels generated and inserted in {time.perf_counter() - started:.0f} s", file=sys.stderr)


def clock() -> tuple[float, float]:
    """Return wall and processor time of this process, s."""
    return time.perf_counter(), time.process_time()


def since(started: tuple[float, float]) -> tuple[float, float]:
    """Return how much of both went by."""
    wall, cpu = clock()
    return wall - started[0], cpu - started[1]


def rebuild(folder: Path, uri: str | None) -> list[Row]:
    """Time the label builder on a database where nothing is new: its first run, and the one after it."""
    write_config(folder, uri)
    from aqvolt_builders.labels import LabelBuilder
    from aqvolt_flows.stores import Database

    database = Database.connect(settings_of(folder, uri))
    database["builds"].delete_many({})
    n = database["labels"].estimated_document_count()
    rows = []
    for name in ("label rebuild, first look", "label rebuild, nothing new"):
        builder = LabelBuilder()
        started = clock()
        builder.run()
        rows.append((name, n, since(started), f"{builder.counts['processed']} processed"))
    return rows


def write_config(folder: Path, uri: str | None) -> None:
    """Write an aqvolt.yaml that finds the same database as :func:`settings_of`; builders read settings themselves."""
    import yaml

    from aqvolt_flows.settings import CONFIG_NAME, CONFIG_VARIABLE

    given = settings_of(folder, uri)
    path = folder / CONFIG_NAME
    path.write_text(yaml.safe_dump({"mongo_uri": given.database_uri(), "database": given.database, "timeout_s": 120}))
    os.environ[CONFIG_VARIABLE] = str(path)


def create(folder: Path, uri: str | None) -> list[Row]:
    """Time the creation of a release, with the stages that take most of it."""
    from aqvolt_flows.datasets import release as made_by
    from aqvolt_flows.schemas.parameters import ReleaseParameters
    from aqvolt_flows.stores import Database

    spent: dict[str, float] = {}

    def timed(name: str, call: Any) -> Any:
        def wrapper(*args: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*args)
            finally:
                spent[name] = spent.get(name, 0.0) + time.perf_counter() - started

        return wrapper

    for name in ("read_labels", "split_entries", "_write_data", "statistics", "_seal"):
        setattr(made_by, name, timed(name.strip("_"), getattr(made_by, name)))
    shutil.rmtree(folder / "releases", ignore_errors=True)
    started = clock()
    document = made_by.create_release(
        Database.connect(settings_of(folder, uri)), ReleaseParameters(name="performance"), folder / "releases"
    )
    seconds = since(started)
    stages = ", ".join(f"{name} {value:.1f} s" for name, value in spent.items())
    return [("release create", document.counts["total"], seconds, stages)]


def release_of(folder: Path) -> Path:
    """Return the release that :func:`create` wrote."""
    return next((folder / "releases").glob("performance-*"))


def exported(folder: Path, format: str) -> list[Row]:
    """Time an export of the release."""
    from aqvolt_flows.datasets.folder import export

    target = folder / f"export-{format}"
    shutil.rmtree(target, ignore_errors=True)
    started = clock()
    written = export(release_of(folder), format, target)
    size = sum(p.stat().st_size for p in target.rglob("*") if p.is_file())
    return [(f"export {format}", sum(written.values()), since(started), f"{size / 1e6:.0f} MB")]


def naive(folder: Path, most: int) -> list[Row]:
    """Time ASE's own databases on the first structures of the release, one ``write`` a structure."""
    import ase.db
    import ase_db_backends  # noqa: F401  (registers "aselmdb")

    from aqvolt_flows.datasets.folder import split_paths
    from aqvolt_flows.datasets.formats import read_rows

    atoms = [
        row.to_atoms() for _, row in zip(range(most), read_rows(split_paths(release_of(folder))["train"]), strict=False)
    ]
    rows = []
    for name, kind, together in (
        ("ase.db sqlite, a write a structure", "db", False),
        ("ase.db aselmdb, a write a structure", "aselmdb", False),
        ("ase.db sqlite, in one with block", "db", True),
    ):
        target = folder / f"naive.{kind}"
        target.unlink(missing_ok=True)
        started = clock()
        database = ase.db.connect(str(target), type=kind)
        with database if together else contextlib.nullcontext():
            for one in atoms:
                database.write(one, data=dict(one.info))
        if hasattr(database, "close"):
            database.close()
        rows.append((name, len(atoms), since(started), f"{target.stat().st_size / 1e6:.0f} MB"))
    return rows


def load(folder: Path, most: int) -> list[Row]:
    """Time reading: the Parquet through ``datasets``, the LMDB through fairchem."""
    rows = []
    with contextlib.suppress(ImportError):
        import datasets

        datasets.disable_progress_bars()
        cache = folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        file = str(release_of(folder) / "data" / "train.parquet")
        started = clock()
        found = datasets.load_dataset("parquet", data_files={"train": file}, cache_dir=str(cache))["train"]
        rows.append(("datasets: load_dataset (Arrow cache)", len(found), since(started), ""))
        started = clock()
        count = sum(len(batch["energy"]) for batch in found.with_format("numpy").iter(batch_size=500))
        rows.append(("datasets: read all columns as numpy", count, since(started), ""))
    with contextlib.suppress(ImportError):
        from fairchem.core.datasets import AseDBDataset

        options = {"r_energy": True, "r_forces": True, "r_stress": True}
        ours = AseDBDataset({"src": str(folder / "export-aselmdb" / "train"), "a2g_args": options})
        order = np.random.default_rng(0).permutation(len(ours))[:most]
        started = clock()
        for i in order:
            ours.get_atoms(int(i))
        rows.append(("fairchem: get_atoms, random order", len(order), since(started), ""))
        started = clock()
        for i in order:
            ours[int(i)]
        rows.append(("fairchem: dataset[i], random order", len(order), since(started), ""))
    return rows


def run_step(step: str, options: argparse.Namespace) -> None:
    """Run one step in this process and print its rows and peak memory as JSON."""
    folder = options.folder
    calls: dict[str, Any] = {
        "rebuild": lambda: rebuild(folder, options.uri),
        "create": lambda: create(folder, options.uri),
        "parquet": lambda: exported(folder, "parquet"),
        "aselmdb": lambda: exported(folder, "aselmdb"),
        "naive": lambda: naive(folder, options.naive),
        "load": lambda: load(folder, options.naive),
    }
    rows = calls[step]()
    print(json.dumps([rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6]))


def measure(step: str, options: argparse.Namespace) -> list[tuple[Row, float]]:
    """Run one step in a process of its own and return its rows with the peak memory in GB."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(options.folder), "--naive", str(options.naive)]
    command += ["--uri", options.uri] if options.uri else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{step} failed:\n{done.stderr[-3000:]}")
    rows, peak = json.loads(done.stdout.strip().splitlines()[-1])
    return [(tuple(row), peak) for row in rows]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=322_656)
    parser.add_argument("--naive", type=int, default=2000, help="Structures that ASE's own writers and fairchem get.")
    parser.add_argument("--uri", help="An empty MongoDB instead of the embedded server.")
    parser.add_argument("--folder", type=Path, help="Work here and keep it; a second run finds the labels there.")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        run_step(options.step, options)
        return
    from aqvolt_flows.stores import close_clients
    from aqvolt_launch.embedded import server as embedded

    with contextlib.ExitStack() as stack:
        if options.folder is None:
            options.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        options.folder.mkdir(parents=True, exist_ok=True)
        if not options.uri:
            stack.callback(embedded.stop, settings_of(options.folder, None))
            embedded.start(settings_of(options.folder, None))
        fill(options.folder, options.uri, options.n)
        close_clients()
        rows = [row for step in options.steps for row in measure(step, options)]
    print_table(rows)


def print_table(rows: list[tuple[Row, float]]) -> None:
    """Print all rows, and how much faster the exports are than ASE's writers."""
    print(f"{'what':<42}{'rows':>9}{'seconds':>9}{'cpu s':>9}{'rows/s':>10}{'peak GB':>9}  notes")
    for (name, count, (seconds, cpu), notes), peak in rows:
        print(f"{name:<42}{count:>9}{seconds:>9.1f}{cpu:>9.1f}{count / seconds:>10.0f}{peak:>9.2f}  {notes}")
    rates = {name: count / seconds for (name, count, (seconds, _), _), _ in rows}
    for ours in ("export parquet", "export aselmdb"):
        for theirs in (name for name in rates if name.startswith("ase.db")):
            if ours in rates:
                print(f"{ours} : {theirs} = {rates[ours] / rates[theirs]:.1f}")


if __name__ == "__main__":
    main()
