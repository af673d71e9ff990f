"""A later round of 2DIRECT at size: what it costs to choose jointly with all earlier rounds, beside a first choice.

Features are those of ``sampling.py``: 128 columns of rank 24 for structures, 64 of rank 16 for atoms, in 2,000 modes.
``--rows`` structures (16.5 atoms each) are those of all rounds; every ``--every``-th of the earlier ones was chosen,
and half of these are labeled. Shards (as many processes as threads write them) and temporary files are in ``--folder``;
on a machine with enough memory name one in memory, and remove it afterwards.

Three lines, each with seconds, CPU seconds, peak memory and numbers: one choice from nothing (``joint``), the round as
a campaign runs it (``round``: all shards are read again), and the round on what an earlier state remembers
(``extended``: the last ``--new`` structures alone).

``--salts FILE`` compares numbers and gaps instead, on real features that ``real_features.py`` or
``--make-salts`` made: three rounds of LiCl, LiBr and LiI in every order, and thirds of the mixture, labeled or not.

Examples
--------
    python tests/performance/rounds.py --rows 40000 --new 10000
    OPENBLAS_NUM_THREADS=1 python tests/performance/rounds.py --rows 2000000 --new 500000 --device cuda \\
        --folder /dev/shm/rounds                               # about four minutes on 16 cores and a GPU
    OPENBLAS_NUM_THREADS=1 python tests/performance/rounds.py --rows 8500000 --new 2000000 --device cuda \\
        --folder /dev/shm/rounds --lines round                 # the paper's size
    python tests/performance/rounds.py --salts salts.npz --make-salts
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from sampling import Shards, features, part_sizes, peak_mb, write_shards  # the benchmark beside this script

SALTS = {"LiCl": 5.1295, "LiBr": 5.5013, "LiI": 6.0}
FRAMES = 150


class Tail:
    """The last rows of shards, read again for every pass."""

    def __init__(self, shards: Shards, first: int) -> None:
        self.shards, self.first = shards, first

    def __iter__(self):  # type: ignore[no-untyped-def]
        seen = 0
        for block in self.shards:
            if seen + len(block) > self.first:
                yield block[max(0, self.first - seen) :]
            seen += len(block)


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Time one line, after a small selection that compiles (or loads) the loops."""
    from aqvolt_flows.sampling import TwoStageDirect
    from aqvolt_flows.sampling.direct.known import Known
    from aqvolt_flows.sampling.direct.robust import Statistics
    from aqvolt_flows.sampling.direct.space import Moments, Space
    from aqvolt_flows.sampling.direct.state import SampledSpace

    n, new, every = task["rows"], task["new"], task["every"]
    n_atoms = part_sizes(n)
    engine = {"engine": "cpu" if task["device"] == "cpu" else "torch", "device": task["device"]}
    method = TwoStageDirect(
        *(task["thresholds"]),
        **{name: task[name] for name in ("stage2", "threads", "scratch", "scaling")},
        **engine,
        remember=task["what"] == "extended",
    )
    method.select(features(300, 128, 0, 24), features(900, 64, 0, 16), np.full(300, 3))
    structures = Shards(Path(task["structures"]), n)
    atoms = Shards(Path(task["atoms"]), int(n_atoms.sum()))
    old = np.arange(n) < n - new
    chosen = old & (np.arange(n) % every == 0)
    state = None
    if task["what"] == "extended":
        moments = [None, None]
        for i, (shards, last) in enumerate(((structures, n - new), (atoms, int(n_atoms[: n - new].sum())))):
            for block in Shards(shards.folder, last):
                part = Moments.of(block)
                moments[i] = part if moments[i] is None else moments[i] + part
        known = Known.of(take(structures, chosen), take(atoms, np.repeat(chosen, n_atoms)), n_atoms[chosen])
        space = Space.fit(moments[0])
        state = SampledSpace.empty(space, method.structure_threshold)
        from dataclasses import replace

        state = replace(
            state, known=known, chosen=space.project(known.structures), structures=Statistics(moments[0]),
            atoms=Statistics(moments[1]),
        )  # fmt: skip
    start, cpu = time.perf_counter(), time.process_time()
    if state is not None:
        first = n - new
        rows = Tail(structures, first), Tail(atoms, int(n_atoms[:first].sum())), n_atoms[first:]
        found = method.extend(state, *rows, unlabeled=np.arange(len(state.known)) % 2 == 0)
    elif task["what"] == "round":
        half = chosen & (np.cumsum(chosen) % 2 == 0)
        found = method.select(structures, atoms, n_atoms, chosen=chosen, unlabeled=half)
    else:
        found = method.select(structures, atoms, n_atoms)
    return {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "before": int(chosen.sum()),
        "chosen": len(found.indices),
        "back": len(found.given_back),
        "clusters": [int(found.coverage[c]) for c in ("structure_clusters", "atom_clusters")],
        "mean": found.coverage["mean"],
        "p99": found.coverage["p99"],
        "atoms_read": int(n_atoms.sum() if state is None else n_atoms[n - new :].sum()),
        "peak_mb": peak_mb(),
    }


def take(shards: Shards, which: np.ndarray) -> np.ndarray:
    """Return some rows of shards."""
    found, first = [], 0
    for block in shards:
        found.append(block[which[first : first + len(block)]])
        first += len(block)
    return np.concatenate(found)


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Run one line in a process of its own."""
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(task["threads"]))
    command = [sys.executable, __file__, "--child", json.dumps(task)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"{task['what']} failed:\n{done.stderr[-2000:]}")
    return task | json.loads(lines[-1][7:])


def make_salts(path: Path) -> None:
    """Heat 8-atom cells of three salts at three volumes from 300 to 1200 K with CHGNet, and encode every third step."""
    from ase import units
    from ase.build import bulk
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

    from aqvolt_flows.potentials import load_potential
    from aqvolt_flows.sampling.encoders.registry import load_encoder

    warnings.simplefilter("ignore")
    calculator, frames = load_potential("chgnet/r2scan").calculator(), []
    for seed, (name, a) in enumerate(SALTS.items()):
        rng = np.random.default_rng(seed)
        for strain in (-0.01, 0.0, 0.02):
            atoms = bulk(name, "rocksalt", a=a * (1 + strain), cubic=True)
            atoms.rattle(0.02, rng=rng)
            atoms.calc = calculator
            MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=rng)
            dynamics = Langevin(atoms, 4 * units.fs, temperature_K=300, friction=0.02 / units.fs, rng=rng)
            for i in range(FRAMES // 3):
                dynamics.set_temperature(temperature_K=300 + 900 * i / (FRAMES // 3))
                dynamics.run(3)
                frames.append(atoms.copy())
    found = load_encoder("chgnet/r2scan").encode(frames)
    np.savez(path, structures=found.structures, atoms=found.atoms, n_atoms=found.n_atoms)


def compare_salts(path: Path) -> None:
    """Print numbers and mean gaps, structures and atoms, of one choice and of three rounds over the same frames."""
    from aqvolt_flows.sampling import TwoStageDirect
    from aqvolt_flows.sampling.direct.known import Known

    with np.load(path) as stored:
        whole = stored["structures"], stored["atoms"], stored["n_atoms"]
    blocks = [np.arange(FRAMES * k, FRAMES * (k + 1)) for k in range(len(SALTS))]
    thirds = [np.array_split(np.random.default_rng(s).permutation(len(whole[2])), 3) for s in range(3)]
    print("stage2 | thresholds | rounds | labeled between | space of all | joint: chosen, gaps | rounds: chosen, gaps")
    for stage2, threshold in (("per_cluster", 0.1), ("per_cluster", 0.2), ("global", 0.1)):
        method = TwoStageDirect(threshold, threshold, stage2=stage2)
        for kind, orders in (("salts", list(permutations(blocks))), ("mixed", thirds)):
            for labeled, shape in ((False, None), (True, None), (True, Known.of(*whole))):
                joint, rounds = [], []
                for parts in orders:
                    order = np.concatenate(parts)
                    rows = order[method.select(*some(whole, order)).indices]
                    joint.append([len(rows), *gaps(whole, rows)])
                    rows = in_rounds(method, whole, parts, labeled, shape)
                    rounds.append([len(rows), *gaps(whole, rows)])
                spread = np.array(rounds)[:, 0]
                cells = [", ".join(f"{v:.4g}" for v in np.mean(r, axis=0)) for r in (joint, rounds)]
                cells[1] += f" ({spread.min():.0f} to {spread.max():.0f})"
                print(" | ".join([stage2, f"{threshold:g}", kind, str(labeled), str(shape is not None), *cells]))


def some(whole: tuple[np.ndarray, ...], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return structures, atoms and numbers of atoms of some rows, in their order."""
    first = np.concatenate([[0], np.cumsum(whole[2])])
    return whole[0][rows], np.concatenate([whole[1][first[i] : first[i + 1]] for i in rows]), whole[2][rows]


def gaps(whole: tuple[np.ndarray, ...], rows: np.ndarray) -> list[float]:
    """Return the mean distances of all structures and of all atoms to the nearest of the chosen."""
    from aqvolt_flows.sampling.direct.coverage import coverage
    from aqvolt_flows.sampling.direct.space import Moments, Space

    chosen = some(whole, rows)
    return [coverage(whole[i], chosen[i], Space.fit(Moments.of(whole[i])), 0.1).mean for i in range(2)]


def in_rounds(method: Any, whole: tuple[np.ndarray, ...], parts: Any, labeled: bool, shape: Any) -> np.ndarray:
    """Return the rows that are chosen after all rounds."""
    order, chosen = np.zeros(0, int), np.zeros(0, bool)
    for part in parts:
        order, chosen = np.concatenate([order, part]), np.concatenate([chosen, np.zeros(len(part), bool)])
        free = None if labeled else chosen.copy()
        found = method.select(*some(whole, order), chosen=chosen.copy(), unlabeled=free, shape=shape)
        chosen[found.indices], chosen[found.given_back] = True, False
    return order[chosen]


def main() -> None:
    """Measure, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40_000, help="structures of all rounds")
    parser.add_argument("--new", type=int, default=10_000, help="of them, those of the last round")
    parser.add_argument("--every", type=int, default=40, help="every so manyth earlier structure was chosen")
    parser.add_argument("--thresholds", type=float, nargs=2, default=[0.1, 0.1])
    parser.add_argument("--stage2", choices=("per_cluster", "global"), default="per_cluster")
    parser.add_argument("--scaling", choices=("standard", "robust"), default="standard")
    parser.add_argument("--lines", nargs="*", default=["joint", "round", "extended"])
    parser.add_argument("--device", default="cpu", help="cpu: our CPU engine; cuda: the torch engine")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, help="for shards and temporary files, kept; default: a temporary one")
    parser.add_argument("--salts", type=Path, help="an .npz of real features: compare numbers and gaps")
    parser.add_argument("--make-salts", action="store_true", help="make that file first (half a minute)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print("RESULT " + json.dumps(run(json.loads(given.child))))
        return
    if given.salts:
        if given.make_salts:
            make_salts(given.salts)
        compare_salts(given.salts)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        started = time.monotonic()
        write_shards(folder / "128", given.rows, 128, 24, given.threads)
        write_shards(folder / "64", int(part_sizes(given.rows).sum()), 64, 16, given.threads)
        scratch = folder / "scratch"
        scratch.mkdir(exist_ok=True)
        print(f"shards: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        common = {"structures": str(folder / "128"), "atoms": str(folder / "64"), "scratch": str(scratch)}
        wanted = ("rows", "new", "every", "thresholds", "stage2", "scaling", "device", "threads")
        common |= {name: getattr(given, name) for name in wanted}
        print("what | s | CPU s | atoms read | chosen before, new, given back | clusters | mean, p99 gap | peak MB")
        for what in given.lines:
            line = measure(common | {"what": what})
            cells = [what, f"{line['seconds']:.1f}", f"{line['cpu']:.0f}", f"{line['atoms_read']:,}"]
            cells += [f"{line['before']:,}, {line['chosen']:,}, {line['back']:,}"]
            cells += [", ".join(f"{c:,}" for c in line["clusters"]), f"{line['mean']:.4f}, {line['p99']:.4f}"]
            print(" | ".join([*cells, f"{line['peak_mb']:,.0f}"]), flush=True)


if __name__ == "__main__":
    main()
