"""OBELiX: measured conductivities of lithium solid electrolytes with their crystals.

Therrien et al., arXiv:2502.14234. A folder as its package ``obelix-data`` downloads it: a table and CIFs. Experimental
upper bounds stay bounds here; the package replaces them by 1e-15 S/cm.
"""

from __future__ import annotations

import csv
import tarfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pymatgen.core import Structure

from aqvolt_flows.benchmarks.conductivity import HALOGENS, TransportReference
from aqvolt_flows.benchmarks.conductivity_scores import paper_rows, read_measured
from aqvolt_flows.benchmarks.items import GivenItems, Item
from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.provenance import Failure

#: Shown wherever its data are read.
LICENSE = "OBELiX, Therrien et al., arXiv:2502.14234, CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/)"
_TABLES = ("all.csv", "processed.csv", "raw.csv")
_CONDUCTIVITY = "Ionic conductivity (S cm-1)"


def obelix_items(folder: Any, entries: Sequence[str] | None = None) -> GivenItems:
    """Return entries of OBELiX that have a crystal structure, with their measured conductivity at room temperature.

    Parameters
    ----------
    folder
        With ``all.csv`` and the CIFs, named ``ID.cif``, in any folder below or in a ``.tar.gz``; or the package's
        ``OBELiX``, whose folder is read: it replaces bounds by a number.
    entries
        Identities such as ``p81``; None: all that have a CIF. ``paper``, ``paper-S3`` and ``paper-S4`` stand for those
        of the paper's tables, in its order.

    Raises
    ------
    InputError
        If the table is not there, lacks a column, or an entry that was asked for has no row.
    """
    place = Path(getattr(folder, "data_path", folder))
    rows = {r["ID"]: r for r in _table(place)}
    wanted = _wanted(entries)
    missing = [i for i in wanted or [] if i not in rows]
    if missing:
        raise InputError(f"{place} has no entry {missing[0]!r}; identities have three characters, such as 'p81'.")
    cifs = dict(_cifs(place))
    chosen = wanted if wanted is not None else [i for i in rows if i in cifs]
    items = [_item(rows[i], cifs.get(i)) for i in chosen]
    if not items:
        raise InputError(f"No CIF was found below {place}; expected files ID.cif, or an archive of them (.tar.gz).")
    return GivenItems(items, f"OBELiX, {len(items)} entries")


def _wanted(entries: Sequence[str] | None) -> list[str] | None:
    if entries is None:
        return None
    found: list[str] = []
    for entry in entries:
        if entry in {"paper", "paper-S3", "paper-S4"}:
            found += [r.obelix_id for r in paper_rows() if entry in {"paper", f"paper-{r.table}"}]
        else:
            found.append(entry)
    return list(dict.fromkeys(found))


def _table(folder: Path) -> Iterable[dict[str, str]]:
    path = next((folder / name for name in _TABLES if (folder / name).is_file()), None)
    if path is None:
        raise InputError(
            f"{folder} has no {_TABLES[0]}; give the folder of OBELiX: "
            "'pip install obelix-data', then obelix.OBELiX(data_path=FOLDER) downloads it."
        )
    with path.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    if not rows or not {"ID", _CONDUCTIVITY} <= rows[0].keys():
        raise InputError(f"{path} has no columns 'ID' and {_CONDUCTIVITY!r}; expected OBELiX's table.")
    return rows


def _cifs(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield identity and text of every CIF, those of archives first, so that an unpacked one wins."""
    for archive in sorted(folder.glob("*.tar.gz")):
        try:
            with tarfile.open(archive) as tar:
                for member in tar:
                    handle = tar.extractfile(member) if member.isfile() and member.name.endswith(".cif") else None
                    if handle is not None:
                        yield Path(member.name).stem, handle.read().decode("utf-8", errors="replace")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise InputError(f"{archive} cannot be read ({error}); download it again.") from None
    for path in sorted(folder.rglob("*.cif")):
        yield path.stem, path.read_text(encoding="utf-8", errors="replace")


def _item(row: dict[str, str], cif: str | None) -> Item:
    """Return one entry; one without a CIF, or with one that cannot be read, has a reason instead of a structure."""
    reference, failure, structure = None, None, None
    try:
        reference = TransportReference(experiment=read_measured(row[_CONDUCTIVITY]))
    except InputError as error:
        failure = Failure(reason="no_experiment", message=f"{error}")
    if cif is None:
        failure = Failure(reason="unreadable", message="OBELiX has no CIF of it")
    else:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of rounding and of partial occupancy, which is kept
                structure = Structure.from_str(cif, fmt="cif")
        except Exception as error:  # noqa: BLE001 - pymatgen raises anything for a damaged CIF; it is that entry's failure
            said = " ".join(str(error).split())[:200]
            failure = Failure(reason="unreadable", message=f"its CIF cannot be read ({said})")
    halide = structure is not None and bool(HALOGENS & {e.symbol for e in structure.composition.elements})
    return Item(
        row.get("Reduced Composition") or row["ID"],
        f"obelix-{row['ID']}",
        None if failure else structure,
        reference,
        source="obelix",
        subset="halide" if halide else "halide-free",
        failure=failure,
    )
