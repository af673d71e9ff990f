"""ASE-LMDB folders as fairchem reads them: ``*.aselmdb`` and ``metadata.npz`` with ``natoms`` in file order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.training.esen import Labelled


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


def _connect(file: Path) -> Any:
    import ase.db
    import ase_db_backends  # noqa: F401  (registers the backend "aselmdb")

    connect: Any = ase.db.connect
    return connect(str(file), type="aselmdb", readonly=True)


def labelled(split: Split) -> Iterator[Labelled]:
    """Yield what the references need of every structure, in order.

    Raises
    ------
    InputError
        If the files hold another number of structures than ``metadata.npz`` says.
    """
    count = 0
    for file in split.files:
        with _connect(file) as database:
            for row in database.select():
                count += 1
                yield Labelled(np.asarray(row.numbers), float(row.energy), np.asarray(row.forces, dtype=float))
    if count != len(split):
        raise InputError(
            f"{split.folder} holds {count} structures, its metadata.npz says {len(split)}; export the release again."
        )


def name_of(split: Split, index: int) -> str:
    """Return what a message calls the structure at ``index``: its formula and place."""
    first = 0
    for file in split.files:
        with _connect(file) as database:
            size = database.count()
            if index < first + size:
                for place, row in enumerate(database.select(offset=index - first, limit=1)):
                    return f"{row.formula} (row {index + place})"
            first += size
    return f"row {index}"
