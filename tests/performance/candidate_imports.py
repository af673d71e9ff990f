"""Selection and deduplication at size, beside plain ``StructureMatcher.group_structures``.

Makes a MatPES-like file of N structures of which it knows the duplicates, imports it on an embedded
database of its own, and prints one table: time, peak memory (this process and its children) and what was
found. Plain grouping runs on whole compositions up to ``--subset`` structures and is extrapolated linearly
(a structure has as many rivals there as in the whole file); comparing all pairs without any bucket is
timed on a sample of pairs and extrapolated to N(N-1)/2.

With ``--broken`` it imports N records of which one percent is broken in each of several ways, as JSON, extxyz and CIF,
and compares the reasons that come out with those that went in; every record must end in one outcome.

Example: python tests/performance/candidate_imports.py --n 20000 --workers 2
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import random
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from pymatgen.core import Lattice, Structure

HALOGENS = {"F": 0.86, "Cl": 1.0, "Br": 1.06, "I": 1.16}  # lattice, relative to the chloride
METALS = (
    *("Na", "K", "Rb", "Cs", "Mg", "Ca", "Sr", "Ba", "Sc", "Y", "La", "Ce", "Gd", "Er", "Lu", "Ti", "Zr", "Hf", "V"),
    *("Nb", "Ta", "Cr", "Mo", "W", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Cd", "Al", "Ga", "In", "Tl", "Sn", "Pb", "Sb"),
)
#: How copies are made; each is made of a crystal with a probability of 0.7.
COPIES = ("supercell", "moved", "strained", "strained", "snapshot", "snapshot", "snapshot")


@cache
def templates() -> dict[str, Structure]:
    """Return the crystals with Mg and Zn where metals go and Cl where the halogen goes (Å)."""

    def make(group: str, lattice: Lattice, species: list[str], sites: list[list[float]]) -> Structure:
        return Structure.from_spacegroup(group, lattice, species, sites).get_primitive_structure()

    chlorines = [
        *([0.081, 0.688, 0.697], [0.181, 0.123, 0.556]),
        *([0.302, 0.704, 0.454], [0.454, 0.189, 0.322]),
    ]
    return {
        "perovskite": make("Pm-3m", Lattice.cubic(4.8), ["Li", "Mg", "Cl"], [[0.5] * 3, [0] * 3, [0.5, 0, 0]]),
        "spinel": make("Fd-3m", Lattice.cubic(10.4), ["Mg", "Li", "Cl"], [[0] * 3, [0.625] * 3, [0.3792] * 3]),
        "elpasolite": make(
            "Fm-3m",
            Lattice.cubic(10.2),
            ["Li", "Mg", "Zn", "Cl"],
            [[0.25] * 3, [0] * 3, [0.5] * 3, [0.245, 0, 0]],
        ),
        "trigonal": make(
            "P-3m1",
            Lattice.hexagonal(6.2, 6.1),
            ["Li", "Mg", "Cl"],
            [[1 / 3, 2 / 3, 0.7], [0, 0, 0], [0.148, 0.852, 0.22]],
        ),
        "monoclinic": make(
            "P2_1/c",
            Lattice.monoclinic(7.0, 6.5, 13.0, 93.3),
            ["Li", "Mg", *["Cl"] * 4],
            [[0.157, 0.510, 0.857], [0.306, 0.666, 0.092], *chlorines],
        ),
        "tetragonal": make(
            "P4/mmm",
            Lattice.tetragonal(3.6, 5.1),
            ["Li", "Mg", "Cl", "Cl"],
            [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0], [0, 0, 0.5]],
        ),
        "layered": make(
            "R-3m", Lattice.hexagonal(3.7, 18.2), ["Li", "Mg", "Cl"], [[0, 0, 0], [0, 0, 0.5], [0, 0, 0.255]]
        ),
    }


def prototypes(metal: str, other: str, halogen: str) -> dict[str, Structure]:
    """Return crystals of one pair of metals in cubic, hexagonal and monoclinic families, sized by the halogen."""
    species = {"Li": "Li", "Mg": metal, "Zn": other, "Cl": halogen}
    return {
        name: Structure(
            Lattice(t.lattice.matrix * HALOGENS[halogen]), [species[s.specie.symbol] for s in t], t.frac_coords
        )
        for name, t in templates().items()
    }


def copy_of(structure: Structure, how: str, seed: int) -> Structure:
    """Return the same crystal otherwise: a supercell, rotated and shuffled, at 3 % strain, or a snapshot (0.05 Å)."""
    rng = np.random.default_rng(seed)
    if how == "supercell":
        return structure * (2, 1, 1) if len(structure) <= 24 else structure * (1, 1, 1)
    if how == "moved":
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        order = rng.permutation(len(structure))
        sites = [structure[int(i)] for i in order]
        frac = np.array([s.frac_coords for s in sites]) + rng.random(3)
        return Structure(Lattice(structure.lattice.matrix @ turn), [s.specie for s in sites], frac)
    strain = np.eye(3) + np.diag(rng.uniform(-0.03, 0.03, 3)) * (1.0 if how == "strained" else 0.3)
    moved = Structure(Lattice(structure.lattice.matrix @ strain), structure.species, structure.frac_coords)
    if how == "snapshot":
        cart = moved.cart_coords + rng.normal(scale=0.05, size=(len(moved), 3))
        return Structure(moved.lattice, moved.species, cart, coords_are_cartesian=True)
    return moved


def make_structures(n: int, seed: int = 0) -> list[tuple[str, Structure]]:
    """Return n (label, structure); structures of one label are one crystal, most are copies."""
    rng = random.Random(seed)
    combinations = [c for c in itertools.product(METALS, METALS, HALOGENS) if c[0] < c[1]]
    rng.shuffle(combinations)
    made: list[tuple[str, Structure]] = []
    seen: set[str] = set()
    for metal, other, halogen in combinations:
        for name, structure in prototypes(metal, other, halogen).items():
            label = f"{name} {structure.composition.reduced_formula}"
            if label in seen:
                continue
            seen.add(label)
            made.append((label, structure))
            made += [(label, copy_of(structure, how, rng.getrandbits(32))) for how in COPIES if rng.random() < 0.7]
        if len(made) >= n:
            break
    made = made[:n]
    rng.shuffle(made)
    return made


class PeakMemory:
    """Resident memory of this process's tree, sampled every 0.2 s, without the processes in ``apart``."""

    def __init__(self, apart: set[int] | None = None) -> None:
        self.peak, self._apart, self._done = 0, apart or set(), threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        me = psutil.Process()
        while True:
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += 0 if process.pid in self._apart else process.memory_info().rss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total)
            if self._done.wait(0.2):
                return

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def write_file(path: Path, made: list[tuple[str, Structure]]) -> None:
    """Write the structures as MatPES does: one gzipped JSON list."""
    with gzip.open(path, "wt", compresslevel=1) as handle:
        for i, (label, structure) in enumerate(made):
            document = {
                "builder_meta": None,
                "structure": structure.as_dict(),
                "matpes_id": f"made-{i}",
                "label": label,
            }
            handle.write(("[" if i == 0 else ", ") + json.dumps(document))
        handle.write("]")


def ours(path: Path, folder: Path, workers: int) -> tuple[float, float, dict[str, Any], set[str]]:
    """Import the file on an embedded database; return seconds, MB, the report and the ids that were kept."""
    from aqvolt_flows.candidates.pool import Intake, add_to_pool
    from aqvolt_flows.candidates.sources import stream_file
    from aqvolt_flows.schemas.parameters import CandidateParameters
    from aqvolt_flows.settings import AqvoltSettings
    from aqvolt_flows.stores import Database, close_clients
    from aqvolt_launch.embedded import server as embedded

    settings = AqvoltSettings(root=folder, timeout_s=60)
    server = embedded.start(settings)
    try:
        database = Database.connect(settings)
        database.ensure_indexes()
        with PeakMemory(apart={server.pid} if server.pid else set()) as memory:
            started = time.perf_counter()
            report = add_to_pool(stream_file(path), database, Intake(CandidateParameters()), workers=workers)
            seconds = time.perf_counter() - started
        kept = set(database["candidates"].distinct("provenance.record_id", {"status": "accepted"}))
        close_clients()
    finally:
        embedded.stop(settings)
    return seconds, memory.peak / 1e6, report.as_dict(), kept


def documents_broken(made: list[tuple[str, Structure]], seed: int = 2) -> tuple[list[str], Counter[str]]:
    """Return MatPES documents as JSON, one percent broken in each way, and how many give which reason."""
    spoilers: dict[str, Callable[[dict[str, Any]], str]] = {
        "not_json": lambda d: json.dumps(d).replace(":", "", 1),
        "no_structure": lambda d: json.dumps(d | {"structure": None}),
        "unknown_element": lambda d: json.dumps(d).replace('"element": "Li"', '"element": "Qq"'),
        "number": lambda d: json.dumps(d | {"structure": d["structure"] | {"lattice": {"matrix": [[1e308] * 3] * 3}}}),
        "cell": lambda d: json.dumps(d | {"structure": d["structure"] | {"lattice": {"matrix": [[0.1] * 3] * 3}}}),
        "unreadable": lambda d: json.dumps(d | {"structure": {"sites": [{}], "lattice": {}}}),
    }
    return _spoiled(
        [{"structure": s.as_dict(), "matpes_id": f"made-{i}"} for i, (_, s) in enumerate(made)], spoilers, seed
    )


def _spoiled(
    records: list[Any], spoilers: dict[str, Callable[[Any], str]], seed: int, whole: Callable[[Any], str] = json.dumps
) -> tuple[list[str], Counter[str]]:
    rng, each = random.Random(seed), len(records) // 100
    chosen = rng.sample(range(1, len(records) - 1), each * len(spoilers))
    how = {i: code for n, code in enumerate(spoilers) for i in chosen[n * each : (n + 1) * each]}
    texts = [spoilers[how[i]](r) if i in how else whole(r) for i, r in enumerate(records)]
    return texts, Counter(how.values())


def frames_broken(made: list[tuple[str, Structure]], seed: int = 3) -> tuple[list[str], Counter[str]]:
    """Return extxyz frames, one percent broken in each way, and how many give which reason."""
    spoilers: dict[str, Callable[[str], str]] = {
        "count": lambda t: t.rsplit("\n", 2)[0] + "\n",
        "not_periodic": lambda t: t.replace('pbc="T T T"', 'pbc="F F F"'),
        "unknown_element": lambda t: re.sub(r"\nLi\b", "\nQq", t),
        "number": lambda t: re.sub(r'Lattice="\S+', 'Lattice="1e308', t),
        "cell": lambda t: re.sub(r'Lattice="[^"]*"', 'Lattice="1 0 0 1 0 0 0 0 1"', t),
    }
    frames = []
    for _, s in made:
        cell = " ".join(f"{x:.8f}" for x in s.lattice.matrix.ravel())
        rows = [
            f"{site.specie.symbol} {x:.8f} {y:.8f} {z:.8f}\n" for site, (x, y, z) in zip(s, s.cart_coords, strict=True)
        ]
        frames.append(f'{len(s)}\nLattice="{cell}" Properties=species:S:1:pos:R:3 pbc="T T T"\n{"".join(rows)}')
    return _spoiled(frames, spoilers, seed, whole=str)


def blocks_broken(made: list[tuple[str, Structure]], seed: int = 4) -> tuple[list[str], Counter[str]]:
    """Return CIF blocks, one percent broken in each way, and how many give which reason."""
    from pymatgen.io.cif import CifWriter

    def without_a_site(text: str) -> str:
        return re.sub(r"\n\s+Li\s+Li_?\d+.*", "", text, count=1)

    spoilers: dict[str, Callable[[str], str]] = {
        "composition": without_a_site,
        "cell": lambda t: re.sub(r"(_cell_length_a\s+)\S+", r"\1?", t),
        "occupancy": lambda t: re.sub(r"  1\n$", "  1.02\n", t),
        "position": lambda t: re.sub(r"(Li_?\d+\s+1\s+)\S+", r"\1?", t, count=1),
        "unknown_element": lambda t: re.sub(r"\n\s+Li\s", "\n  X ", t),
        "cell_volume": lambda t: re.sub(r"(_cell_volume\s+)\S+", r"\g<1>17.0", t),
        "symmetry": lambda t: t.replace("'x, y, z'", "'x, y'"),
    }
    blocks = [
        f"data_made{i}\n" + str(CifWriter(s)).split("\n", 2)[2].rstrip("\n") + "\n" for i, (_, s) in enumerate(made)
    ]
    return _spoiled(blocks, spoilers, seed, whole=str)


def read_broken(path: Path, texts: list[str], expected: Counter[str]) -> None:
    """Write and read a file of structures; print rate and memory, and compare the reasons with those made."""
    from aqvolt_flows.candidates.records import Quarantined
    from aqvolt_flows.candidates.sources import stream_file

    path.write_bytes(gzip.compress("".join(texts).encode(), 1))
    found: Counter[str] = Counter()
    with PeakMemory() as memory:
        started = time.perf_counter()
        for entry in stream_file(path):
            found[entry.code if isinstance(entry, Quarantined) else "read"] += 1
        seconds = time.perf_counter() - started
    rate = f"{len(texts) / seconds:.0f}/s"
    print(
        f"{path.name:<18}{len(texts):>8} records{seconds:>8.1f} s{rate:>9}{memory.peak / 1e6:>7.0f} MB  {dict(found)}"
    )
    assert found == expected + Counter(read=len(texts) - expected.total()), expected


def import_broken(n: int, workers: int) -> None:
    """Import N records with one percent broken in each way; assert that every record ends in one outcome."""
    made = make_structures(n)
    with tempfile.TemporaryDirectory() as folder:
        for name, make, size in (
            ("broken.extxyz.gz", frames_broken, n),
            ("broken.cif.gz", blocks_broken, min(n, 4000)),
        ):
            read_broken(Path(folder) / name, *make(made[:size]))
        texts, expected = documents_broken(made)
        path = Path(folder) / "broken.json.gz"
        path.write_bytes(gzip.compress(("[" + ",\n".join(texts) + "]").encode(), 1))
        del made, texts
        seconds, megabytes, report, _ = ours(path, Path(folder), workers)
    counts = {k: v for k, v in report.items() if k not in ("broken", "remarks")}
    print(f"{path.name:<18}{n:>8} records{seconds:>8.1f} s{n / seconds:>7.0f}/s{megabytes:>7.0f} MB  {counts}")
    outcomes = sum(sum(report[k].values()) for k in ("accepted", "rejected", "not_kept"))
    assert report["quarantined_for"] == dict(expected), expected
    assert report["read"] == n == outcomes + report["repeated"] + report["quarantined"]
    print("every record ended in one outcome, and the reasons are those that were made")


def plain_groups(structures: list[Structure]) -> tuple[float, int]:
    """Return seconds and number of groups of pymatgen's own grouping at its default tolerances."""
    from pymatgen.core.structure_matcher import ElementComparator, StructureMatcher

    started = time.perf_counter()
    groups = StructureMatcher(comparator=ElementComparator()).group_structures(structures)
    return time.perf_counter() - started, len(groups)


def pair_seconds(structures: list[Structure], pairs: int, seed: int = 1) -> float:
    """Return the mean seconds of one ``fit`` of a random pair."""
    from pymatgen.core.structure_matcher import ElementComparator, StructureMatcher

    rng, matcher = random.Random(seed), StructureMatcher(comparator=ElementComparator())
    started = time.perf_counter()
    for _ in range(pairs):
        matcher.fit(*rng.sample(structures, 2))
    return (time.perf_counter() - started) / pairs


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--subset", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--broken", action="store_true")
    options = parser.parse_args()
    if options.broken:
        import_broken(options.n, options.workers)
        return
    made = make_structures(options.n)
    n, distinct = len(made), len({label for label, _ in made})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.json.gz"
        write_file(path, made)
        labels = [label for label, _ in made]
        subset_labels, subset = set(), []
        formulas: dict[str, list[int]] = {}
        for i, label in enumerate(labels):
            formulas.setdefault(label.split()[1], []).append(i)
        for indices in formulas.values():
            if len(subset) >= options.subset:
                break
            subset += indices
        subset = sorted(subset)
        chosen = [made[i][1] for i in subset]
        subset_labels = {labels[i] for i in subset}
        del made
        seconds, megabytes, report, kept = ours(path, Path(folder), options.workers)
    with PeakMemory() as memory:
        plain, groups = plain_groups(chosen)
    pair = pair_seconds(chosen, 300)
    ours_there = sum(f"made-{i}" in kept for i in subset)
    print(f"{n} structures, {distinct} distinct by construction, {options.workers} workers")
    print(f"{'method':<44}{'structures':>11}{'seconds':>11}{'peak MB':>9}{'kept':>8}{'made':>8}")
    rows = (
        ("import: read, judge, deduplicate, write", n, seconds, megabytes, len(kept), distinct),
        ("group_structures, measured", len(chosen), plain, memory.peak / 1e6, groups, len(subset_labels)),
        ("ours on the same", len(chosen), None, None, ours_there, len(subset_labels)),
        ("group_structures, extrapolated", n, plain * n / len(chosen), None, None, None),
        ("fit of all pairs, extrapolated", n, pair * n * (n - 1) / 2, None, None, None),
    )
    for name, count, took, mb, found, wanted in rows:
        cells = (f"{took:.1f}" if took is not None else "", f"{mb:.0f}" if mb else "")
        ends = ("" if found is None else found, "" if wanted is None else wanted)
        print(f"{name:<44}{count:>11}{cells[0]:>11}{cells[1]:>9}{ends[0]:>8}{ends[1]:>8}")
    print(f"report: {report}")


if __name__ == "__main__":
    main()
