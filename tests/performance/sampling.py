"""2DIRECT at size, beside maml's DIRECT: one run, one table.

Features are synthetic, 128 columns of rank 24 in 2,000 modes (:func:`features`), written as ``.npy`` shards before the
clock starts. Every line is a process of its own, which is timed from opening the first shard to the sorted indices
and whose peak memory is the kernel's ``VmHWM``; ours searches with a beam unless ``--search exact``. maml 2025.4.3 is
installed into a temporary folder for the run; its three steps (scaler and PCA, BIRCH and prediction, choice) run as
its pipeline runs them, at the same threshold. Gaps are distances of all rows to the nearest chosen row, searched
exactly in one space for both; ``random`` draws as many rows as ours chose.

Examples
--------
    python tests/performance/sampling.py                                    # maml and ours to 200,000 rows
    python tests/performance/sampling.py --max-rows 8500000 --atoms 10000000 --parts 600000
    python tests/performance/sampling.py --without-maml --sizes 2000000 --max-rows 8500000 --device cuda
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROWS_PER_SHARD = 200_000
GROWTH = (500_000, 1_000_000, 2_000_000, 4_000_000, 8_500_000)
THRESHOLD = 0.1


def features(n: int, columns: int, shard: int, rank: int, modes: int = 2000, spread: float = 0.2) -> np.ndarray:
    """Return one shard of rows: Gaussian modes of log-normal widths in ``rank`` dimensions, mixed into ``columns``."""
    world, rng = np.random.default_rng(0), np.random.default_rng([1, shard])
    mixing = world.normal(size=(rank, columns))
    centers = world.normal(size=(modes, rank))
    widths = spread * np.exp(0.5 * world.normal(size=modes))
    mode = rng.integers(modes, size=n)
    latent = centers[mode] + rng.normal(size=(n, rank)) * widths[mode, None]
    return (latent @ mixing + 0.02 * rng.normal(size=(n, columns))).astype(np.float32)


def write_shards(folder: Path, n: int, columns: int, rank: int, processes: int = 1) -> None:
    """Write as many shards as ``n`` rows need, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [(folder / f"{number:04}.npy", number, columns, rank) for number in range(-(-n // ROWS_PER_SHARD))]
    wanted = [task for task in paths if not task[0].exists()]
    if processes == 1 or len(wanted) < 2:
        for task in wanted:
            _write_shard(task)
        return
    with multiprocessing.get_context("spawn").Pool(min(processes, len(wanted))) as pool:
        pool.map(_write_shard, wanted, chunksize=1)


def _write_shard(task: tuple[Path, int, int, int]) -> None:
    path, number, columns, rank = task
    np.save(path, features(ROWS_PER_SHARD, columns, number, rank))


class Shards:
    """The first ``n`` rows of a folder of shards, read again for every pass."""

    def __init__(self, folder: Path, n: int) -> None:
        self.folder, self.n = folder, n

    def __iter__(self) -> Iterator[np.ndarray]:
        left = self.n
        for path in sorted(self.folder.glob("*.npy")):
            if left <= 0:
                return
            block = np.load(path)[:left]
            left -= len(block)
            yield block


def peak_mb() -> float:
    """Return the peak resident memory of this process in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise SystemExit("This kernel does not report VmHWM.")


def gaps(shards: Shards, chosen: np.ndarray, threads: int) -> dict[str, float]:
    """Return mean and 99th percentile of the distance to the nearest chosen row, and to as many random ones."""
    from aqvolt_flows.sampling.direct.coverage import coverage
    from aqvolt_flows.sampling.direct.engines import load_engine
    from aqvolt_flows.sampling.direct.space import Space

    engine = load_engine("cpu", threads=threads, search="exact")
    space = Space.fit(engine.moments(shards))
    random = np.sort(np.random.default_rng(0).choice(shards.n, len(chosen), replace=False))
    found = {}
    for name, rows in (("", chosen), ("random_", random)):
        whole = coverage(shards, _rows(shards, rows), space, THRESHOLD, engine)
        found |= {f"{name}mean": whole.mean, f"{name}p99": whole.p99}
    return found


def _rows(shards: Shards, rows: np.ndarray) -> Iterator[np.ndarray]:
    first = 0
    for block in shards:
        mine = rows[(rows >= first) & (rows < first + len(block))] - first
        if len(mine):
            yield block[mine]
        first += len(block)


def run_maml(task: dict[str, Any]) -> dict[str, Any]:
    """Time maml's three steps."""
    import logging

    logging.disable(logging.INFO)
    sys.path.insert(0, task["maml"])
    from maml.sampling.clustering import BirchClustering
    from maml.sampling.pca import PrincipalComponentAnalysis
    from maml.sampling.stratified_sampling import SelectKFromClusters
    from sklearn.preprocessing import StandardScaler

    rows = np.concatenate(list(Shards(Path(task["folder"]), task["rows"])))
    start, cpu = time.perf_counter(), time.process_time()
    scaled = StandardScaler().fit_transform(rows)
    points = PrincipalComponentAnalysis().fit(scaled).transform(scaled)
    clustered = BirchClustering(n=None, threshold_init=THRESHOLD).transform(points)
    chosen = np.sort(SelectKFromClusters(k=1).transform(clustered)["selected_indexes"])
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"seconds": seconds, "cpu": cpu, "clusters": len(clustered["label_centers"]), "chosen": chosen}


def run_ours(task: dict[str, Any]) -> dict[str, Any]:
    """Time one stage, after a small one that compiles (or loads) the loops."""
    from aqvolt_flows.sampling import direct_select

    engine = {"engine": "cpu" if task["device"] == "cpu" else "torch", "device": task["device"]}
    first = time.perf_counter()
    direct_select(features(2000, 128, 0, 24), THRESHOLD, threads=task["threads"], **engine)
    first = time.perf_counter() - first
    start, cpu = time.perf_counter(), time.process_time()
    shards = Shards(Path(task["folder"]), task["rows"])
    search = {"search": task["search"], "beam": task["beam"]}
    chosen = direct_select(shards, THRESHOLD, threads=task["threads"], scratch=task["scratch"], **search, **engine)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"seconds": seconds, "cpu": cpu, "clusters": len(chosen), "chosen": chosen, "first_call": first}


def part_sizes(n: int) -> np.ndarray:
    """Return atoms of n structures, 16.5 on average; the paper's are 16.7."""
    return np.random.default_rng(2).integers(8, 26, n)


def run_parts(task: dict[str, Any]) -> dict[str, Any]:
    """Time both stages, atoms within structural clusters; ``rows`` counts structures."""
    from aqvolt_flows.sampling import TwoStageDirect

    n = task["rows"]
    n_atoms = part_sizes(n)
    engine = {"engine": "cpu" if task["device"] == "cpu" else "torch", "device": task["device"]}
    method = TwoStageDirect(
        *(THRESHOLD, THRESHOLD),
        remember=False,
        **{name: task[name] for name in ("stage2", "threads", "scratch", "search", "beam")},
        **engine,
    )
    small = features(300, 128, 0, 24), features(900, 64, 0, 16), np.full(300, 3)
    first = time.perf_counter()
    method.select(*small)
    first = time.perf_counter() - first
    start, cpu = time.perf_counter(), time.process_time()
    atoms = Shards(Path(task["atoms"]), int(n_atoms.sum()))
    found = method.select(Shards(Path(task["folder"]), n), atoms, n_atoms)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {
        "seconds": seconds,
        "cpu": cpu,
        "clusters": int(found.coverage["atom_clusters"]),
        "chosen": found.indices,
        "first_call": first,
        "atoms": int(n_atoms.sum()),
        "mean": found.coverage["mean"],
        "p99": found.coverage["p99"],
    }


def child(task: dict[str, Any]) -> None:
    """Run one line of the table and print it as JSON."""
    base = peak_mb()
    found = {"maml": run_maml, "ours": run_ours, "parts": run_parts}[task["what"]](task)
    found |= {"peak_mb": peak_mb(), "base_mb": base}
    chosen = found.pop("chosen")
    found["n_chosen"] = len(chosen)
    if task["gaps"]:
        found |= gaps(Shards(Path(task["folder"]), task["rows"]), chosen, task["threads"])
    print("RESULT " + json.dumps(found))


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Run one line in a process of its own."""
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(task["blas"]))
    command = [sys.executable, __file__, "--child", json.dumps(task)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"{task['what']} at {task['rows']} rows failed:\n{done.stderr[-2000:]}")
    return task | json.loads(lines[-1][7:])


def report(lines: list[dict[str, Any]]) -> None:
    """Print the table, ratios to maml at the same size, and the exponent of time over rows."""
    print("what | rows | s | CPU s | rows/s | clusters | chosen | mean gap | p99 gap | random mean | peak MB | to maml")
    theirs = {line["rows"]: line for line in lines if line["what"] == "maml"}
    for line in lines:
        rows = line["atoms"] if line["what"] == "parts" else line["rows"]
        maml = theirs.get(line["rows"]) if line["what"] == "ours" and line["columns"] == 128 else None
        ratio = f"{maml['seconds'] / line['seconds']:.0f}x faster" if maml else ""
        if maml and "mean" in line:
            names = ("n_chosen", "mean", "p99")
            ratio += ", " + "/".join(f"{100 * (line[n] / maml[n] - 1):+.2f} %" for n in names)
        cells = [line["label"], f"{rows:,}", f"{line['seconds']:.2f}", f"{line['cpu']:.2f}"]
        cells += [f"{rows / line['seconds']:,.0f}", f"{line['clusters']:,}", f"{line['n_chosen']:,}"]
        cells += [f"{line[n]:.4f}" if n in line else "" for n in ("mean", "p99", "random_mean")]
        print(" | ".join([*cells, f"{line['peak_mb']:,.0f}", ratio]))
    ours = [line for line in lines if line["what"] == "ours" and line["columns"] == 128]
    for label, low, high in (("all sizes", 0, 1e12), ("200,000 to 2,000,000", 200_000, 2_000_000)):
        fitted = [line for line in ours if low <= line["rows"] <= high]
        if len(fitted) > 1:
            wall, cpu = (
                np.polyfit(*np.log([[line[n] for line in fitted] for n in ("rows", what)]), 1)[0]
                for what in ("seconds", "cpu")
            )
            print(f"time grows as N^{wall:.2f} (CPU time N^{cpu:.2f}) over {label}")
    first = [line["first_call"] for line in lines if "first_call" in line]
    if first:
        print(f"first call of a process, loops compiled or loaded: {first[0]:.1f} s, later processes {first[-1]:.1f} s")


def install_maml(folder: Path) -> str:
    """Install maml 2025.4.3 alone into a folder and return it."""
    target = folder / "maml"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), "maml==2025.4.3"]
    subprocess.run(command, check=True)
    return str(target)


def main() -> None:
    """Plan the lines, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[50_000, 100_000, 200_000], help="rows for maml and ours"
    )
    parser.add_argument("--max-rows", type=int, default=0, help="ours alone at 0.5, 1, 2, 4, 8.5 million up to this")
    parser.add_argument("--atoms", type=int, default=0, help="ours alone, one stage over so many rows of 64 columns")
    parser.add_argument("--parts", type=int, default=0, help="both stages over so many structures (16.5 atoms each)")
    parser.add_argument("--stage2", choices=("per_cluster", "global"), default="per_cluster", help="of --parts")
    parser.add_argument("--without-maml", action="store_true")
    parser.add_argument("--maml", help="a folder that maml 2025.4.3 is installed in already")
    parser.add_argument("--device", default="cpu", help="cpu: our CPU engine; cuda: the torch engine")
    parser.add_argument("--search", choices=("beam", "exact"), default="beam", help="of ours")
    parser.add_argument("--beam", type=int, default=16, help="boxes that ours follows per level")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of ours and of BLAS, for both")
    parser.add_argument("--gaps-to", type=int, default=2_000_000, help="no gaps above so many rows")
    parser.add_argument("--shards", help="folder for the shards, kept; default: a temporary one")
    parser.add_argument("--json", help="write the lines to this file as well")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(json.loads(args.child))
        return
    with tempfile.TemporaryDirectory() as name:
        shards, scratch = Path(args.shards or name), Path(name)
        common = {"device": args.device, "threads": args.threads, "blas": args.threads, "scratch": str(scratch)}
        common |= {"search": args.search, "beam": args.beam}
        wide, narrow = {"folder": str(shards / "128"), "columns": 128}, {"folder": str(shards / "64"), "columns": 64}
        tasks = []
        maml = None if args.without_maml else args.maml or install_maml(scratch)
        for n in args.sizes:
            kinds = ("ours",) if maml is None else ("maml", "ours")
            tasks += [common | wide | {"what": w, "label": w, "rows": n, "maml": maml} for w in kinds]
        tasks += [common | wide | {"what": "ours", "label": "ours", "rows": n} for n in GROWTH if n <= args.max_rows]
        if args.atoms:
            tasks.append(common | narrow | {"what": "ours", "label": "ours, 64 columns", "rows": args.atoms})
        if args.parts:
            both = {"what": "parts", "rows": args.parts, "stage2": args.stage2, "atoms": narrow["folder"]}
            tasks.append(common | wide | both | {"label": f"two stages, {args.stage2}"})
        lines = []
        for task in tasks:
            write_shards(Path(task["folder"]), task["rows"], task["columns"], 24 if task["columns"] == 128 else 16)
            if task["what"] == "parts":
                write_shards(Path(task["atoms"]), int(part_sizes(task["rows"]).sum()), 64, 16)
            task["gaps"] = task["what"] != "parts" and task["rows"] <= args.gaps_to
            lines.append(measure(task))
            print(f"… {task['label']} {task['rows']:,}: {lines[-1]['seconds']:.2f} s", file=sys.stderr, flush=True)
        report(lines)
        if args.json:
            Path(args.json).write_text(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
