"""Frames as Parquet: the one table in which configurations travel between stages.

Columns (Å, eV, eV/Å, eV/Å³, K; one row a configuration):

====================  =======================  ==========================================
column                type                     meaning
====================  =======================  ==========================================
trajectory_id         string                   the run it comes from
step                  int64                    MD step
temperature           float32                  instantaneous, K
energy                float64                  potential energy of the cell, eV
atomic_numbers        list<int16>              (n_atoms)
positions             list<float32>            (n_atoms × 3), row-major, Å
cell                  list<float32>            (9), rows are lattice vectors, Å
forces                list<float32>            (n_atoms × 3), eV/Å
stress                list<float32>            (6), ASE sign, xx yy zz yz xz xy, eV/Å³
====================  =======================  ==========================================
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ase import Atoms
from numpy.typing import NDArray
from pymatgen.core import Structure

from aqvolt_flows.chemistry import symbols_of
from aqvolt_flows.errors import InputError

SCHEMA = pa.schema(
    [
        ("trajectory_id", pa.string()),
        ("step", pa.int64()),
        ("temperature", pa.float32()),
        ("energy", pa.float64()),
        ("atomic_numbers", pa.list_(pa.int16())),
        ("positions", pa.list_(pa.float32())),
        ("cell", pa.list_(pa.float32())),
        ("forces", pa.list_(pa.float32())),
        ("stress", pa.list_(pa.float32())),
    ]
)
ROW_GROUP_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Frame:
    """One configuration with what the exploring potential said of it.

    Attributes
    ----------
    positions, forces
        (n_atoms, 3) in Å and eV/Å.
    cell
        (3, 3) in Å, rows are lattice vectors.
    stress
        (6,) in eV/Å³, ASE sign, order xx yy zz yz xz xy.
    """

    trajectory_id: str
    step: int
    temperature: float
    energy: float
    atomic_numbers: NDArray[np.int16]
    positions: NDArray[np.float32]
    cell: NDArray[np.float32]
    forces: NDArray[np.float32]
    stress: NDArray[np.float32]

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.atomic_numbers)

    @property
    def volume(self) -> float:
        """Volume of the cell, Å³."""
        return float(abs(np.linalg.det(self.cell.astype(float))))

    @property
    def max_force(self) -> float:
        """Largest |F| of any atom, eV/Å."""
        return float(np.linalg.norm(self.forces, axis=1).max())

    def to_atoms(self) -> Atoms:
        """Return the periodic configuration as ASE Atoms, in double precision, without a calculator."""
        return Atoms(
            numbers=self.atomic_numbers.astype(int),
            positions=self.positions.astype(float),
            cell=self.cell.astype(float),
            pbc=True,
        )

    def to_structure(self) -> Structure:
        """Return the configuration as a pymatgen Structure."""
        return Structure(
            self.cell.astype(float),
            symbols_of(self.atomic_numbers),
            self.positions.astype(float),
            coords_are_cartesian=True,
        )


def to_table(frames: Sequence[Frame]) -> pa.Table:
    """Return frames as an Arrow table in :data:`SCHEMA`."""
    return pa.Table.from_pydict(
        {
            "trajectory_id": [f.trajectory_id for f in frames],
            "step": [f.step for f in frames],
            "temperature": [f.temperature for f in frames],
            "energy": [f.energy for f in frames],
            "atomic_numbers": [np.asarray(f.atomic_numbers, np.int16) for f in frames],
            "positions": [np.asarray(f.positions, np.float32).ravel() for f in frames],
            "cell": [np.asarray(f.cell, np.float32).ravel() for f in frames],
            "forces": [np.asarray(f.forces, np.float32).ravel() for f in frames],
            "stress": [np.asarray(f.stress, np.float32).ravel() for f in frames],
        },
        schema=SCHEMA,
    )


def from_table(table: pa.Table | pa.RecordBatch) -> Iterator[Frame]:
    """Yield the frames of an Arrow table in :data:`SCHEMA`, in order."""
    columns = [table.column(name) for name in SCHEMA.names]
    for row in range(table.num_rows):
        tid, step, temperature, energy, numbers, positions, cell, forces, stress = (c[row] for c in columns)
        yield Frame(
            trajectory_id=tid.as_py(),
            step=step.as_py(),
            temperature=temperature.as_py(),
            energy=energy.as_py(),
            atomic_numbers=numbers.values.to_numpy(),
            positions=positions.values.to_numpy().reshape(-1, 3),
            cell=cell.values.to_numpy().reshape(3, 3),
            forces=forces.values.to_numpy().reshape(-1, 3),
            stress=stress.values.to_numpy(),
        )


def write_frames(path: str | Path, frames: Iterable[Frame], row_group_rows: int = ROW_GROUP_ROWS) -> int:
    """Write frames to a Parquet file (zstd; written aside, then renamed) and return how many.

    Rows are written group by group, so that any number of frames needs the memory of one group.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    count = 0
    try:
        with pq.ParquetWriter(aside, SCHEMA, compression="zstd") as writer:
            batch: list[Frame] = []
            for frame in frames:
                batch.append(frame)
                if len(batch) == row_group_rows:
                    writer.write_table(to_table(batch))
                    count += len(batch)
                    batch = []
            if batch or not count:
                writer.write_table(to_table(batch))
                count += len(batch)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    return count


def _open(path: str | Path, columns: Sequence[str] = tuple(SCHEMA.names)) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{path} is not a readable Parquet file ({error}); it may be cut short, make it again."
        ) from None
    missing = [name for name in columns if name not in file.schema_arrow.names]
    if missing:
        raise InputError(f"{path} lacks the frame columns {', '.join(missing)}; expected {', '.join(columns)}.")
    return file


def read_frames(path: str | Path, batch_rows: int = ROW_GROUP_ROWS) -> Iterator[Frame]:
    """Yield the frames of a Parquet file in order, in bounded memory.

    Raises
    ------
    InputError
        If the file is not Parquet or lacks a column.
    """
    with _open(path) as file:
        for batch in file.iter_batches(batch_size=batch_rows, columns=SCHEMA.names):
            yield from from_table(batch)


def read_batches(
    path: str | Path,
    columns: Sequence[str],
    start: int = 0,
    stop: int | None = None,
    step: int = 1,
    batch_rows: int = ROW_GROUP_ROWS,
) -> Iterator[tuple[NDArray[np.int64], pa.RecordBatch]]:
    """Yield rows ``start, start + step, …`` below ``stop`` as Arrow batches, each with its rows' numbers.

    Only the row groups that hold them and the columns asked for are read; memory is that of ``batch_rows`` rows.

    Raises
    ------
    InputError
        If the file is not Parquet or lacks a column.
    """
    with _open(path, columns) as file:
        ends = np.cumsum([file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)], dtype=np.int64)
        end = int(ends[-1]) if stop is None and len(ends) else int(stop or 0)
        groups = [g for g, last in enumerate(ends) if last > start and (ends[g - 1] if g else 0) < end]
        if not groups:
            return
        first = int(ends[groups[0] - 1]) if groups[0] else 0
        for batch in file.iter_batches(batch_size=batch_rows, row_groups=groups, columns=list(columns)):
            skip = max(start - first, 0) if first <= start else (start - first) % step
            rows = np.arange(first + skip, min(first + batch.num_rows, end), step, dtype=np.int64)
            if len(rows):
                yield rows, batch if len(rows) == batch.num_rows else batch.take(pa.array(rows - first))
            first += batch.num_rows


def read_frame(path: str | Path, row: int) -> Frame:
    """Return the frame at ``row``, reading only its row group.

    Raises
    ------
    InputError
        If the file has no such row.
    """
    with _open(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if first <= row < first + size:
                table = file.read_row_group(group, columns=SCHEMA.names).slice(row - first, 1)
                return next(from_table(table))
            first += size
    raise InputError(f"{path} has {first} rows; row {row} was asked for.")
