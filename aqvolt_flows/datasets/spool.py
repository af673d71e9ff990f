"""Rows on disk between the two passes of a release: written as they come, read back in any order.

The file is Arrow's uncompressed IPC format, mapped into memory: what is read back are slices of it, in the memory of
one block, however large the release is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import batched
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa

from aqvolt_flows.datasets.columns import SCHEMA
from aqvolt_flows.datasets.formats import rows_of, to_table
from aqvolt_flows.datasets.rows import Row

BATCH_ROWS = 4096


class Spool:
    """A temporary file of rows.

    Parameters
    ----------
    path
        A file that does not exist; whoever made its folder removes it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[Row] = []
        self._count = 0
        self._writer: pa.ipc.RecordBatchFileWriter | None = pa.ipc.new_file(str(path), SCHEMA)
        self._map: pa.MemoryMappedFile | None = None
        self._batches: list[pa.RecordBatch] = []

    def __enter__(self) -> Self:
        """Return the spool."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Let go of the file."""
        self.finish()
        self._batches = []
        if self._map is not None:
            self._map.close()

    def add(self, row: Row) -> int:
        """Take a row and return its place."""
        self._waiting.append(row)
        self._count += 1
        if len(self._waiting) == BATCH_ROWS:
            self._flush()
        return self._count - 1

    def finish(self) -> None:
        """End writing; rows can be read from then on."""
        if self._writer is None:
            return
        self._flush()
        self._writer.close()
        self._writer = None
        self._map = pa.memory_map(str(self._path))
        reader = pa.ipc.open_file(self._map)
        self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]

    def _flush(self) -> None:
        if self._waiting and self._writer is not None:
            self._writer.write_table(to_table(self._waiting), max_chunksize=BATCH_ROWS)
            self._waiting = []

    def tables(self, places: Sequence[int], rows: int = BATCH_ROWS) -> Iterator[pa.Table]:
        """Yield the rows at ``places``, in their order, as tables of at most ``rows`` rows."""
        for block in batched(places, rows):
            yield self._take(np.asarray(block, dtype=np.int64))

    def row(self, place: int) -> Row:
        """Return one row."""
        return next(rows_of(self._batches[place // BATCH_ROWS].slice(place % BATCH_ROWS, 1)))

    def _take(self, places: np.ndarray) -> pa.Table:
        which, within = np.divmod(places, BATCH_ROWS)
        order = np.argsort(which, kind="stable")
        parts = [
            self._batches[batch].take(pa.array(within[order][which[order] == batch])) for batch in np.unique(which)
        ]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return pa.Table.from_batches(parts).combine_chunks().take(pa.array(back))
