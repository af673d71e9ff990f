"""Importing labels from extxyz, ASE-LMDB, ColabFit's and LeMat's Parquet: rate and peak memory beside plain reads.

Writes files of N and N/10 configurations of 17 atoms and reads each in a process of its own, to labels that passed
every check (contradictions and plausibility included; a database that keeps nothing takes them). The reference of
extended XYZ is a loop over ``ase.io.iread``, of LMDB one over ``ase.db``'s ``select``, of Parquet one over
``to_pylist``; none of them validates anything. Prints one table.

Example: python tests/performance/label_formats.py -n 20000 --format extxyz aselmdb
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np

N_ATOMS = 17
NUMBERS = [3] * 5 + [39] * 2 + [17] * 10
SUFFIXES = {"extxyz": ".extxyz", "aselmdb": ".aselmdb", "colabfit": ".parquet", "lemat": ".parquet"}


def configurations(n: int) -> Iterator[dict[str, Any]]:
    """Yield ``n`` configurations on a perturbed grid, with forces that add up to zero."""
    rng = np.random.default_rng(0)
    grid = np.array([[x, y, z] for x in range(3) for y in range(3) for z in range(2)], float)[:N_ATOMS] * [
        2.3,
        2.3,
        3.5,
    ]
    for i in range(n):
        forces = rng.normal(size=(N_ATOMS, 3)).round(8)
        forces[0] -= forces.sum(axis=0)
        matrix = rng.normal(scale=0.01, size=(3, 3)).round(8)
        yield {
            "name": f"c-{i}",
            "positions": (grid + rng.normal(scale=0.05, size=(N_ATOMS, 3))).round(8),
            "energy": float(-60 + rng.normal()),
            "forces": forces,
            "stress": (matrix + matrix.T) / 2,
        }


def write(path: Path, format: str, n: int) -> None:
    """Write ``n`` configurations."""
    {"extxyz": _write_extxyz, "aselmdb": _write_aselmdb}.get(format, _write_parquet)(path, format, n)


def _write_extxyz(path: Path, format: str, n: int) -> None:
    from ase.data import chemical_symbols

    symbols = [chemical_symbols[z] for z in NUMBERS]
    with path.open("w") as handle:
        for one in configurations(n):
            tensor = " ".join(map(str, one["stress"].ravel()))
            handle.write(
                f'{N_ATOMS}\nLattice="7 0 0 0 7 0 0 0 7" Properties=species:S:1:pos:R:3:REF_forces:R:3 '
                f'REF_energy={one["energy"]} REF_stress="{tensor}" config_type=bulk pbc="T T T"\n'
            )
            rows = zip(symbols, one["positions"].tolist(), one["forces"].tolist(), strict=True)
            handle.writelines(f"{s} {p[0]} {p[1]} {p[2]} {f[0]} {f[1]} {f[2]}\n" for s, p, f in rows)


def _write_aselmdb(path: Path, format: str, n: int) -> None:
    import zlib

    import lmdb
    from ase.io.jsonio import encode

    with lmdb.open(str(path), subdir=False, map_size=2**38, lock=False, sync=False) as environment:
        for block in batched(enumerate(configurations(n), 1), 5000):
            with environment.begin(write=True) as transaction:
                for i, one in block:
                    row = {
                        "numbers": np.array(NUMBERS),
                        "positions": one["positions"],
                        "cell": 7 * np.eye(3),
                        "pbc": np.array([True] * 3),
                        "unique_id": f"{i:032x}",
                        "ctime": 0.0,
                        "mtime": 0.0,
                        "user": "",
                        "calculator": "unknown",
                        "calculator_parameters": {},
                        "energy": one["energy"],
                        "forces": one["forces"],
                        "stress": one["stress"].ravel()[[0, 4, 8, 5, 2, 1]],
                        "key_value_pairs": {},
                        "data": {"sid": one["name"]},
                    }
                    transaction.put(str(i).encode(), zlib.compress(encode(row).encode()))
        with environment.begin(write=True) as transaction:
            transaction.put(b"nextid", zlib.compress(str(n + 1).encode()))


def _write_parquet(path: Path, format: str, n: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    for block in batched(configurations(n), 5000):
        rows = [_colabfit(one) if format == "colabfit" else _lemat(one) for one in block]
        table = pa.Table.from_pylist(rows)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def _colabfit(one: dict[str, Any]) -> dict[str, Any]:
    return {
        "property_id": one["name"],
        "method": "DFT-r2SCAN",
        "energy": one["energy"],
        "atomic_forces": one["forces"].tolist(),
        "cauchy_stress": one["stress"].tolist(),
        "cauchy_stress_volume_normalized": False,
        "cell": (7 * np.eye(3)).tolist(),
        "positions": one["positions"].tolist(),
        "pbc": [True] * 3,
        "atomic_numbers": NUMBERS,
    }


def _lemat(one: dict[str, Any]) -> dict[str, Any]:
    from ase.data import chemical_symbols

    return {
        "immutable_id": one["name"],
        "functional": "r2scan",
        "energy": one["energy"],
        "forces": one["forces"].tolist(),
        "stress_tensor": (one["stress"] * -1602.1766).tolist(),
        "lattice_vectors": (7 * np.eye(3)).tolist(),
        "cartesian_site_positions": one["positions"].tolist(),
        "dimension_types": [1] * 3,
        "species_at_sites": [chemical_symbols[z] for z in NUMBERS],
    }


class Nowhere:
    """A database that holds nothing and counts what it is given."""

    def __getitem__(self, name: str) -> Nowhere:
        return self

    def find(self, *_: Any) -> list[Any]:
        return []

    def find_one(self, *_: Any) -> None:
        return None

    def upsert(self, name: str, documents: Any) -> int:
        return sum(1 for _ in documents)


def ours(path: Path, format: str) -> int:
    """Return how many labels pass every check."""
    from aqvolt_flows.datasets.importers.files import read_labels
    from aqvolt_flows.datasets.importers.intake import import_labels
    from aqvolt_flows.datasets.importers.notes import Notes
    from aqvolt_flows.datasets.importers.published import ImportOptions

    options = ImportOptions.model_validate({"source": format, "functional": "r2SCAN"})
    notes = Notes()
    report = import_labels(Nowhere(), read_labels(path, options, notes), options, path.with_suffix(".q"), notes)  # type: ignore[arg-type]
    return report.labels


def reference(path: Path, format: str) -> int:
    """Return how many configurations a plain loop reads."""
    if format == "extxyz":
        import ase.io

        return sum(1 for _ in ase.io.iread(path, format="extxyz"))
    if format == "aselmdb":
        from ase.db import connect

        return sum(1 for row in connect(str(path), type="aselmdb", readonly=True).select() if row.toatoms())
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return sum(len(batch.to_pylist()) for batch in file.iter_batches(batch_size=256))


def run(which: str, path: Path, format: str) -> None:
    """Print seconds, processor seconds, peak MiB and count of one reader as JSON; the time of imports is left out."""
    import aqvolt_flows.datasets.importers.files
    import aqvolt_flows.datasets.importers.intake  # noqa: F401

    wall, cpu = time.perf_counter(), time.process_time()
    count = {"ours": ours, "reference": reference}[which](path, format)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu, peak, count]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=20_000)
    parser.add_argument("--format", nargs="+", choices=list(SUFFIXES), default=list(SUFFIXES))
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        which, path, format = options.step
        if which == "write":  # in a process of its own, whose memory those of the readers do not inherit
            write(Path(path), format, options.n)
        else:
            run(which, Path(path), format)
        return
    print(f"{'format':<10}{'reader':<10}{'records':>9}{'seconds':>9}{'cpu s':>8}{'per cpu s':>10}{'peak MiB':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for format in options.format:
            for n in (options.n // 10, options.n):
                path = Path(folder) / f"{n}{SUFFIXES[format]}"
                step = [sys.executable, __file__, "-n", str(n), "--step"]
                subprocess.run([*step, "write", str(path), format], check=True)
                for which in ("ours", "reference"):
                    done = subprocess.run([*step, which, str(path), format], capture_output=True, text=True, check=True)
                    wall, cpu, peak, count = json.loads(done.stdout.splitlines()[-1])
                    print(
                        f"{format:<10}{which:<10}{count:>9}{wall:>9.1f}{cpu:>8.1f}{count / cpu:>10.0f}{peak:>10.0f}",
                        flush=True,
                    )
                path.unlink()


if __name__ == "__main__":
    main()
