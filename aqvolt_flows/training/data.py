"""ASE-LMDB folders as fairchem reads them: ``*.aselmdb`` and ``metadata.npz`` with ``natoms`` in file order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.training.lmdb_file import check_whole
from aqvolt_flows.training.references import Labelled

if TYPE_CHECKING:
    from ase import Atoms


SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a release, as ASE-LMDB.

    Attributes
    ----------
    natoms
        Atoms of each structure, in the order of the files.
    """

    folder: Path
    natoms: NDArray[np.int64]

    @property
    def files(self) -> list[Path]:
        """The databases, in fairchem's (sorted) order."""
        return sorted(self.folder.glob("*.aselmdb"))

    def __len__(self) -> int:
        """Return the number of structures."""
        return len(self.natoms)


def open_split(release: Path, split: str) -> Split:
    """Return a split of a release folder; an empty validation or test split may have no files.

    Raises
    ------
    ResourceError
        If the release was not exported as ASE-LMDB.
    InputError
        If ``metadata.npz`` cannot be read.
    """
    folder = release / "exports" / "aselmdb" / split
    metadata = folder / "metadata.npz"
    if not metadata.is_file() or not any(folder.glob("*.aselmdb")):
        if split != "train" and (release / "exports" / "aselmdb" / "train").is_dir():
            return Split(folder, np.zeros(0, dtype=np.int64))
        raise ResourceError(
            f"{folder} holds no *.aselmdb with metadata.npz; training reads that export: "
            "run 'aqvolt release create … --export aselmdb'."
        )
    return open_folder(folder)


def open_folder(folder: Path) -> Split:
    """Return a folder of ASE-LMDB as a split.

    Raises
    ------
    InputError
        If ``metadata.npz`` cannot be read.
    """
    metadata = folder / "metadata.npz"
    try:
        with np.load(metadata) as arrays:
            natoms = np.asarray(arrays["natoms"], dtype=np.int64)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{metadata} is not readable ({error}); export the release again.") from None
    return Split(folder, natoms)


@dataclass(frozen=True, eq=False)
class Source:
    """One release as data for a training.

    Attributes
    ----------
    name
        What metrics call it.
    folder
        With ``exports/aselmdb``.
    weight
        Times that a frame is seen per epoch.
    splits
        ``train`` and, where they are exported, ``val`` and ``test``.
    """

    name: str
    folder: Path
    weight: float = 1.0
    splits: Mapping[str, Split] = field(default_factory=dict)


def source_of(folder: Path, name: str = "training set", weight: float = 1.0) -> Source:
    """Return a release folder as a source.

    Raises
    ------
    ResourceError
        If it was not exported as ASE-LMDB.
    """
    return Source(name, folder, weight, {split: open_split(folder, split) for split in SPLITS})


def _connect(file: Path) -> Any:
    import ase.db
    import ase_db_backends  # noqa: F401  (registers the backend "aselmdb")

    check_whole(file)
    connect: Any = ase.db.connect
    return connect(str(file), type="aselmdb", readonly=True)


@dataclass(frozen=True, eq=False)
class LabelledFrame:
    """One row of an ASE-LMDB as the trainer reads it; what the row lacks is None.

    Attributes
    ----------
    frame_id
        ``sid`` of the row's data, else ``row N``.
    numbers, positions, cell
        (n_atoms,), (n_atoms, 3) and (3, 3), Å.
    energy, forces, stress
        eV; (n_atoms, 3), eV/Å; 6 or 9 numbers, eV/Å³.
    """

    frame_id: str
    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    energy: float | None
    forces: NDArray[np.float64] | None
    stress: NDArray[np.float64] | None

    def atoms(self) -> Atoms:
        """Return the structure, periodic in all directions."""
        from ase import Atoms

        return Atoms(self.numbers, positions=self.positions, cell=self.cell, pbc=True)


def frames(split: Split) -> Iterator[LabelledFrame]:
    """Yield every row of a split in fairchem's order.

    Raises
    ------
    InputError
        If the files hold another number of structures than ``metadata.npz`` says.
    """
    count = 0
    for file in split.files:
        with _connect(file) as database:
            for row in database.select():
                yield _frame(row, count)
                count += 1
    if count != len(split):
        raise InputError(
            f"{split.folder} holds {count} structures, its metadata.npz says {len(split)}; export the release again."
        )


def some_frames(split: Split, indices: Iterable[int]) -> Iterator[LabelledFrame]:
    """Yield the rows at ascending indices of a split."""
    wanted = list(indices)
    first = 0
    for file in split.files:
        if not wanted:
            return
        with _connect(file) as database:
            ids = list(database.ids)
            while wanted and wanted[0] < first + len(ids):
                index = wanted.pop(0)
                yield _frame(database.get(ids[index - first]), index)
            first += len(ids)


def _frame(row: Any, index: int) -> LabelledFrame:
    data = row.data if isinstance(row.data, dict) else {}

    def value(name: str) -> NDArray[np.float64] | None:
        found = data.get(name, row.get(name))  # fairchem, too, prefers what is in data
        return None if found is None else np.asarray(found, dtype=float)

    energy = value("energy")
    return LabelledFrame(
        frame_id=str(data.get("sid", f"row {index}")),
        numbers=np.asarray(row.numbers),
        positions=np.asarray(row.positions, dtype=float),
        cell=np.asarray(row.cell, dtype=float),
        energy=None if energy is None else float(energy.reshape(-1)[0]),
        forces=value("forces"),
        stress=value("stress"),
    )


def labelled(split: Split) -> Iterator[Labelled]:
    """Yield what the references need of every structure, in order; every row must have energy and forces.

    Raises
    ------
    InputError
        If one has not, or the files hold another number of structures than ``metadata.npz`` says.
    """
    for frame in frames(split):
        if frame.energy is None or frame.forces is None:
            raise InputError(
                f"Frame {frame.frame_id} of {split.folder} has no energy or no forces; release it with both."
            )
        yield Labelled(frame.numbers, frame.energy, frame.forces)
