"""The files of a release: Parquet, ASE-LMDB and extended XYZ; all written in streams, aside and then renamed.

Columns of the Parquet files (one row a labelled configuration; Å, eV, eV/Å, eV/Å³, K, GPa):

=========================  ====================  =================================================
column                     type                  meaning
=========================  ====================  =================================================
frame_id, label_id         string                identities; rows are sorted by both
trajectory_id              string, may be null   the run the frame was sampled from
candidate_id               string, may be null   the structure that was simulated
source                     string                sampled, aimd, or the name of an imported set
protocol                   string                code:functional@settings
formula, chemsys           string                reduced formula; elements joined by ``-``
n_atoms                    int32
temperature_k              float64, may be null  target temperature of the run
atomic_numbers             list<int16>           (n_atoms)
positions                  list<list<float64>>   (n_atoms, 3), Å
cell                       list<list<float64>>   (3, 3), Å, rows are lattice vectors
energy                     float64               total, eV
forces                     list<list<float64>>   (n_atoms, 3), eV/Å
stress                     list<float64>         (6), eV/Å³, tension positive, xx yy zz yz xz xy
cohesive_energy_per_atom   float64, may be null  eV/atom
max_force                  float64               largest |F| of any atom, eV/Å
pressure_gpa               float64               compression positive
=========================  ====================  =================================================
"""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import batched, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aqvolt_flows.datasets.records import Row
from aqvolt_flows.errors import InputError, ResourceError

_MATRIX = pa.list_(pa.list_(pa.float64()))
SCHEMA = pa.schema(
    [
        ("frame_id", pa.string()),
        ("label_id", pa.string()),
        ("trajectory_id", pa.string()),
        ("candidate_id", pa.string()),
        ("source", pa.string()),
        ("protocol", pa.string()),
        ("formula", pa.string()),
        ("chemsys", pa.string()),
        ("n_atoms", pa.int32()),
        ("temperature_k", pa.float64()),
        ("atomic_numbers", pa.list_(pa.int16())),
        ("positions", _MATRIX),
        ("cell", _MATRIX),
        ("energy", pa.float64()),
        ("forces", _MATRIX),
        ("stress", pa.list_(pa.float64())),
        ("cohesive_energy_per_atom", pa.float64()),
        ("max_force", pa.float64()),
        ("pressure_gpa", pa.float64()),
    ]
)
ROW_GROUP_ROWS = 4096
ROWS_PER_LMDB = 100_000
EXPORTS = ("parquet", "aselmdb", "extxyz")


@contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target`` that becomes ``target`` when the block ends well, else is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        yield aside
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def _lists(values: Sequence[Any], dtype: Any) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum([len(v) for v in values])]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(np.concatenate([np.asarray(v, dtype) for v in values])))


def _matrices(values: Sequence[Any]) -> pa.ListArray:
    rows = np.concatenate([[0], np.cumsum([len(v) for v in values])]).astype(np.int32)
    flat = np.concatenate([np.asarray(v, float).ravel() for v in values])
    inner = pa.ListArray.from_arrays(np.arange(0, len(flat) + 1, 3, dtype=np.int32), pa.array(flat))
    return pa.ListArray.from_arrays(rows, inner)


def to_table(rows: Sequence[Row]) -> pa.Table:
    """Return at least one row as an Arrow table in :data:`SCHEMA`."""
    columns = []
    for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True):
        values = [getattr(row, name) for row in rows]
        if kind == _MATRIX:
            columns.append(_matrices(values))
        elif pa.types.is_list(kind):
            columns.append(_lists(values, np.int16 if name == "atomic_numbers" else float))
        else:
            columns.append(pa.array(values, kind))
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def write_parquet(target: Path, rows: Iterable[Row]) -> int:
    """Write rows to a Parquet file (zstd) in the memory of one row group; return how many."""
    count = 0
    with written_aside(target) as aside, pq.ParquetWriter(aside, SCHEMA, compression="zstd") as writer:
        for group in batched(rows, ROW_GROUP_ROWS):
            writer.write_table(to_table(group))
            count += len(group)
    return count


def read_rows(path: Path, batch_rows: int = 1024) -> Iterator[Row]:
    """Yield the rows of a release's Parquet file in order.

    Raises
    ------
    InputError
        If the file is not Parquet, is cut short, or lacks a column.
    """
    try:
        with pq.ParquetFile(path) as file:
            missing = [name for name in SCHEMA.names if name not in file.schema_arrow.names]
            if missing:
                raise InputError(f"{path} lacks the columns {', '.join(missing)}; it is not the Parquet of a release.")
            for batch in file.iter_batches(batch_size=batch_rows, columns=SCHEMA.names):
                yield from _rows_of(batch)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{path} is not a readable Parquet file ({error}); restore it or create the release again."
        ) from None


def _rows_of(batch: pa.RecordBatch) -> Iterator[Row]:
    scalars = {
        n: batch.column(n).to_pylist()
        for n, t in zip(SCHEMA.names, SCHEMA.types, strict=True)
        if not pa.types.is_list(t)
    }
    arrays: dict[str, list[Any]] = {}
    for name, kind in zip(SCHEMA.names, SCHEMA.types, strict=True):
        if not pa.types.is_list(kind):
            continue
        column = batch.column(name)
        bounds = column.offsets.to_numpy() - column.offsets[0].as_py()
        flat = column.flatten()
        if kind == _MATRIX:
            values = flat.flatten().to_numpy(zero_copy_only=False)
            arrays[name] = [values[3 * a : 3 * b].reshape(-1, 3) for a, b in pairwise(bounds)]
        else:
            values = flat.to_numpy(zero_copy_only=False)
            arrays[name] = [values[a:b] for a, b in pairwise(bounds)]
    for index in range(batch.num_rows):
        yield Row(**{n: scalars[n][index] if n in scalars else arrays[n][index] for n in SCHEMA.names})


def write_extxyz(target: Path, rows: Iterable[Row]) -> int:
    """Write rows as extended XYZ that ``ase.io.read`` opens with energy, forces and stress; return how many."""
    import ase.io

    count = 0
    with written_aside(target) as aside, aside.open("w") as handle:
        for row in rows:
            ase.io.write(handle, row.to_atoms(), format="extxyz")
            count += 1
    return count


def write_aselmdb(folder: Path, rows: Iterable[Row]) -> int:
    """Write rows as ASE-LMDB files with ``metadata.npz`` for ``fairchem.core.datasets.AseDBDataset``; return how many.

    The layout is that of the ``aselmdb`` backend of ASE's database (zlib-compressed JSON of an ``AtomsRow`` under the
    keys ``1``, ``2`` …, and ``nextid``), written in one pass with neither clock nor user name, so that equal rows give
    equal bytes.

    Raises
    ------
    ResourceError
        If ``lmdb`` is not installed.
    """
    try:
        import lmdb
    except ImportError:
        raise ResourceError(
            "ASE-LMDB needs the package lmdb; install the extra 'train' (pip install aqvolt-flows[train])."
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    n_atoms: list[int] = []
    for shard, block in enumerate(batched(rows, ROWS_PER_LMDB)):
        with written_aside(folder / f"data.{shard:04d}.aselmdb") as aside:
            environment = lmdb.open(str(aside), subdir=False, map_size=2**38, lock=False, meminit=True)
            with environment:
                index = 0
                for group in batched(block, 1000):
                    with environment.begin(write=True) as transaction:
                        for row in group:
                            index += 1
                            transaction.put(str(index).encode(), _pack(_ase_row(row)))
                            n_atoms.append(row.n_atoms)
                        transaction.put(b"nextid", _pack(index + 1))
    with written_aside(folder / "metadata.npz") as aside, aside.open("wb") as handle:
        np.savez_compressed(handle, natoms=np.array(n_atoms, dtype=np.int64))
    return len(n_atoms)


def _pack(value: Any) -> bytes:
    return zlib.compress(json.dumps(value).encode())


def _array(value: Any, dtype: str) -> dict[str, Any]:
    array = np.asarray(value, dtype=dtype)
    return {"__ndarray__": [list(array.shape), dtype, array.ravel().tolist()]}


def _ase_row(row: Row) -> dict[str, Any]:
    return {
        "numbers": _array(row.atomic_numbers, "int64"),
        "positions": _array(row.positions, "float64"),
        "cell": _array(row.cell, "float64"),
        "pbc": _array([True, True, True], "bool"),
        "unique_id": row.label_id.rpartition("-")[2].ljust(32, "0")[:32],
        "ctime": 0.0,
        "mtime": 0.0,
        "user": "",
        "calculator": "unknown",
        "calculator_parameters": {},
        "energy": row.energy,
        "forces": _array(row.forces, "float64"),
        "stress": _array(row.stress, "float64"),
        "key_value_pairs": {},
        "data": {"sid": row.frame_id, **row.identities()},
    }


def write_split(format: str, rows: Iterable[Row], folder: Path, split: str) -> int:
    """Write one split under ``folder`` in a format's own layout; return how many rows.

    Parquet and extxyz give ``folder/SPLIT.suffix``, ASE-LMDB ``folder/SPLIT/*.aselmdb``.
    """
    if format == "parquet":
        return write_parquet(folder / f"{split}.parquet", rows)
    if format == "extxyz":
        return write_extxyz(folder / f"{split}.extxyz", rows)
    if format == "aselmdb":
        return write_aselmdb(folder / split, rows)
    raise InputError(f"There is no export format {format!r}; known are {', '.join(EXPORTS)}.")
