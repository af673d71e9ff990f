"""How fast frames are screened, encoded and read back, beside what one would do without this project.

One run prints one table, CPU seconds of this process for the filters, wall seconds for the rest:

- filters: ours, and ASE's neighbor list frame by frame for the overlaps alone;
- encoder, on frames of lithium halides of 9 to 16 atoms: one process that encodes batches, and from files including
  reading and filters; beside ``--workers`` processes in which chgnet makes a graph of every frame and its network runs
  on batches of them, as this project did before (their start is not counted). The features are compared with those of
  ``CHGNet.predict_structure``, as its documentation calls it;
- shards: writing and streaming back, and the same features as lists in Parquet, read whole.

``python tests/performance/encoding.py --frames 200 --encode 200 --before 100 --workers 2`` takes a minute;
``--parts encoder --device cuda --encode 20000 --before 4000`` encodes on a GPU; ``--shard-atoms 2000000`` for the size
of a real shard, and more.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ase import Atoms
from ase.build import bulk
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from funnel import CATIONS, LATTICES, cell
from pymatgen.io.ase import AseAtomsAdaptor

from aqvolt_flows.frames import Frame, read_batches, read_frames, write_frames
from aqvolt_flows.sampling.encoders.base import Encoder, Features
from aqvolt_flows.sampling.encoders.registry import load_encoder
from aqvolt_flows.sampling.features.encode import Encoding
from aqvolt_flows.sampling.features.screen import COLUMNS, Block, Screen, volume_per_atom
from aqvolt_flows.sampling.features.shards import EncodedFrames, FeatureShards, write_shard
from aqvolt_flows.schemas.parameters import SamplingParameters

PARTS = ("filters", "encoder", "shards")


def frames(n: int, repeat: int) -> Iterator[Frame]:
    """Yield rattled cells of LiCl with 8·repeat³ atoms."""
    salt = bulk("LiCl", "rocksalt", a=5.13, cubic=True) * (repeat, repeat, repeat)
    rng = np.random.default_rng(0)
    for i in range(n):
        moved = salt.copy()
        moved.positions += rng.normal(scale=0.15, size=salt.positions.shape)
        yield _frame(i, moved)


def _frame(step: int, atoms: Atoms) -> Frame:
    none = np.zeros((len(atoms), 3), np.float32)
    numbers, box = atoms.numbers.astype(np.int16), atoms.cell[:].astype(np.float32)
    places = atoms.positions.astype(np.float32)
    return Frame("t", step, 300.0, -1.0, numbers, places, box, none, np.zeros(6, np.float32))


def timed(work: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> tuple[float, Any]:
    """Return seconds and result."""
    started = clock()
    result = work()
    return clock() - started, result


def screening(path: Path) -> int:
    """Judge every frame of a file."""
    screen, kept = Screen(SamplingParameters()), 0
    first = True
    for _, batch in read_batches(path, COLUMNS):
        block = Block.of(batch)
        if first:
            screen.start(volume_per_atom(block))
        first, kept = False, kept + int((screen.judge(block) == 0).sum())
    return kept


def ase_overlaps(path: Path, most: int) -> int:
    """Find overlaps frame by frame."""
    n = 0
    for frame in read_frames(path):
        atoms = frame.to_atoms()
        neighbor_list("i", atoms, list(0.5 * covalent_radii[atoms.numbers]))
        n += 1
        if n == most:
            break
    return n


def filters(table: list[tuple[Any, ...]], folder: Path, n: int, repeat: int) -> None:
    """Time the filters."""
    path = folder / "frames.parquet"
    write_frames(path, frames(n, repeat))
    screening(path)  # compiles
    seconds, kept = timed(lambda: screening(path), time.process_time)
    reference, done = timed(lambda: ase_overlaps(path, 200), time.process_time)
    atoms = 8 * repeat**3
    table.append(("filters", f"{n} frames of {atoms} atoms", kept / seconds, done / reference, "frames/s of ASE"))


def halides(n: int) -> list[Atoms]:
    """Return ``n`` heated and strained cells of 56 lithium halides."""
    cells = [cell(*names, seed) for seed, names in enumerate(product(CATIONS, LATTICES))]
    rng, made = np.random.default_rng(0), []
    for i in range(n):
        atoms = cells[i % len(cells)].copy()
        atoms.positions += rng.normal(scale=0.15, size=atoms.positions.shape)
        atoms.set_cell(atoms.cell[:] * (1 + rng.normal(scale=0.02)), scale_atoms=True)
        made.append(atoms)
    return made


def _as_before(task: tuple[list[Atoms], str]) -> np.ndarray:
    """Encode frames with a graph of chgnet's own converter for each; return the atom features."""
    import torch

    from aqvolt_flows.potentials import load_potential
    from aqvolt_flows.potentials.registry import batches

    warnings.filterwarnings("ignore")
    given, device = task
    torch.set_num_threads(1)
    potential: Any = load_potential("chgnet/r2scan", device)
    rows = []
    for group in batches([len(a) for a in given], 4096):
        graphs = potential.graphs([given[i] for i in group])
        with torch.no_grad():
            out = potential.model.predict_graph(
                graphs, task="e", return_crystal_feas=True, return_atom_feas=True, batch_size=len(graphs)
            )
        rows += [np.asarray(r["atom_fea"]) for r in (out if isinstance(out, list) else [out])]
    return np.concatenate(rows)


def before(given: list[Atoms], device: str, workers: int) -> float:
    """Return frames/s of processes that share the device; each has encoded some frames when the clock starts."""
    parts = [(given[i::workers], device) for i in range(workers)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        pool.map(_as_before, [(p[:4], d) for p, d in parts], chunksize=1)
        seconds, _ = timed(lambda: pool.map(_as_before, parts, chunksize=1))
    return len(given) / seconds


def from_files(folder: Path, given: list[Atoms], ours: Encoder) -> float:
    """Return frames/s from Parquet files of 100 frames, with reading and filters."""
    paths = []
    for first in range(0, len(given), 100):
        paths.append(folder / f"{first}.parquet")
        write_frames(paths[-1], (_frame(i, atoms) for i, atoms in enumerate(given[first : first + 100])))

    def encode(paths: list[Path]) -> int:
        encoding = Encoding(ours, SamplingParameters(max_volume_ratio=0))
        for path in paths:
            encoding.add(path.name, None, ((rows, Block.of(b)) for rows, b in read_batches(path, COLUMNS)))
        return encoding.result().counts["encoded"]

    encode(paths[:1])  # compiles
    seconds, encoded = timed(lambda: encode(paths))
    assert encoded > 0.9 * len(given), "the filters leave most frames"
    return len(given) / seconds


def encoder(table: list[tuple[Any, ...]], folder: Path, given: argparse.Namespace) -> None:
    """Time the CHGNet encoder and compare its features with chgnet's."""
    chosen = halides(given.encode)
    ours = load_encoder("chgnet/r2scan", given.device)
    ours.encode(chosen[:600])  # compiles and fills the allocator
    seconds, features = timed(lambda: ours.encode(chosen))
    assert not features.failures
    some = chosen[: min(len(chosen), 224)]
    model = ours._model.network  # type: ignore[attr-defined]
    structures = [AseAtomsAdaptor.get_structure(a) for a in some]
    reference, out = timed(
        lambda: model.predict_structure(structures, task="e", return_crystal_feas=True, return_atom_feas=True)
    )
    theirs = np.concatenate([np.asarray(r["atom_fea"]) for r in out])
    pooled = np.stack([np.asarray(r["crystal_fea"]).ravel() / len(a) for r, a in zip(out, some, strict=True)])
    apart = (
        np.abs(theirs - features.atoms[: len(theirs)]).max(),
        np.abs(pooled - features.structures[: len(some)]).max(),
    )
    print(
        f"largest difference from chgnet's features: atoms {apart[0]:.1e} of up to {np.abs(theirs).max():.1f}, "
        f"structures {apart[1]:.1e} of up to {np.abs(pooled).max():.1f}"
    )
    assert max(apart) < 1e-3
    size = f"{len(chosen)} frames of {np.mean([len(a) for a in chosen]):.1f} atoms, {given.device}"
    rate = before(chosen[: given.before], given.device, given.workers)
    named = f"frames/s of {given.workers} processes with chgnet's graphs"
    table.append(("CHGNet encoder", size, len(chosen) / seconds, rate, named))
    table.append(("CHGNet encoder, from files", size, from_files(folder, chosen, ours), rate, named))
    one = "frames/s of chgnet's predict_structure"
    table.append(("CHGNet encoder", size, len(chosen) / seconds, len(some) / reference, one))


def shards(table: list[tuple[Any, ...]], folder: Path, n_atoms: int) -> None:
    """Time writing and streaming of a shard, and reading the same features from Parquet lists."""
    rng, size = np.random.default_rng(0), 17
    n = n_atoms // size
    made = Features(
        rng.normal(size=(n, 128)).astype(np.float32),
        rng.normal(size=(n * size, 64)).astype(np.float32),
        np.full(n, size, np.int64),
    )
    encoded = EncodedFrames(["t"] * n, np.arange(n), np.arange(n), made)
    path, other = folder / "shard.arrow", folder / "features.parquet"
    about: Any = SimpleNamespace(name="x", sha256="0" * 64, layer="x")
    writing, _ = timed(lambda: write_shard(path, encoded, about))
    reading, _ = timed(lambda: sum(float(b[0, 0]) for b in FeatureShards([path]).atoms()))
    lists = pa.array(np.split(made.atoms.ravel(), np.cumsum(made.n_atoms[:-1]) * 64), pa.list_(pa.float32()))
    pq.write_table(pa.table({"atoms": lists}), other, compression="zstd")
    reference, _ = timed(lambda: pq.read_table(other)["atoms"].combine_chunks().flatten().to_numpy().reshape(-1, 64))
    what = f"{n * size} atoms x 64, {path.stat().st_size / 1e6:.0f} MB"
    table.append(("shard, written", what, n * size / writing, float("nan"), ""))
    table.append(
        ("shard, streamed", what, n * size / reading, n * size / reference, "atoms/s of Parquet lists, read whole")
    )


def _count(value: float, digits: int = 0) -> str:
    return "–" if np.isnan(value) else f"{value:,.{digits}f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--frames", type=int, default=2000, help="screened")
    parser.add_argument("--repeat", type=int, default=2, help="8·repeat³ atoms a screened frame")
    parser.add_argument("--encode", type=int, default=500, help="frames encoded in one process")
    parser.add_argument("--before", type=int, default=200, help="frames encoded in several")
    parser.add_argument("--workers", type=int, default=8, help="how many processes those are")
    parser.add_argument("--shard-atoms", type=int, default=500_000)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    table: list[tuple[Any, ...]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "filters" in given.parts:
            filters(table, folder, given.frames, given.repeat)
        if "encoder" in given.parts:
            encoder(table, folder, given)
        if "shards" in given.parts:
            shards(table, folder, given.shard_atoms)
    print("| what | size | ours a second | reference a second | ratio | reference |")
    print("| --- | --- | --- | --- | --- | --- |")
    for what, size, ours, reference, named in table:
        print(f"| {what} | {size} | {ours:,.0f} | {_count(reference)} | {_count(ours / reference, 1)} | {named} |")


if __name__ == "__main__":
    main()
