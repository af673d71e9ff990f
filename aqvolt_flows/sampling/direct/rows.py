"""Rows that may not fit in memory: arrays, files and shards read block by block, checked on the way.

Shards may be read more than once: a list, or any object whose ``__iter__`` starts afresh (reading files, say), is
read again for every pass. A one-shot iterator is copied to a temporary file once. A file behind ``numpy.memmap`` is
read, not mapped, so that what was read does not stay in memory.
"""

from __future__ import annotations

import mmap
import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.sampling.direct.forms import as_array, as_features

Rows = NDArray[np.floating]

#: Rows handed on at a time.
BLOCK_ROWS = 65_536


def check_rows(rows: Rows, what: str = "features", first_row: int = 0) -> Rows:
    """Return ``rows`` if it is a finite (n, d) array of numbers with d ≥ 1, else raise :class:`InputError`.

    Parameters
    ----------
    rows
        The rows.
    what
        What the message calls them.
    first_row
        Number of the first one, for the message.
    """
    values = np.asarray(rows)
    if values.ndim != 2:
        raise InputError(f"{what} has shape {values.shape}; expected (rows, columns).")
    if not values.shape[1]:
        raise InputError(f"{what} has no columns; expected at least one feature.")
    if values.dtype.kind not in "fiu":
        raise InputError(f"{what} holds {values.dtype}; expected numbers.")
    with np.errstate(invalid="ignore", over="ignore"):
        sound = values.dtype.kind != "f" or bool(np.isfinite(values.sum(dtype=np.float64)))
    if not sound:
        finite = np.isfinite(values).all(axis=1)
        raise InputError(
            f"{what} has {int((~finite).sum())} rows with NaN or infinity, first row "
            f"{first_row + int(np.argmin(finite))}; drop them."
        )
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float64)


def ahead[T](items: Iterable[T]) -> Iterator[T]:
    """Yield ``items``, preparing the next one in a thread while this one is in use."""
    ready: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(1)
    stopped = threading.Event()

    def offer(entry: tuple[bool, T | BaseException | None]) -> bool:
        while not stopped.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not offer((False, item)):
                    return
            offer((True, None))
        except BaseException as error:  # noqa: BLE001 - raised again in the reader's thread
            offer((True, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            last, entry = ready.get()
            if last:
                if entry is not None:
                    raise entry  # type: ignore[misc]
                return
            yield entry  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()


def coalesced(blocks: Iterable[Rows], rows: int) -> Iterator[Rows]:
    """Yield blocks joined until they have at least this many rows (the last may have fewer)."""
    held: list[Rows] = []
    for block in blocks:
        held.append(block)
        if sum(len(b) for b in held) >= rows:
            yield held[0] if len(held) == 1 else np.concatenate(held)
            held = []
    if held:
        yield held[0] if len(held) == 1 else np.concatenate(held)


def _read_file(path: Path, offset: int, count: int, d: int, dtype: np.dtype) -> Iterator[Rows]:
    """Yield the rows of a raw file in blocks."""
    with path.open("rb") as handle:
        handle.seek(offset)
        for first in range(0, count, BLOCK_ROWS):
            rows = min(BLOCK_ROWS, count - first)
            block = np.fromfile(handle, dtype, rows * d)
            if len(block) != rows * d:
                raise InputError(f"{path} ends at row {first + len(block) // d} of {count}; it was cut short.")
            yield block.reshape(rows, d)


class Spool:
    """Rows (n, d) written once to a raw file, then read in blocks or by number.

    Parameters
    ----------
    path
        The file; made, and removed with its folder by whoever made that.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.count, self.dimensions = path, 0, 0
        self._dtype: np.dtype = np.dtype(np.float32)
        self._handle = path.open("wb")

    def append(self, rows: NDArray) -> None:
        """Write rows behind those before."""
        if not self.dimensions:
            self.dimensions, self._dtype = rows.shape[1], rows.dtype
        try:
            np.ascontiguousarray(rows, self._dtype).tofile(self._handle)
        except OSError as error:
            raise ResourceError(
                f"{self.path.parent} cannot take temporary features ({error}); give a scratch folder with more room."
            ) from error
        self.count += len(rows)

    def blocks(self) -> Iterator[Rows]:
        """Yield the rows in blocks."""
        self._handle.flush()
        if self.count:
            yield from _read_file(self.path, 0, self.count, self.dimensions, self._dtype)

    def take(self, indices: NDArray[np.int64]) -> Rows:
        """Return some rows."""
        self._handle.flush()
        mapped = np.memmap(self.path, self._dtype, "r", shape=(self.count, self.dimensions))
        return np.array(mapped[indices])

    def close(self) -> None:
        """Close the file."""
        self._handle.close()


@dataclass
class Shards:
    """A set of rows that can be read again and again, in blocks of at most ``BLOCK_ROWS``.

    Parameters
    ----------
    source
        (n, d) features, or an iterable of such shards; see :func:`as_features`.
    what
        What messages call it.
    scratch
        A folder for the copy of a one-shot iterator; none: it is read once.
    """

    source: Rows | Iterable[Rows]
    what: str
    scratch: Path | None
    count: int | None = None
    dimensions: int | None = None
    _spool: Spool | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.source = as_features(self.source, self.what)

    def blocks(self) -> Iterator[Rows]:
        """Yield all rows, checked; a pass that gives another number of rows than the one before is refused."""
        if self._spool is not None:
            yield from self._spool.blocks()
            return
        one_shot = not isinstance(self.source, np.ndarray) and iter(self.source) is self.source
        spool = Spool(self.scratch / f"{self.what}.raw") if one_shot and self.scratch is not None else None
        seen = 0
        for shard in self._shards():
            values = as_array(shard, self.what)
            for first in range(0, len(values) if values.ndim == 2 else 1, BLOCK_ROWS):
                block = check_rows(values[first : first + BLOCK_ROWS] if values.ndim == 2 else values, self.what, seen)
                self._check_columns(block, seen)
                if spool is not None:
                    spool.append(block)
                seen += len(block)
                yield block
        if not seen:
            raise InputError(f"{self.what} has no rows; there is nothing to select from.")
        if self.count is not None and seen != self.count:
            raise InputError(
                f"{self.what} gave {self.count} rows when read first and {seen} when read again; a shard was cut short "
                "or changed meanwhile."
            )
        self.count, self._spool = seen, spool

    def with_columns(self, dimensions: int) -> Shards:
        """Ask for rows of this many columns, those of the space they go into."""
        if self.dimensions not in (None, dimensions):
            raise InputError(
                f"{self.what} has {self.dimensions} columns, the space has {dimensions}; use the same encoder."
            )
        self.dimensions = dimensions
        return self

    def close(self) -> None:
        """Close the temporary file, if there is one."""
        if self._spool is not None:
            self._spool.close()

    def _shards(self) -> Iterable[Rows]:
        rows = self.source
        if not isinstance(rows, np.ndarray):
            return rows
        if not isinstance(rows, np.memmap) or not isinstance(rows.base, mmap.mmap) or rows.ndim != 2:
            return [rows]
        if not rows.filename or not rows.flags.c_contiguous:
            return [rows]
        return _read_file(Path(rows.filename), rows.offset, len(rows), rows.shape[1], rows.dtype)

    def _check_columns(self, block: Rows, seen: int) -> None:
        if self.dimensions is None:
            self.dimensions = block.shape[1]
        if block.shape[1] != self.dimensions:
            raise InputError(
                f"{self.what} has {block.shape[1]} columns from row {seen} on; expected {self.dimensions}, as in the "
                "shards before or the space they go into."
            )


class PointStore:
    """Rows in a space, kept in memory up to a size and in a temporary file beyond.

    Parameters
    ----------
    scratch
        A folder for the file.
    memory_bytes
        How much may stay in memory.
    """

    def __init__(self, scratch: Path, name: str, memory_bytes: int) -> None:
        self._blocks: list[Rows] = []
        self._held = 0
        self._limit = memory_bytes
        self._path = scratch / f"{name}-points.raw"
        self._spool: Spool | None = None
        self.count = 0

    def append(self, points: Rows) -> None:
        """Add rows behind those before."""
        self.count += len(points)
        self._held += points.nbytes
        if self._spool is None and self._held > self._limit:
            self._spool = Spool(self._path)
            for block in self._blocks:
                self._spool.append(block)
            self._blocks = []
        if self._spool is None:
            self._blocks.append(points)
        else:
            self._spool.append(points)

    def blocks(self) -> Iterator[Rows]:
        """Yield the rows in blocks."""
        return iter(self._blocks) if self._spool is None else self._spool.blocks()

    @property
    def n_blocks(self) -> int:
        """How many blocks there are."""
        return len(self._blocks) if self._spool is None else -(-self.count // BLOCK_ROWS)

    def start(self, number: int) -> int:
        """Return the first row of a block."""
        return sum(len(b) for b in self._blocks[:number]) if self._spool is None else number * BLOCK_ROWS

    def block(self, number: int) -> Rows:
        """Return one block."""
        if self._spool is None:
            return self._blocks[number]
        return self._spool.take(np.arange(number * BLOCK_ROWS, min(self.count, (number + 1) * BLOCK_ROWS)))

    def take(self, indices: NDArray[np.int64]) -> Rows:
        """Return some rows, in the order asked for."""
        if self._spool is not None:
            return self._spool.take(indices)
        starts = np.cumsum([0, *(len(b) for b in self._blocks)])
        found = np.empty((len(indices), self._blocks[0].shape[1]), self._blocks[0].dtype)
        which = np.searchsorted(starts, indices, side="right") - 1
        for b in np.unique(which):
            found[which == b] = self._blocks[b][indices[which == b] - starts[b]]
        return found

    def close(self) -> None:
        """Close the temporary file, if there is one."""
        if self._spool is not None:
            self._spool.close()
