"""A release folder as people use it: ASE Atoms with results, an Arrow table, a torch dataset. No database."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import pyarrow as pa
import pyarrow.parquet as pq

from aqvolt_flows.datasets.columns import COLUMNS
from aqvolt_flows.datasets.folder import read_manifest, split_paths
from aqvolt_flows.datasets.formats import rows_of
from aqvolt_flows.errors import InputError, ResourceError

if TYPE_CHECKING:
    from ase import Atoms

_BATCH_ROWS = 1024


def load_release(path: str | Path) -> LoadedRelease:
    """Return a release that 'aqvolt release create' wrote, or that was downloaded.

    Parameters
    ----------
    path
        The release's folder, with ``manifest.json`` and ``data/*.parquet``.

    Raises
    ------
    InputError
        If there is no such folder, its manifest is missing or broken, or a Parquet file is cut short.

    Examples
    --------
    >>> release = load_release("releases/demo-e453c31a12f5")  # doctest: +SKIP
    >>> release[0].get_potential_energy()  # doctest: +SKIP
    >>> [a.info["label_id"] for a in release.atoms("test")]  # doctest: +SKIP
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; give the folder of a release, e.g. releases/NAME-HASH.")
    return LoadedRelease(folder)


class LoadedRelease(Sequence["Atoms"]):
    """The labels of a release, in the order of its splits and files; each is ASE Atoms with results.

    ``atoms.get_potential_energy()`` (eV), ``get_forces()`` (eV/Å) and ``get_stress()`` (eV/Å³) give the label;
    ``atoms.info`` holds ``split`` and the identities (frame_id, label_id, candidate_id, source, protocol).

    Parameters
    ----------
    folder
        See :func:`load_release`.

    Attributes
    ----------
    manifest
        What ``manifest.json`` says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self._files = split_paths(folder)
        self._sizes = {name: _n_rows(file) for name, file in self._files.items()}
        self._ends: list[int] = []
        for size in self._sizes.values():
            self._ends.append((self._ends[-1] if self._ends else 0) + size)

    @property
    def splits(self) -> dict[str, int]:
        """Labels of each split, hold-outs included."""
        return dict(self._sizes)

    def __repr__(self) -> str:
        """Return name, hash and sizes."""
        sizes = ", ".join(f"{name} {n}" for name, n in self._sizes.items())
        return f"<release {self.manifest.get('release_id', self.folder.name)}: {sizes}>"

    def __len__(self) -> int:
        """Return the number of labels in all splits."""
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Atoms]:
        for split in self._files:
            yield from self.atoms(split)

    @overload
    def __getitem__(self, index: int) -> Atoms: ...

    @overload
    def __getitem__(self, index: slice) -> list[Atoms]: ...

    def __getitem__(self, index: int | slice) -> Atoms | list[Atoms]:
        """Return a label by its place, or a list of them; only the row groups that hold them are read."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"The release has {len(self)} labels; {index} was asked for.")
        number = bisect_right(self._ends, place)
        split = list(self._files)[number]
        return self._one(split, place - (self._ends[number - 1] if number else 0))

    def _one(self, split: str, row: int) -> Atoms:
        with pq.ParquetFile(self._files[split]) as file:
            first = 0
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                if row < first + size:
                    table = file.read_row_group(group).slice(row - first, 1)
                    return next(_atoms(table, split))
                first += size
        raise IndexError(row)

    def atoms(self, split: str = "all") -> Iterator[Atoms]:
        """Yield the labels of a split in file order, in the memory of one batch.

        Parameters
        ----------
        split
            ``train``, ``val``, ``test``, a hold-out, or ``all``.

        Raises
        ------
        InputError
            If the release has no such split.
        """
        for name in self._named(split):
            with pq.ParquetFile(self._files[name]) as file:
                for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                    yield from _atoms(pa.Table.from_batches([batch]), name)

    def table(self, split: str = "all") -> pa.Table:
        """Return the columns of a split as an Arrow table, ``split`` among them; ``.to_pandas()`` makes a DataFrame."""
        tables = []
        for name in self._named(split):
            table = pq.read_table(self._files[name])
            tables.append(table.append_column("split", pa.array([name] * table.num_rows, pa.string())))
        return pa.concat_tables(tables) if tables else pa.table({c.name: pa.array([], c.type) for c in COLUMNS})

    def torch_dataset(self, split: str = "train") -> Any:
        """Return a ``torch.utils.data.Dataset`` of a split, held in memory.

        Each item is a dict of tensors: ``numbers`` (n_atoms,), ``positions`` (n_atoms, 3), ``cell`` (3, 3), ``energy``
        (), ``forces`` (n_atoms, 3), ``stress`` (6,), in Å, eV, eV/Å and eV/Å³, and ``label_id``.

        Raises
        ------
        InputError
            If the release has no such split.
        ResourceError
            If torch is not installed.
        """
        try:
            from aqvolt_flows.datasets.torch_data import LabelDataset
        except ImportError:
            raise ResourceError(
                "A torch dataset needs torch, which is not installed; pip install 'aqvolt-flows[mlip]'."
            ) from None
        return LabelDataset(self.atoms(split))

    def fairchem_dataset(self, split: str = "train", **config: Any) -> Any:
        """Return fairchem's ``AseDBDataset`` on the release's ASE-LMDB export.

        Raises
        ------
        InputError
            If the release has no such export of the split.
        ResourceError
            If fairchem-core is not installed.
        """
        folder = self.folder / "exports" / "aselmdb" / split
        if not folder.is_dir():
            raise InputError(
                f"{self.folder} has no ASE-LMDB export of {split!r}; run 'aqvolt release export' with format aselmdb."
            )
        try:
            from fairchem.core.datasets import AseDBDataset
        except ImportError:
            raise ResourceError("It needs fairchem-core; pip install 'aqvolt-flows[train]'.") from None
        return AseDBDataset({"src": str(folder), **config})

    def _named(self, split: str) -> list[str]:
        if split == "all":
            return list(self._files)
        if split not in self._files:
            known = ", ".join(self._files) or "none"
            raise InputError(f"The release has no split {split!r}; it has {known}, and 'all'.")
        return [split]


def _n_rows(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"{path} is not a whole Parquet file ({said}); fetch the release again.") from None


def _atoms(table: pa.Table, split: str) -> Iterator[Atoms]:
    """Yield ASE Atoms of rows; columns that an earlier version's release lacks are absent."""
    known = table.select([c.name for c in COLUMNS if c.name in table.column_names])
    for batch in known.combine_chunks().to_batches():
        for row in rows_of(batch):
            atoms = row.to_atoms()
            atoms.info["split"] = split
            yield atoms
