"""Files of a running batch: part files of frames, and checkpoints that name the valid ones.

A Parquet file cannot be appended to, and one that was being written when its process was killed cannot be read. So
frames go to part files; a checkpoint names the parts that were closed before it, together with the state of the run at
that moment. After a kill, parts that no checkpoint names are removed, and the run continues from the state: no frame is
written twice and none is missing. When a trajectory has ended, its row groups are joined into one file.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from aqvolt_flows.aside import written_aside
from aqvolt_flows.dynamics.averages import mean_and_error
from aqvolt_flows.errors import ResourceError
from aqvolt_flows.frames import ROW_GROUP_ROWS, SCHEMA

#: Bytes of frames that are held in memory before they are written to a part.
HELD_BYTES = 256 * 2**20
_STATE = "checkpoint.pt"
#: Written into every checkpoint; another number means that another version wrote it.
VERSION = 2


class BatchFolder:
    """The folder of one batch, held by one process at a time.

    Parameters
    ----------
    folder
        Made if it is not there.

    Raises
    ------
    ResourceError
        On entering, if another process holds it, or it cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / "lock").open("ab")
        except OSError as error:
            raise ResourceError(
                f"The checkpoint folder {self.folder} cannot be written ({error.strerror}); set checkpoint_dir to a "
                "place that can."
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go when the process ends
        except OSError:
            self._lock.close()
            raise ResourceError(
                f"Another process runs the batch in {self.folder}; wait for it, or stop it, and run this one again."
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def load(self) -> dict[str, Any] | None:
        """Return the last checkpoint, or None if there is none.

        One that cannot be read is set aside, with the parts it named, and the batch begins again: a rerun that fails
        in the same way for ever would be worse.
        """
        path = self.folder / _STATE
        if not path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            if state["version"] == VERSION:
                return state
        except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError, OSError, ValueError):
            pass
        path.replace(path.with_suffix(".damaged"))
        return None

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint in one step; it is on the disk before it takes the old one's place."""
        try:
            with written_aside(self.folder / _STATE) as aside, aside.open("wb") as handle:
                torch.save({"version": VERSION} | state, handle)
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:
            raise ResourceError(
                f"The checkpoint in {self.folder} cannot be written ({error}); free space or set checkpoint_dir."
            ) from error

    def remove(self) -> None:
        """Remove everything: the batch is done."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class Statistics:
    """Numbers of a trajectory's frames.

    Attributes
    ----------
    n_frames, n_equilibration_frames
        How many, and how many of them come before the production.
    max_force
        Largest |F|, eV/Å.
    """

    n_frames: int = 0
    n_equilibration_frames: int = 0
    max_force: float = 0.0
    _production: dict[str, list[NDArray[np.float64]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, table: pa.Table) -> None:
        """Take in more frames of the same trajectory."""
        n = table.num_rows
        if not n:
            return
        early = table.column("equilibration").combine_chunks().fill_null(False).to_numpy(zero_copy_only=False)
        for name in ("temperature", "volume", "pressure"):
            self._production[name].append(table.column(name).to_numpy().astype(float)[~early])
        forces = table.column("forces").combine_chunks().flatten().to_numpy().reshape(-1, 3)
        self.max_force = max(self.max_force, float(np.linalg.norm(forces, axis=1).max()))
        self.n_frames += n
        self.n_equilibration_frames += int(early.sum())

    def mean(self, name: str, least_variance: float = 0.0) -> tuple[float | None, float | None]:
        """Return the mean of ``temperature`` (K), ``volume`` (Å³) or ``pressure`` (eV/Å³) over the production.

        Returns
        -------
        tuple
            Mean and its standard error (:func:`aqvolt_flows.dynamics.averages.mean_and_error`); None where there are
            too few frames.
        """
        values = self._production.get(name, [])
        return mean_and_error(np.concatenate(values), least_variance) if values else (None, None)


class PartFrames:
    """A sink that keeps frames in part files, one row group for each trajectory and part.

    Parameters
    ----------
    folder
        Of the batch.
    committed
        Parts that the last checkpoint names: file → trajectory ids, in the order of their row groups. Other parts in
        the folder are removed.
    held_bytes
        Frames held in memory before they are written.
    """

    def __init__(
        self, folder: Path, committed: dict[str, list[str]] | None = None, held_bytes: int = HELD_BYTES
    ) -> None:
        self._folder, self._limit = folder, held_bytes
        self.parts = dict(committed or {})
        self._held: dict[str, list[pa.Table]] = defaultdict(list)
        self._bytes = 0
        self._open: dict[str, pq.ParquetFile] = {}
        for path in folder.glob("*.parquet"):
            if path.name not in self.parts:
                path.unlink()
        numbers = [int(name.split("-")[1].split(".")[0]) for name in self.parts]
        self._next = max(numbers, default=-1) + 1

    def add(self, trajectory_id: str, table: pa.Table) -> None:
        """Take the next frames of one trajectory."""
        self._held[trajectory_id].append(table)
        self._bytes += table.nbytes
        if self._bytes > self._limit:
            self.close_part()

    def close_part(self) -> None:
        """Write what is held as a part; it counts from the next checkpoint on."""
        if not self._held:
            return
        name = f"part-{self._next:06d}.parquet"
        with (
            written_aside(self._folder / name) as aside,
            pq.ParquetWriter(aside, SCHEMA, compression="zstd") as writer,
        ):
            for tables in self._held.values():
                table = pa.concat_tables(tables).combine_chunks()
                writer.write_table(table, row_group_size=max(1, table.num_rows))
        self.parts[name] = list(self._held)
        self._next += 1
        self._held.clear()
        self._bytes = 0

    def tables(self, trajectory_id: str) -> Iterator[pa.Table]:
        """Yield the frames of one trajectory, part by part."""
        for name, ids in sorted(self.parts.items()):
            groups = [k for k, i in enumerate(ids) if i == trajectory_id]
            if groups:
                if name not in self._open:  # kept open: a footer is read once, not once a trajectory
                    self._open[name] = pq.ParquetFile(self._folder / name)
                yield self._open[name].read_row_groups(groups)

    def join(self, trajectory_id: str, target: Path) -> Statistics:
        """Write one trajectory's frames as one file, in row groups that do not tell where the parts ended."""
        statistics = Statistics()
        with written_aside(target) as aside, pq.ParquetWriter(aside, SCHEMA, compression="zstd") as writer:
            held = SCHEMA.empty_table()
            for table in self.tables(trajectory_id):
                statistics.add(table)
                held = pa.concat_tables([held, table])
                while held.num_rows >= ROW_GROUP_ROWS:
                    writer.write_table(held.slice(0, ROW_GROUP_ROWS).combine_chunks())
                    held = held.slice(ROW_GROUP_ROWS)
            if held.num_rows or not statistics.n_frames:
                writer.write_table(held.combine_chunks())
        return statistics

    def forget(self, stored: set[str]) -> list[Path]:
        """Leave out parts that hold frames of stored trajectories only; return their files, to be removed later."""
        gone = [name for name, ids in self.parts.items() if set(ids) <= stored]
        for name in gone:
            del self.parts[name]
            if name in self._open:
                self._open.pop(name).close()
        return [self._folder / name for name in gone]

    def close(self) -> None:
        """Close the parts that are open for reading."""
        while self._open:
            self._open.popitem()[1].close()
