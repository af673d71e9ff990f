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

from aqvolt_flows.benchmarks.force_bins import Reference
from aqvolt_flows.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

SPLITS = ("train", "val", "test")
COLUMNS = ("frame_id", "label_id", "formula", "atomic_numbers", "positions", "cell", "energy", "forces", "stress")
ROWS_PER_BATCH = 256


@dataclass(frozen=True, eq=False)
class ReleaseItem:
    """One label of a release: the configuration and what it is compared with."""

    atoms: Atoms
    reference: Reference
    frame_id: str
    formula: str


def read_release(folder: Path, split: str) -> Iterator[list[ReleaseItem]]:
    """Yield the labels of a split (or of ``all``) in batches, in file order and bounded memory.

    Arrays may be nested or flat lists. A split without a file is an empty split.

    Raises
    ------
    InputError
        If the release's data folder is not there, or a file is not Parquet or lacks a column.
    """
    data = folder / "data"
    if not data.is_dir():
        raise InputError(f"There is no folder {data}; expected the release's Parquet files; create the release again.")
    for name in SPLITS if split == "all" else (split,):
        path = data / f"{name}.parquet"
        if not path.is_file():
            continue
        try:
            with pq.ParquetFile(path) as file:
                missing = [c for c in COLUMNS if c not in file.schema_arrow.names]
                if missing:
                    raise InputError(f"{path} lacks the columns {', '.join(missing)}; verify the release.")
                for batch in file.iter_batches(batch_size=ROWS_PER_BATCH, columns=list(COLUMNS)):
                    yield [_item(row) for row in batch.to_pylist()]
        except pa.ArrowInvalid as error:
            raise InputError(f"{path} is not a readable Parquet file ({error}); verify the release.") from None


def _item(row: Mapping[str, Any]) -> ReleaseItem:
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
    return ReleaseItem(atoms, reference, str(row["frame_id"]), str(row["formula"]))
