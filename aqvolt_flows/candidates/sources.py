"""Importers: MatPES, the Materials Project and structure files as streams of records.

Every importer yields :class:`Record` or :class:`Quarantined`, one document in memory at a time, so that
a file of 400,000 documents takes no more of it than one of ten.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from aqvolt_flows.candidates.files import stream_structures
from aqvolt_flows.candidates.readers.json_structures import documents, is_structure
from aqvolt_flows.candidates.readers.text import head, refuse_html
from aqvolt_flows.candidates.records import Quarantined, Record, finite, structure_from_arrays, structure_from_dict
from aqvolt_flows.candidates.refusals import RecordError
from aqvolt_flows.chemistry import reduced_formula
from aqvolt_flows.errors import InputError
from aqvolt_flows.streams import Item, first_character, stream_documents, stream_lines

SourceFormat = Literal["matpes", "mp", "structure"]
Entry = Record | Quarantined
Reader = Callable[[Mapping[str, Any], dict[str, Any]], Record]

#: Columns of a MatPES table that hold the structure or its provenance; the labels stay on disk.
_PARQUET_COLUMNS = (
    "cell",
    "atomic_numbers",
    "cart_coords",
    "structure",
    "matpes_id",
    "mp_id",
    "functional",
    "energy",
    "cohesive_energy_per_atom",
    "formation_energy_per_atom",
    "energy_above_hull",
    "provenance",
)
_ROWS = 256


def detect_format(path: Path) -> SourceFormat:
    """Return what a file seems to hold: by its suffix, then by its first document.

    Raises
    ------
    InputError
        If it is JSON whose first document carries neither ``matpes_id`` nor ``material_id`` and is no structure of
        pymatgen or ASE.
    """
    if _is_parquet(path):
        return "matpes"
    if not _is_json(path) or _is_html(path):
        return "structure"
    first = next((item for item in _items(path) if item.error == ""), None)
    value = _value(first)
    if isinstance(value, Mapping):
        if "matpes_id" in value:
            return "matpes"
        if "material_id" in value:
            return "mp"
    if any(is_structure(_value(item)) for item in (first, next(documents(path), None))):
        return "structure"
    seen = f" (it has {', '.join(map(str, list(value)[:6]))})" if isinstance(value, Mapping) else ""
    raise InputError(
        f"{path}: its first document has neither 'matpes_id' nor 'material_id'{seen} and is no structure of "
        "pymatgen or ASE; name the kind with --format matpes, mp or structure."
    )


def _value(item: Item | None) -> Any:
    return item.value[1] if item and isinstance(item.value, tuple) else item.value if item else None


def _is_html(path: Path) -> bool:
    try:
        refuse_html(head(path))
    except RecordError:
        return True
    return False


def stream_file(path: Path, kind: SourceFormat | None = None) -> Iterator[Entry]:
    """Yield the records of one file.

    Parameters
    ----------
    path
        MatPES JSON(.gz) or Parquet, a Materials Project snapshot as JSON lines or list (.gz), or what
        :func:`~aqvolt_flows.candidates.files.stream_structures` reads.
    kind
        What it is; by default :func:`detect_format` decides.

    Raises
    ------
    InputError
        If there is no such file, or it is not of its kind at all. Single broken records are yielded
        as :class:`Quarantined`.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}; give the path of a file to import.")
    chosen = kind or detect_format(path)
    if chosen not in get_args(SourceFormat):
        raise InputError(f"There is no format {chosen!r}; expected one of {', '.join(get_args(SourceFormat))}.")
    if chosen == "structure":
        return stream_structures(path)
    if _is_parquet(path):
        return _parquet(path)
    return _json(path, matpes_record if chosen == "matpes" else mp_record)


def _is_parquet(path: Path) -> bool:
    if path.suffix.lower() in {".parquet", ".pq"}:
        return True
    with path.open("rb") as handle:
        return handle.read(4) == b"PAR1"


def _is_json(path: Path) -> bool:
    return any(s in {".json", ".jsonl", ".ndjson"} for s in (s.lower() for s in path.suffixes[-2:]))


def _items(path: Path) -> Iterator[Item]:
    """Return documents of a JSON list or mapping, or of JSON lines."""
    lines = any(s in {".jsonl", ".ndjson"} for s in path.suffixes[-2:])
    if not lines and first_character(path) == "{":
        first = next(stream_lines(path), None)  # one document a line, or one mapping over the whole file
        lines = (
            first is not None
            and isinstance(first.value, dict)
            and bool({"material_id", "matpes_id"} & set(first.value))
        )
    return stream_lines(path) if lines else stream_documents(path)


def _json(path: Path, read: Reader) -> Iterator[Entry]:
    for item in _items(path):
        if item.error:
            code = "cut_off" if item.fatal else "not_json"
            yield Quarantined(path.name, item.record, item.line, item.error, fatal=item.fatal, code=code)
            continue
        yield _read(_value(item), read, path.name, item.record, item.line)


def _read(document: Any, read: Reader, file: str, record: int, line: int | None) -> Entry:
    if not isinstance(document, Mapping):
        said = f"it is a {type(document).__name__}; expected a document"
        return Quarantined(file, record, line, said, code="not_json")
    try:
        return read(document, {"file": file, "record": record})
    except RecordError as error:
        return Quarantined(file, record, line, str(error), record_id=_identifier(document), code=error.code)
    except Exception as error:  # noqa: BLE001 - a document can be anything; what breaks on it becomes its reason
        said = f"it cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        return Quarantined(file, record, line, said, record_id=_identifier(document))


def _identifier(document: Mapping[str, Any]) -> str | None:
    found = document.get("matpes_id") or document.get("material_id")
    return str(found) if found else None


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if v is not None}


def matpes_record(document: Mapping[str, Any], where: dict[str, Any]) -> Record:
    """Return the record of one MatPES document (Kaplan et al., arXiv:2503.04070).

    Its structure is either pymatgen's, as in the JSON files, or ``cell`` (rows, Å), ``atomic_numbers``
    and ``cart_coords`` (Å), as in the Parquet tables.

    Raises
    ------
    RecordError
        If it has neither, or they are broken.
    """
    origin = document.get("provenance")
    origin = origin if isinstance(origin, Mapping) else {}
    structure = _matpes_structure(document)
    identifier = _identifier(document)
    provenance = where | _known(
        {
            "database": "MatPES",
            "record_id": identifier,
            "functional": _text(document.get("functional")),
            "energy_ev": finite(document.get("energy")),
            "cohesive_energy_ev_per_atom": finite(document.get("cohesive_energy_per_atom")),
            "e_above_hull_ev_per_atom": finite(document.get("energy_above_hull")),
            "mp_id": _text(origin.get("original_mp_id") or document.get("mp_id")),
            "materials_project_version": _text(origin.get("materials_project_version")),
            "md_ensemble": _text(origin.get("md_ensemble")),
            "md_temperature_k": finite(origin.get("md_temperature")),
            "md_step": finite(origin.get("md_step")),
            "mlip": _text(origin.get("mlip_name")),
        }
    )
    label = identifier or f"{where['file']}:{where['record']}"
    return Record(f"{label} {reduced_formula(structure.composition)}", structure, provenance)


def _matpes_structure(document: Mapping[str, Any]) -> Any:
    found = document.get("structure")
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except ValueError as error:
            raise RecordError(f"its structure is not JSON ({error})") from None
    if found is not None or "cell" not in document:
        return structure_from_dict(found)
    numbers = document.get("atomic_numbers")
    if not isinstance(numbers, list) or not all(isinstance(n, int) and 0 < n < 119 for n in numbers):
        raise RecordError("atomic_numbers is not a list of atomic numbers")
    return structure_from_arrays(document["cell"], numbers, document.get("cart_coords"), cartesian=True)


def _text(value: Any) -> str | None:
    return str(value) if value not in (None, "") else None


def mp_record(document: Mapping[str, Any], where: dict[str, Any]) -> Record:
    """Return the record of one Materials Project summary document (fields of ``materials.summary.search``).

    Raises
    ------
    RecordError
        If its structure is missing or broken.
    """
    structure = structure_from_dict(document.get("structure"))
    built = document.get("builder_meta")
    version = _text(built.get("database_version")) if isinstance(built, Mapping) else None
    hull = finite(document.get("energy_above_hull"))
    identifier = _identifier(document)
    theoretical = document.get("theoretical")
    provenance = where | _known(
        {
            "database": "Materials Project",
            "record_id": identifier,
            "mp_id": identifier,
            "functional": _text(document.get("functional")),
            "e_above_hull_ev_per_atom": hull,
            "e_above_hull_reference": None if hull is None else f"Materials Project {version or '(version unknown)'}",
            "materials_project_version": version,
            "theoretical": theoretical if isinstance(theoretical, bool) else None,
            "possible_species": _texts(document.get("possible_species")),
            "task_ids": _texts(document.get("task_ids")),
        }
    )
    label = identifier or f"{where['file']}:{where['record']}"
    return Record(f"{label} {reduced_formula(structure.composition)}", structure, provenance)


def _texts(value: Any) -> list[str] | None:
    return [str(v) for v in value] if isinstance(value, list | tuple | set) and value else None


def _parquet(path: Path) -> Iterator[Entry]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} is not a whole Parquet file ({' '.join(str(error).split())}); fetch it again."
        ) from None
    with table:
        present = [c for c in _PARQUET_COLUMNS if c in table.schema_arrow.names]
        if not ({"cell", "atomic_numbers", "cart_coords"} <= set(present) or "structure" in present):
            raise InputError(
                f"{path} has the columns {', '.join(table.schema_arrow.names[:12])}; expected cell, atomic_numbers and "
                "cart_coords, or structure."
            )
        record = 0
        try:
            for batch in table.iter_batches(batch_size=_ROWS, columns=present, use_threads=False):
                for row in batch.to_pylist():
                    record += 1
                    yield _read(row, matpes_record, path.name, record, None)
        except (pa.ArrowException, OSError) as error:
            said = f"the table cannot be read any further ({' '.join(str(error).split())})"
            yield Quarantined(path.name, record + 1, None, said, fatal=True, code="cut_off")
