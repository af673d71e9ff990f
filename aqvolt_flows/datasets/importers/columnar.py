"""Rows of Parquet and Arrow files, a few hundred in memory at a time; columns that nobody reads are noted."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aqvolt_flows.datasets.importers.notes import Notes
from aqvolt_flows.datasets.importers.published import Broken
from aqvolt_flows.errors import InputError

_ROWS = 256


def is_arrow(path: Path) -> bool:
    """Return whether a file is Arrow's, as Hugging Face's ``save_to_disk`` writes it."""
    return path.suffix.lower() == ".arrow"


def table_rows(
    path: Path, wanted: Collection[str], required: Collection[str], layout: str, notes: Notes
) -> Iterator[tuple[int, Mapping[str, Any]] | Broken]:
    """Yield number and columns of the rows of a table; damage inside it ends it with a fatal :class:`Broken`.

    Parameters
    ----------
    path
        Parquet, or an Arrow stream or file.
    wanted
        Columns that are read; the others are noted by name.
    required
        Those without which the file is of another layout.
    layout
        Its name, for errors.
    notes
        Takes the columns that are not read.

    Raises
    ------
    InputError
        If the file is not whole or lacks columns.
    """
    with ExitStack() as stack:
        try:
            names, batches = _opened(path, stack)
        except (pa.ArrowException, OSError, ValueError) as error:  # a ValueError: names that are not UTF-8
            raise InputError(f"{path} is not a whole table ({_short(error)}); fetch it again.") from None
        missing = [name for name in required if name not in names]
        if missing:
            raise InputError(
                f"{path} has the columns {', '.join(names) or 'none'}; {layout} has {', '.join(missing)} besides."
            )
        notes.unread.update(name for name in names if name not in wanted)
        present = [name for name in names if name in wanted]
        record = 0
        try:
            for batch in batches(present):
                for row in batch.to_pylist():
                    record += 1
                    yield record, row
        except (pa.ArrowException, OSError, ValueError) as error:
            said = f"the table cannot be read any further ({_short(error)})"
            yield Broken(path.name, record + 1, None, said, fatal=True)


def _opened(path: Path, stack: ExitStack) -> tuple[list[str], Any]:
    if not is_arrow(path):
        table = stack.enter_context(pq.ParquetFile(path, pre_buffer=False))

        def parquet(present: list[str]) -> Iterator[pa.RecordBatch]:
            return table.iter_batches(batch_size=_ROWS, columns=present, use_threads=False)

        return table.schema_arrow.names, parquet
    source = stack.enter_context(pa.memory_map(str(path)))
    try:
        reader = pa.ipc.open_stream(source)
    except pa.ArrowInvalid:
        file = pa.ipc.open_file(source)
        return file.schema.names, lambda present: _arrow(
            (file.get_batch(i) for i in range(file.num_record_batches)), present
        )
    return reader.schema.names, lambda present: _arrow(iter(reader), present)


def _arrow(batches: Iterator[pa.RecordBatch], present: list[str]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        chosen = batch.select(present)
        for start in range(0, chosen.num_rows, _ROWS):
            yield chosen.slice(start, _ROWS)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
