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
pressure              float32, may be null     instantaneous, kinetic part included, compression positive, eV/Å³
volume                float32                  of the cell, Å³
equilibration         bool, may be null        before the run's production; null: not known
====================  =======================  ==========================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray
from pymatgen.core import Structure

from aqvolt_flows.aside import written_aside
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
        ("pressure", pa.float32()),
        ("volume", pa.float32()),
        ("equilibration", pa.bool_()),
    ]
)
#: Columns that every file has; the others were added later.
REQUIRED = tuple(name for name in SCHEMA.names if name not in {"pressure", "volume", "equilibration"})
ROW_GROUP_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Frame:
    """One configuration with the exploring potential's energy, forces and stress.

    Attributes
    ----------
    positions, forces
        (n_atoms, 3) in Å and eV/Å.
    cell
        (3, 3) in Å, rows are lattice vectors.
    stress
        (6,) in eV/Å³, ASE sign, order xx yy zz yz xz xy.
    pressure
        Instantaneous pressure in eV/Å³, kinetic part included, compression positive; None where it was not written.
    equilibration
        Whether it belongs to the start of its run, which is not sampled unless asked for; None where it was not
        written.
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
    pressure: float | None = None
    equilibration: bool | None = None

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.atomic_numbers)

    @property
    def volume(self) -> float:
        """Volume of the cell, Å³."""
        with np.errstate(invalid="ignore"):  # a cell that is not finite has no volume: NaN
            return float(abs(np.linalg.det(self.cell.astype(float))))

    @property
    def max_force(self) -> float:
        """Largest |F| of any atom, eV/Å."""
        return float(np.linalg.norm(self.forces, axis=1).max())

    def to_atoms(self) -> Atoms:
        """Return the periodic configuration as ASE Atoms, in double precision.

        Energy (eV), forces (eV/Å) and stress (eV/Å³) are results of a ``SinglePointCalculator``, which ``copy()``
        leaves out; ``info`` holds trajectory_id, step and temperature (instantaneous, K).
        """
        atoms = Atoms(
            numbers=self.atomic_numbers.astype(int),
            positions=self.positions.astype(float),
            cell=self.cell.astype(float),
            pbc=True,
            info={"trajectory_id": self.trajectory_id, "step": self.step, "temperature": self.temperature},
        )
        forces, stress = self.forces.astype(float), self.stress.astype(float)
        atoms.calc = SinglePointCalculator(atoms, energy=self.energy, forces=forces, stress=stress)
        return atoms

    def to_structure(self) -> Structure:
        """Return the configuration as a pymatgen Structure, without site properties: keys are made from structures."""
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
            "pressure": [f.pressure for f in frames],
            "volume": [f.volume for f in frames],
            "equilibration": [f.equilibration for f in frames],
        },
        schema=SCHEMA,
    )


def stacked_table(trajectory_id: str, atomic_numbers: NDArray[np.int16], columns: Mapping[str, NDArray]) -> pa.Table:
    """Return ``k`` frames of one run as an Arrow table in :data:`SCHEMA`, without visiting them one by one.

    Parameters
    ----------
    trajectory_id
        Of the run.
    atomic_numbers
        (n_atoms,).
    columns
        ``step``, ``temperature``, ``energy``, ``pressure``, ``volume`` and ``equilibration`` (k,); ``positions`` and
        ``forces`` (k, n_atoms, 3); ``cell`` (k, 3, 3); ``stress`` (k, 6).
    """
    k = len(columns["step"])
    arrays = []
    for field in SCHEMA:
        if field.name == "trajectory_id":
            arrays.append(pa.array([trajectory_id] * k, pa.string()))
        elif pa.types.is_list(field.type):
            values = columns[field.name] if field.name in columns else np.tile(atomic_numbers, (k, 1))
            flat = pa.array(np.ascontiguousarray(values).ravel(), field.type.value_type)
            offsets = pa.array(np.arange(k + 1) * (values.size // max(k, 1)), pa.int32())
            arrays.append(pa.ListArray.from_arrays(offsets, flat))
        else:
            arrays.append(pa.array(columns[field.name], field.type))
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def to_columns(frames: Sequence[Frame]) -> dict[str, Any]:
    """Return frames of one run as plain lists, for a document.

    Returns
    -------
    dict
        The columns of :data:`SCHEMA` without ``trajectory_id``, nested lists flat; ``atomic_numbers`` once.
    """
    columns: dict[str, Any] = to_table(frames).drop_columns(["trajectory_id", "atomic_numbers"]).to_pydict()
    return {"atomic_numbers": [int(z) for z in frames[0].atomic_numbers], **columns}


def from_columns(trajectory_id: str, columns: Mapping[str, Any]) -> list[Frame]:
    """Return the frames that :func:`to_columns` wrote, bit by bit."""
    n = len(columns["step"])
    values = (
        {"equilibration": [None] * n}
        | dict(columns)
        | {
            "trajectory_id": [trajectory_id] * n,
            "atomic_numbers": [columns["atomic_numbers"]] * n,
        }
    )
    return list(from_table(pa.Table.from_pydict(values, schema=SCHEMA).combine_chunks()))


def from_table(table: pa.Table | pa.RecordBatch) -> Iterator[Frame]:
    """Yield the frames of an Arrow table in :data:`SCHEMA`, in order."""
    columns = [table.column(name) for name in REQUIRED]
    pressures = table.column("pressure") if "pressure" in table.schema.names else None
    marks = table.column("equilibration") if "equilibration" in table.schema.names else None
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
            pressure=None if pressures is None else pressures[row].as_py(),
            equilibration=None if marks is None else marks[row].as_py(),
        )


def thin(n_frames: int, stride: int = 1, max_frames: int | None = None) -> NDArray[np.int64]:
    """Return the rows of a run that are encoded: every ``stride``-th from the first on, and no more than a limit.

    The paper writes 200 M configurations and encodes 8.5 M (section 2.1), 346 of each of its 24,555 runs of 8,334
    frames: every 24th. How it chose them is not said.

    Parameters
    ----------
    n_frames
        Frames of the run.
    stride
        Keep every n-th frame.
    max_frames
        At most this many frames, evenly spaced, including the first and last.

    Examples
    --------
    >>> thin(10, stride=3).tolist()
    [0, 3, 6, 9]
    >>> thin(10, max_frames=3).tolist()
    [0, 4, 9]
    >>> len(thin(8334, stride=24))
    348
    """
    if stride < 1 or (max_frames is not None and max_frames < 1):
        raise InputError(f"Every {stride}th frame, at most {max_frames}, was asked for; expected numbers of 1 or more.")
    rows = np.arange(0, max(n_frames, 0), stride, dtype=np.int64)
    if max_frames is not None and len(rows) > max_frames:
        rows = rows[np.linspace(0, len(rows) - 1, max_frames).astype(np.int64)]
    return rows


def write_frames(path: str | Path, frames: Iterable[Frame], row_group_rows: int = ROW_GROUP_ROWS) -> int:
    """Write frames to a Parquet file (zstd; written aside, then renamed) and return how many.

    Rows are written group by group, so that any number of frames needs the memory of one group.
    """
    count = 0
    with written_aside(path) as aside, pq.ParquetWriter(aside, SCHEMA, compression="zstd") as writer:
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
    return count


def _open(path: str | Path, columns: Sequence[str] = REQUIRED) -> pq.ParquetFile:
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


def _columns(file: pq.ParquetFile) -> list[str]:
    return [name for name in SCHEMA.names if name in file.schema_arrow.names]


def read_frames(path: str | Path, batch_rows: int = ROW_GROUP_ROWS) -> Iterator[Frame]:
    """Yield the frames of a Parquet file in order, in bounded memory.

    Raises
    ------
    InputError
        If the file is not Parquet or lacks a column.
    """
    with _open(path) as file:
        for batch in file.iter_batches(batch_size=batch_rows, columns=_columns(file)):
            yield from from_table(batch)


def count_frames(path: str | Path) -> int:
    """Return how many frames a Parquet file holds; only its footer is read."""
    with _open(path) as file:
        return int(file.metadata.num_rows)


def read_thinned(path: str | Path, stride: int = 1, max_frames: int | None = None) -> Iterator[tuple[int, Frame]]:
    """Yield (row, frame) of the rows that :func:`thin` chooses of a file, in bounded memory.

    Row groups without a chosen row are not read, and only chosen rows become frames.

    Raises
    ------
    InputError
        If the file is not Parquet or lacks a column, or ``stride`` or ``max_frames`` is below 1.
    """
    with _open(path) as file:
        rows = thin(file.metadata.num_rows, stride, max_frames)
        first = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            inside = rows[(rows >= first) & (rows < first + size)]
            if len(inside):
                table = file.read_row_group(group, columns=_columns(file)).take(pa.array(inside - first))
                yield from zip(inside.tolist(), from_table(table.combine_chunks()), strict=True)
            first += size


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
                table = file.read_row_group(group, columns=_columns(file)).slice(row - first, 1)
                return next(from_table(table))
            first += size
    raise InputError(f"{path} has {first} rows; row {row} was asked for.")
