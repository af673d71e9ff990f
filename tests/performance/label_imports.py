"""Importing labels: rate and peak memory of the streaming importers beside what reads the same files at once.

Writes N records of 17 atoms (MatPES documents, task documents; two atoms for runs of VASP), reads them to validated
labels in a process of its own, and, as reference, parses the same files with ``json.load``, or with ``ase.io.read`` for
runs of VASP; neither validates anything. Prints one table.

Example: python tests/performance/label_imports.py -n 20000 --kind tasks
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
ELEMENTS = ["Li"] * 5 + ["Y"] * 2 + ["Cl"] * 10


def write_runs(path: Path, n: int) -> None:
    """Write ``n`` folders of VASP statics in the form of VASP 6.4.1."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from vasp_forms import Form, write_run

    for i in range(n):
        write_run(path / f"{i // 1000}" / f"{i}", Form(free=-9.25 - 1e-5 * i, zero=-9.20 - 1e-5 * i), zipped=True)


def write_tasks(path: Path, n: int) -> None:
    """Write ``n`` task documents in the form of emmet, with twelve electronic steps each."""
    rng = np.random.default_rng(0)
    potcars = [{"titel": f"PAW_PBE {s} 01Jan2000"} for s in ("Li_sv", "Y_sv", "Cl")]
    incar = {"METAGGA": "R2SCAN", "ENCUT": 680, "ENAUG": 1360, "ISMEAR": 0, "SIGMA": 0.05, "NELM": 200, "LASPH": True}
    with gzip.open(path, "wt", compresslevel=3) as handle:
        for i in range(n):
            sites = [
                {"species": [{"element": e, "occu": 1}], "abc": abc, "label": e, "properties": {"magmom": 0.0}}
                for e, abc in zip(ELEMENTS, rng.random((N_ATOMS, 3)).round(8).tolist(), strict=True)
            ]
            structure = {"lattice": {"matrix": (7 * np.eye(3)).tolist()}, "sites": sites}
            energy = float(-60 + rng.normal())
            stress = rng.normal(scale=10, size=(3, 3)).round(8)
            one = {"e_fr_energy": energy, "e_wo_entrp": energy, "e_0_energy": energy}
            step = one | {
                "electronic_steps": [one] * 12,
                "forces": rng.normal(size=(N_ATOMS, 3)).round(8).tolist(),
                "stress": (stress + stress.T).tolist(),
                "structure": structure,
            }
            made = {
                "task_id": f"mp-{i}",
                "run_type": "r2SCAN",
                "state": "successful",
                "structure": structure,
                "output": {"energy": energy},
                "calcs_reversed": [
                    {
                        "vasp_version": "6.4.1",
                        "input": {"incar": incar, "parameters": {"ENMAX": 680.0}, "potcar_spec": potcars},
                        "output": {"energy": energy, "ionic_steps": [step]},
                    }
                ],
            }
            handle.write(json.dumps(made) + "\n")


def write(path: Path, n: int) -> None:
    """Write ``n`` MatPES documents; numbers have MatPES' eight decimals."""
    rng = np.random.default_rng(0)
    elements = ELEMENTS
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


def ours(path: Path, source: str) -> int:
    """Return how many valid labels the importer makes of the files."""
    from aqvolt_flows.datasets.importers.files import read_labels
    from aqvolt_flows.datasets.importers.intake import label_from_import
    from aqvolt_flows.datasets.importers.published import Imported, ImportOptions

    options = ImportOptions(source=source)
    entries = (entry for entry in read_labels(path, options) if isinstance(entry, Imported))
    return sum(label_from_import(entry, options).status == "valid" for entry in entries)


def reference(path: Path, source: str) -> int:
    """Return how many documents ``json.load`` finds in the file, or ASE in the runs."""
    if source == "vasp":
        import ase.io

        return len([ase.io.read(p, format="vasp-xml").get_stress() for p in sorted(path.rglob("vasprun.xml.gz"))])
    with gzip.open(path, "rt") as handle:
        return len([json.loads(line) for line in handle]) if source == "mp" else len(json.load(handle))


def run(which: str, path: Path, source: str) -> None:
    """Print seconds, processor seconds, peak MiB and count of one reader as JSON; the time of imports is left out."""
    import aqvolt_flows.datasets.importers.files
    import aqvolt_flows.datasets.importers.intake  # noqa: F401

    wall, cpu = time.perf_counter(), time.process_time()
    count = {"ours": ours, "reference": reference}[which](path, source)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu, peak, count]))


#: Kind → importer's source, what writes the records, what the reference is.
KINDS = {
    "matpes": ("matpes", write, "json.load of the whole file"),
    "tasks": ("mp", write_tasks, "json.loads of every line"),
    "vasp": ("vasp", write_runs, "ase.io.read of every run"),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=20_000)
    parser.add_argument("--kind", choices=sorted(KINDS), default="matpes")
    parser.add_argument("--only-ours", action="store_true", help="Without the reference, which may need all memory.")
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        run(options.step[0], Path(options.step[1]), options.step[2])
        return
    source, prepare, told = KINDS[options.kind]
    print(f"{'what':<34}{'records':>10}{'seconds':>9}{'cpu s':>8}{'per cpu s':>10}{'peak MiB':>10}")
    found: dict[tuple[str, int], list[float]] = {}
    readers = {"ours": "importer, validated labels"} | ({} if options.only_ours else {"reference": told})
    sizes = (options.n // 10, options.n)
    with tempfile.TemporaryDirectory() as folder:
        for n in sizes:
            path = Path(folder) / (f"{n}" if options.kind == "vasp" else f"{n}.json.gz")
            prepare(path, n)
            for which, name in readers.items():
                done = subprocess.run(
                    [sys.executable, __file__, "--step", which, str(path), source],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                wall, cpu, peak, count = found[which, n] = json.loads(done.stdout)
                print(f"{name:<34}{count:>10}{wall:>9.1f}{cpu:>8.1f}{count / cpu:>10.0f}{peak:>10.0f}", flush=True)
    for which, name in readers.items():
        small, large = (found[which, n][2] for n in sizes)
        print(f"peak memory for ten times the records, {name}: × {large / small:.2f}")
    if not options.only_ours:
        share = found["ours", options.n][1] / found["reference", options.n][1]
        print(f"processor time, importer : {told} = {share:.1f}")


if __name__ == "__main__":
    main()
