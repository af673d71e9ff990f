"""Importing MatPES documents: rate and peak memory of the streaming importer beside reading the whole file at once.

Writes a file of N documents of 17 atoms as MatPES publishes them (JSON.gz), reads it to validated labels in a process
of its own, and, as reference, parses the same file with ``json.load`` alone, which validates nothing. Prints one table.

Example: python tests/performance/label_imports.py -n 20000
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

N_ATOMS = 17


def write(path: Path, n: int) -> None:
    """Write ``n`` documents; numbers have MatPES' eight decimals."""
    rng = np.random.default_rng(0)
    elements = ["Li"] * 5 + ["Y"] * 2 + ["Cl"] * 10
    with gzip.open(path, "wt", compresslevel=3) as handle:
        handle.write("[")
        for i in range(n):
            sites = [
                {"species": [{"element": e, "occu": 1}], "abc": abc, "label": e, "properties": {"magmom": 0.0}}
                for e, abc in zip(elements, rng.random((N_ATOMS, 3)).round(8).tolist(), strict=True)
            ]
            made = {
                "matpes_id": f"matpes-{i}",
                "structure": {"lattice": {"matrix": (7 * np.eye(3)).tolist()}, "sites": sites},
                "energy": float(-60 + rng.normal()),
                "forces": rng.normal(size=(N_ATOMS, 3)).round(8).tolist(),
                "stress": rng.normal(scale=10, size=6).round(8).tolist(),
                "functional": "r2SCAN",
                "bader_charges": rng.random(N_ATOMS).round(6).tolist(),
                "provenance": {"md_temperature": 300.0},
            }
            handle.write((",\n" if i else "") + json.dumps(made))
        handle.write("]")


def ours(path: Path) -> int:
    """Return how many valid labels the importer makes of the file."""
    from aqvolt_flows.datasets.importers.files import read_labels
    from aqvolt_flows.datasets.importers.intake import label_from_import
    from aqvolt_flows.datasets.importers.published import ImportOptions

    options = ImportOptions(source="matpes")
    return sum(label_from_import(entry, options).status == "valid" for entry in read_labels(path, options))


def reference(path: Path) -> int:
    """Return how many documents ``json.load`` finds in the file."""
    with gzip.open(path, "rt") as handle:
        return len(json.load(handle))


def run(which: str, path: Path) -> None:
    """Print seconds, processor seconds, peak MiB and count of one reader as JSON; the time of imports is left out."""
    import aqvolt_flows.datasets.importers.files
    import aqvolt_flows.datasets.importers.intake  # noqa: F401

    wall, cpu = time.perf_counter(), time.process_time()
    count = {"ours": ours, "reference": reference}[which](path)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu, peak, count]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=20_000)
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        run(options.step[0], Path(options.step[1]))
        return
    print(f"{'what':<34}{'documents':>10}{'seconds':>9}{'cpu s':>8}{'per cpu s':>10}{'peak MiB':>10}")
    found: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for n in (options.n // 10, options.n):
            path = Path(folder) / f"{n}.json.gz"
            write(path, n)
            for which, name in (("ours", "importer, validated labels"), ("reference", "json.load of the whole file")):
                done = subprocess.run(
                    [sys.executable, __file__, "--step", which, str(path)], capture_output=True, text=True, check=True
                )
                wall, cpu, peak, count = found[which, n] = json.loads(done.stdout)
                print(f"{name:<34}{count:>10}{wall:>9.1f}{cpu:>8.1f}{count / cpu:>10.0f}{peak:>10.0f}")
    small, large = (found["ours", n][2] for n in (options.n // 10, options.n))
    print(f"peak memory for ten times the documents: × {large / small:.2f}; json.load", end=" ")
    print(f"× {found['reference', options.n][2] / found['reference', options.n // 10][2]:.2f}")
    print(
        f"processor time, importer : json.load = {found['ours', options.n][1] / found['reference', options.n][1]:.1f}"
    )


if __name__ == "__main__":
    main()
