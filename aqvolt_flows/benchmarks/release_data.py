"""Reference data of a release, read from its Parquet files (``data/{train,val,test}.parquet``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ase import Atoms

from aqvolt_flows.benchmarks.item_errors import Reference
from aqvolt_flows.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

SPLITS = ("train", "val", "test")
COLUMNS = ("frame_id", "label_id", "formula", "atomic_numbers", "positions", "cell", "energy", "forces", "stress")
#: Read where a release has them.
FURTHER = ("source", "candidate_id")
ROWS_PER_BATCH = 256


@dataclass(frozen=True, eq=False)
class ReleaseItem:
    """One label of a release: the configuration, what it is compared with, and where it comes from."""

    atoms: Atoms
    reference: Reference
    frame_id: str
    formula: str
    source: str = ""
    candidate_id: str = ""
    split: str = ""


def read_release(folder: Path, split: str) -> Iterator[list[ReleaseItem]]:
    """Yield the labels of a split (or of ``all``) in batches, in file order and bounded memory.

    Arrays may be nested or flat lists. A split without a file is an empty split.

    Raises
    ------
    InputError
        If the release's data folder is not there, or a file is not Parquet or lacks a column.
    """
    for name, batch in _batches(folder, split):
        yield [_item(row, name) for row in batch.to_pylist()]


def read_part(folder: Path, split: str, first: int, size: int) -> list[ReleaseItem]:
    """Return ``size`` labels of a split from number ``first`` on; errors as :func:`read_release`."""
    found: list[ReleaseItem] = []
    seen = 0
    for name, batch in _batches(folder, split):
        begin, end = max(first - seen, 0), min(first + size - seen, len(batch))
        if begin < end:
            found += [_item(row, name) for row in batch.slice(begin, end - begin).to_pylist()]
        seen += len(batch)
        if seen >= first + size:
            break
    return found


def count_release(folder: Path, split: str) -> int:
    """Return how many labels a split has, of the files' ends alone; errors as :func:`read_release`."""
    total = 0
    for _, path in _files(folder, split):
        try:
            total += pq.read_metadata(path).num_rows
        except pa.ArrowInvalid as error:
            raise _not_parquet(path, error) from None
    return total


def _files(folder: Path, split: str) -> list[tuple[str, Path]]:
    data = folder / "data"
    if not data.is_dir():
        raise InputError(f"There is no folder {data}; expected the release's Parquet files; create the release again.")
    named = [(name, data / f"{name}.parquet") for name in (SPLITS if split == "all" else (split,))]
    return [(name, path) for name, path in named if path.is_file()]


def _batches(folder: Path, split: str) -> Iterator[tuple[str, Any]]:
    """Yield (split, record batch) of the columns that are read."""
    for name, path in _files(folder, split):
        try:
            with pq.ParquetFile(path) as file:
                present = file.schema_arrow.names
                missing = [c for c in COLUMNS if c not in present]
                if missing:
                    raise InputError(f"{path} lacks the columns {', '.join(missing)}; verify the release.")
                columns = [*COLUMNS, *(c for c in FURTHER if c in present)]
                for batch in file.iter_batches(batch_size=ROWS_PER_BATCH, columns=columns):
                    yield name, batch
        except pa.ArrowInvalid as error:
            raise _not_parquet(path, error) from None


def _not_parquet(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is not a readable Parquet file ({error}); verify the release.")


def _item(row: Mapping[str, Any], split: str) -> ReleaseItem:
    numbers = np.asarray(row["atomic_numbers"], dtype=int)
    atoms = Atoms(
        numbers=numbers,
        positions=np.asarray(row["positions"], dtype=float).reshape(-1, 3),
        cell=np.asarray(row["cell"], dtype=float).reshape(3, 3),
        pbc=True,
    )
    stress = row["stress"]
    reference = Reference(
        item_id=str(row["label_id"]),
        energy=float(row["energy"]),
        forces=np.asarray(row["forces"], dtype=float).reshape(-1, 3),
        stress=None if stress is None or not len(stress) else np.asarray(stress, dtype=float).reshape(6),
    )
    further = {name: str(row.get(name) or "") for name in FURTHER}
    return ReleaseItem(atoms, reference, str(row["frame_id"]), str(row["formula"]), split=split, **further)
