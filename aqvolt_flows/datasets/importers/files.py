"""From a file to a stream of labels, whatever its format: JSON(.gz), JSON lines, Parquet, LMDB, extended XYZ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aqvolt_flows.datasets.importers import matpes
from aqvolt_flows.datasets.importers.aselmdb import aselmdb_entries
from aqvolt_flows.datasets.importers.colabfit import colabfit_entries
from aqvolt_flows.datasets.importers.columnar import is_arrow, table_rows
from aqvolt_flows.datasets.importers.dataset_folder import refuse_pointer
from aqvolt_flows.datasets.importers.extxyz import extxyz_entries
from aqvolt_flows.datasets.importers.lemat import lemat_entries
from aqvolt_flows.datasets.importers.matpes import identifier, matpes_entry
from aqvolt_flows.datasets.importers.notes import Notes
from aqvolt_flows.datasets.importers.published import Broken, Entry, ImportOptions, RecordError
from aqvolt_flows.datasets.importers.tables import is_parquet, parquet_entries
from aqvolt_flows.datasets.importers.tasks import mp_entry
from aqvolt_flows.datasets.importers.vasp import vasp_entries
from aqvolt_flows.errors import InputError
from aqvolt_flows.streams import Item, first_character, stream_documents, stream_lines, stream_values
from aqvolt_flows.units import STRESS_FACTORS

Reader = Callable[[Mapping[str, Any], Mapping[str, Any], ImportOptions], Entry]


#: Sources with readers of their own.
READERS: dict[str, Callable[[Path, ImportOptions, Notes], Iterator[Entry]]] = {
    "extxyz": extxyz_entries,
    "aselmdb": aselmdb_entries,
    "colabfit": colabfit_entries,
    "lemat": lemat_entries,
}


def read_labels(path: Path, options: ImportOptions, notes: Notes | None = None) -> Iterator[Entry]:
    """Yield the labels of one file, in the memory of a few records.

    Parameters
    ----------
    path
        A file of one of the formats; compressed or not is seen from its first bytes.
    options
        Its source, and what to take from it.
    notes
        Takes what is to be known of the file beside its labels.

    Raises
    ------
    InputError
        If there is no such file, or it is not of its kind at all. Single broken records are yielded as
        :class:`Broken`, those that the options leave out as :class:`Skipped`.
    """
    if options.source == "vasp":
        return vasp_entries(path, options)
    if not path.is_file():
        raise InputError(f"There is no file {path}; give the path of a file to import.")
    if options.stress_unit not in STRESS_FACTORS:
        raise InputError(
            f"The unit of stress {options.stress_unit!r} is not known; expected {', '.join(STRESS_FACTORS)} (kbar: "
            "compression positive, as VASP writes it; the others: tension positive)."
        )
    if options.units and "stress_unit" in options.model_fields_set and "stress" in options.named_units():
        raise InputError("--stress-unit and --units both give the unit of stress; leave one out.")
    refuse_pointer(path)
    notes = notes if notes is not None else Notes()
    if options.source in READERS:
        return READERS[options.source](path, options, notes)
    if is_arrow(path) and options.source in {"matpes", "mp-aloe"}:
        return _matpes_table(path, options, notes)
    if is_parquet(path):
        if options.source == "mp":
            raise InputError(f"{path} is Parquet; Materials Project tasks are imported from JSON or JSON lines.")
        return parquet_entries(path, options, notes)
    if options.source == "aqvolt26":
        raise InputError(f"{path} is not Parquet; AQVolt26 is imported from the Parquet files of its release.")
    return _json(path, mp_entry if options.source == "mp" else matpes_entry, options)


def _matpes_table(path: Path, options: ImportOptions, notes: Notes) -> Iterator[Entry]:
    required = ("energy", "forces", "stress")
    for found in table_rows(path, matpes.COLUMNS, required, "MatPES' table", notes):
        if isinstance(found, Broken):
            yield found
            continue
        record, row = found
        try:
            yield matpes_entry(row, {"file": path.name, "record": record}, options)
        except RecordError as error:
            yield Broken(path.name, record, None, str(error), record_id=identifier(row))


def _json(path: Path, read: Reader, options: ImportOptions) -> Iterator[Entry]:
    for item in _items(path):
        if item.error:
            yield Broken(path.name, item.record, item.line, item.error, fatal=item.fatal)
            continue
        document = item.value[1] if isinstance(item.value, tuple) else item.value
        if not isinstance(document, Mapping):
            said = f"it is a {type(document).__name__}; expected a document"
            yield Broken(path.name, item.record, item.line, said)
            continue
        try:
            yield read(document, {"file": path.name, "record": item.record}, options)
        except RecordError as error:
            yield Broken(path.name, item.record, item.line, str(error), record_id=identifier(document))


def _items(path: Path) -> Iterator[Item]:
    """Return documents of a JSON list or mapping, of one document alone on any number of lines, or of JSON lines."""
    suffixes = {s.lower() for s in path.suffixes[-2:]}
    if suffixes & {".jsonl", ".ndjson"}:
        return stream_lines(path)
    if first_character(path) != "{":
        return stream_documents(path)
    first = next(stream_lines(path), None)
    if first is not None and isinstance(first.value, dict):  # one document a line, or one mapping over the whole file
        return stream_documents(path) if _is_mapping_of_documents(first.value) else stream_lines(path)
    # the first line is no whole document: an indented one, or an indented mapping of several
    entry = next(stream_documents(path), None)
    if entry is not None and isinstance(entry.value, tuple) and _is_document(entry.value[1]):
        return stream_documents(path)
    return stream_values(path)


#: What only a document of a calculation has; a mapping of identity to document has none of them at its top.
_OF_DOCUMENTS = frozenset({"structure", "calcs_reversed", "output", "energy", "forces", "orig_inputs"})


def _is_document(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(_OF_DOCUMENTS & value.keys())


def _is_mapping_of_documents(value: Mapping[str, Any]) -> bool:
    return (
        bool(value)
        and all(isinstance(v, Mapping) for v in value.values())
        and identifier(value) is None
        and not _is_document(value)
    )
