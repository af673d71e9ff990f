"""How fast frames are screened, encoded and read back, beside what one would do without this project.

One run prints one table, CPU seconds of this process for the filters, wall seconds for the rest:

- filters: ours, and ASE's neighbor list frame by frame for the overlaps alone;
- encoder: ours, and ``CHGNet.predict_structure`` with the same outputs, as its documentation calls it;
- shards: writing and streaming back, and the same features as lists in Parquet, read whole.

``python tests/performance/encoding.py --frames 200 --repeat 2`` takes a minute; ``--device cuda`` encodes on a GPU;
``--shard-atoms 2000000`` for the size of a real shard, and more.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ase.build import bulk
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

from aqvolt_flows.frames import Frame, read_batches, read_frames, write_frames
from aqvolt_flows.sampling.encoders.base import Features
from aqvolt_flows.sampling.encoders.registry import load_encoder
from aqvolt_flows.sampling.features.screen import COLUMNS, Block, Screen, volume_per_atom
from aqvolt_flows.sampling.features.shards import EncodedFrames, FeatureShards, write_shard
from aqvolt_flows.schemas.parameters import SamplingParameters


def frames(n: int, repeat: int) -> Iterator[Frame]:
    """Yield rattled cells of LiCl with 8·repeat³ atoms."""
    cell = bulk("LiCl", "rocksalt", a=5.13, cubic=True) * (repeat, repeat, repeat)
    rng = np.random.default_rng(0)
    for i in range(n):
        places = cell.positions + rng.normal(scale=0.15, size=cell.positions.shape)
        none = np.zeros((len(cell), 3), np.float32)
        numbers, box = cell.numbers.astype(np.int16), cell.cell[:].astype(np.float32)
        yield Frame("t", i, 300.0, -1.0, numbers, places.astype(np.float32), box, none, np.zeros(6, np.float32))


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


def filters(table: list[tuple[Any, ...]], folder: Path, n: int, repeat: int) -> Path:
    """Time the filters."""
    path = folder / "frames.parquet"
    write_frames(path, frames(n, repeat))
    screening(path)  # compiles
    seconds, kept = timed(lambda: screening(path), time.process_time)
    reference, done = timed(lambda: ase_overlaps(path, 200), time.process_time)
    atoms = 8 * repeat**3
    table.append(("filters", f"{n} frames of {atoms} atoms", kept / seconds, done / reference, "frames/s of ASE"))
    return path


def encoder(table: list[tuple[Any, ...]], path: Path, n: int, device: str) -> None:
    """Time the CHGNet encoder."""
    from pymatgen.io.ase import AseAtomsAdaptor

    chosen = [f.to_atoms() for f in read_frames(path)][:n]
    ours = load_encoder("chgnet/r2scan", device)
    ours.encode(chosen[:2])
    seconds, features = timed(lambda: ours.encode(chosen))
    model = ours._potential.model  # type: ignore[attr-defined]
    structures = [AseAtomsAdaptor.get_structure(a) for a in chosen]
    reference, out = timed(
        lambda: model.predict_structure(structures, task="e", return_crystal_feas=True, return_atom_feas=True)
    )
    theirs = np.concatenate([np.asarray(r["atom_fea"]) for r in out])
    assert np.abs(theirs - features.atoms).max() < 1e-3
    table.append(
        (
            "CHGNet encoder",
            f"{n} frames of {len(chosen[0])} atoms, {device}",
            n / seconds,
            n / reference,
            "frames/s of chgnet",
        )
    )


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
    parser.add_argument("--frames", type=int, default=2000, help="screened; a twentieth of them is encoded")
    parser.add_argument("--repeat", type=int, default=2, help="8·repeat³ atoms a frame")
    parser.add_argument("--shard-atoms", type=int, default=500_000)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    table: list[tuple[Any, ...]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = filters(table, folder, given.frames, given.repeat)
        encoder(table, path, max(given.frames // 20, 4), given.device)
        shards(table, folder, given.shard_atoms)
    print("| what | size | ours a second | reference a second | ratio | reference |")
    print("| --- | --- | --- | --- | --- | --- |")
    for what, size, ours, reference, named in table:
        print(f"| {what} | {size} | {ours:,.0f} | {_count(reference)} | {_count(ours / reference, 1)} | {named} |")


if __name__ == "__main__":
    main()
