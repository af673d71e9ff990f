"""Rows of Parquet and Arrow files, a few hundred in memory at a time; columns that nobody reads are noted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aqvolt_flows.datasets.importers.further import further_results
from aqvolt_flows.datasets.importers.notes import Notes
from aqvolt_flows.datasets.importers.published import (
    Array,
    Broken,
    Entry,
    RecordError,
    array,
    converged,
    finite,
    frame_identity,
)
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.label import LabelOutcome
from aqvolt_flows.schemas.provenance import Protocol
from aqvolt_flows.units import unit_factor

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


def row_entries(
    path: Path,
    rows: Iterator[tuple[int, Mapping[str, Any]] | Broken],
    entry: Callable[[Mapping[str, Any], Mapping[str, Any]], Entry],
    name_of: Callable[[Mapping[str, Any]], str | None],
) -> Iterator[Entry]:
    """Yield the entries of rows; one that is refused is broken, with its name, and the others go on.

    Parameters
    ----------
    path
        The file, for provenance.
    rows
        Of :func:`table_rows`.
    entry
        Makes an entry of a row and of where it stands.
    name_of
        Identity of a row, for those that are refused.
    """
    for found in rows:
        if isinstance(found, Broken):
            yield found
            continue
        record, row = found
        try:
            yield entry(row, {"file": path.name, "record": record})
        except RecordError as error:
            yield Broken(path.name, record, None, str(error), record_id=name_of(row))


def row_outcome(
    row: Mapping[str, Any],
    columns: Mapping[str, str],
    numbers: list[int],
    protocol: Protocol,
    units: Mapping[str, str],
    stress_of: Callable[[Array], Array],
) -> LabelOutcome:
    """Return the outcome of a row's numbers, in our units.

    Parameters
    ----------
    row
        Also of what else a label keeps (:func:`~aqvolt_flows.datasets.importers.further.further_results`).
    columns
        Names of the columns of ``cell``, ``positions``, ``energy`` and ``forces``.
    numbers
        Atomic numbers.
    protocol
        Theory level.
    units
        Of ``length``, ``energy`` and ``forces``.
    stress_of
        The row's stress, eV/Å³, given its cell in Å.

    Raises
    ------
    RecordError
        If a number is missing, of another shape or not finite.
    """
    n_atoms, length = len(numbers), unit_factor("length", units["length"])
    cell = array(row.get(columns["cell"]), (3, 3), columns["cell"]) * length
    positions = array(row.get(columns["positions"]), (n_atoms, 3), columns["positions"]) * length
    energy = unit_factor("energy", units["energy"])
    further, _ = further_results(row, n_atoms, energy)
    forces = columns["forces"]
    return converged(
        frame_identity(numbers, cell, positions),
        protocol,
        {"atomic_numbers": numbers, "positions": positions, "cell": cell},
        energy=finite(row.get(columns["energy"]), columns["energy"]) * energy,
        forces=array(row.get(forces), (n_atoms, 3), forces) * unit_factor("forces", units["forces"]),
        stress=stress_of(cell),
        **further,
    )


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
