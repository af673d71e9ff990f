"""The files of a release: Parquet, ASE-LMDB, extended XYZ, MatPES JSON; streamed, aside, then renamed.

The columns of the Parquet files (one row a labeled configuration) are those of :mod:`aqvolt_flows.datasets.columns`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import batched, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from aqvolt_flows.aside import written_aside
from aqvolt_flows.datasets.columns import BY_NAME, OPTIONAL, SCHEMA
from aqvolt_flows.datasets.matpes import write_matpes_json
from aqvolt_flows.datasets.rows import Row
from aqvolt_flows.errors import InputError, ResourceError

ROW_GROUP_ROWS = 4096
ROWS_PER_LMDB = 100_000
EXPORTS = ("parquet", "aselmdb", "extxyz", "matpes-json")


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
        if name in OPTIONAL:
            columns.append(pa.array(values, kind, from_pandas=False))
        elif pa.types.is_list(kind) and pa.types.is_list(kind.value_type):
            columns.append(_matrices(values))
        elif pa.types.is_list(kind):
            columns.append(_lists(values, np.int16 if name == "atomic_numbers" else float))
        else:
            columns.append(pa.array(values, kind))
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def write_parquet(target: Path, rows: Iterable[Row]) -> int:
    """Write rows to a Parquet file (zstd) in the memory of one row group; return how many."""
    return write_tables(target, (to_table(group) for group in batched(rows, ROW_GROUP_ROWS)))


def write_tables(target: Path, tables: Iterable[pa.Table]) -> int:
    """Write tables in :data:`SCHEMA`, one row group each, to a Parquet file (zstd); return how many rows."""
    count = 0
    with written_aside(target) as aside, pq.ParquetWriter(aside, SCHEMA, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
            count += table.num_rows
    return count


def read_rows(path: Path, batch_rows: int = 1024) -> Iterator[Row]:
    """Yield the rows of a release's Parquet file in order.

    Raises
    ------
    InputError
        If the file is not Parquet, is cut short, or lacks a column.
    """
    with _opened(path) as (file, held):
        for batch in file.iter_batches(batch_size=batch_rows, columns=held):
            yield from rows_of(batch)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[pq.ParquetFile, list[str]]]:
    """Yield a release's Parquet file and the columns it has; what is wrong with it, also later, names the file."""
    try:
        with pq.ParquetFile(path) as file:
            held = [name for name in SCHEMA.names if name in file.schema_arrow.names]
            missing = [name for name in SCHEMA.names if name not in held and name not in OPTIONAL]
            if missing:
                raise InputError(f"{path} lacks the columns {', '.join(missing)}; it is not the Parquet of a release.")
            yield file, held
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{path} is not a readable Parquet file ({error}); restore it or create the release again."
        ) from None


def arrays_of(column: pa.ListArray) -> list[np.ndarray]:
    """Return the arrays of a list column without nulls, (n,) or (n, 3), as views of it."""
    bounds = column.offsets.to_numpy() - column.offsets[0].as_py()
    flat = column.flatten()
    if pa.types.is_list(column.type.value_type):
        values = flat.flatten().to_numpy(zero_copy_only=False)
        return [values[3 * a : 3 * b].reshape(-1, 3) for a, b in pairwise(bounds)]
    values = flat.to_numpy(zero_copy_only=False)
    return [values[a:b] for a, b in pairwise(bounds)]


def rows_of(batch: pa.RecordBatch) -> Iterator[Row]:
    """Yield the rows of a batch whose columns are those of :data:`SCHEMA`; arrays are views of it."""
    columns: dict[str, list[Any]] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        kind = column.type
        if BY_NAME[name].nullable and pa.types.is_list(kind):
            columns[name] = [None if v is None else np.array(v, dtype=float) for v in column.to_pylist()]
        elif not pa.types.is_list(kind):
            columns[name] = column.to_pylist()
        else:
            columns[name] = arrays_of(column)
    names = tuple(columns)
    for values in zip(*columns.values(), strict=True):
        yield Row(**dict(zip(names, values, strict=True)))


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
        packed: list[bytes] = []
        for row in block:
            packed.append(_pack(_ase_row(row)))
            n_atoms.append(row.n_atoms)
        items = sorted((str(i).encode(), value) for i, value in enumerate(packed, 1))
        items.append((b"nextid", _pack(len(packed) + 1)))
        with written_aside(folder / f"data.{shard:04d}.aselmdb") as aside:
            environment = lmdb.open(str(aside), subdir=False, map_size=2**38, lock=False, meminit=True)
            with environment, environment.begin(write=True) as transaction:
                for key, value in items:  # sorted and appended: LMDB then fills its pages instead of splitting them
                    transaction.put(key, value, append=True)
    with written_aside(folder / "metadata.npz") as aside, aside.open("wb") as handle:
        np.savez_compressed(handle, natoms=np.array(n_atoms, dtype=np.int64))
    return len(n_atoms)


def _pack(value: Any) -> bytes:
    # Level 1 is a quarter faster than zlib's default and 3 % larger.
    return zlib.compress(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), 1)


def _array(value: Any, dtype: str) -> dict[str, Any]:
    array = np.ascontiguousarray(value, dtype=dtype)
    return {"__ndarray__": [list(array.shape), dtype, array.ravel()]}


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


def _copy_parquet(source: Path, target: Path) -> int:
    """Copy a release's Parquet, decoding every page on the way, so that a damaged file is refused and not copied."""
    return write_tables(target, read_tables(source))


def read_tables(path: Path) -> Iterator[pa.Table]:
    """Yield a release's Parquet as tables in :data:`SCHEMA` of :data:`ROW_GROUP_ROWS` rows.

    Raises
    ------
    InputError
        If the file is not Parquet, is cut short, or lacks a column.
    """
    with _opened(path) as (file, _):
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            for name in OPTIONAL:
                if name not in table.column_names:
                    table = table.append_column(name, pa.nulls(table.num_rows, SCHEMA.field(name).type))
            yield table.select(SCHEMA.names).cast(SCHEMA)


def write_split(format: str, source: Path, folder: Path, split: str) -> int:
    """Write the Parquet file of one split under ``folder`` in a format's own layout; return how many rows.

    Parquet, extxyz and MatPES give ``folder/SPLIT.suffix``, ASE-LMDB ``folder/SPLIT/*.aselmdb``.
    """
    if format == "parquet":
        return _copy_parquet(source, folder / f"{split}.parquet")
    if format == "extxyz":
        return write_extxyz(folder / f"{split}.extxyz", read_rows(source))
    if format == "aselmdb":
        return write_aselmdb(folder / split, read_rows(source))
    if format == "matpes-json":
        return write_matpes_json(folder / f"{split}.json.gz", read_rows(source))
    raise InputError(f"There is no export format {format!r}; known are {', '.join(EXPORTS)}.")
