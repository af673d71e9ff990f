"""Structure files: which reader a file needs, and its structures as records, one at a time."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from pymatgen.core import Structure

from aqvolt_flows.candidates.readers.ase_atoms import Frame, read_extxyz, read_trajectory
from aqvolt_flows.candidates.readers.cif import read_cif
from aqvolt_flows.candidates.readers.json_structures import documents, json_structure
from aqvolt_flows.candidates.readers.poscar import looks_like_poscar, read_poscar
from aqvolt_flows.candidates.readers.text import head, read_text, refuse_html
from aqvolt_flows.candidates.records import Quarantined, Record, encodable, plain_structure
from aqvolt_flows.candidates.refusals import RecordError
from aqvolt_flows.errors import InputError
from aqvolt_flows.streams import Item

Entry = Record | Quarantined
FORMATS = "CIF, POSCAR/CONTCAR, (ext)xyz, ASE trajectory, or pymatgen's or ASE's JSON"
#: Suffix, without .gz, .bz2 or .xz → reader.
_SUFFIXES = {
    ".cif": "cif",
    ".mcif": "cif",
    ".xyz": "extxyz",
    ".extxyz": "extxyz",
    ".traj": "traj",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".vasp": "poscar",
    ".poscar": "poscar",
    ".contcar": "poscar",
}


def read_structures(path: Path) -> list[tuple[str, Structure]]:
    """Return the named structures of one file; one broken record among others is left out.

    Parameters
    ----------
    path
        A CIF, POSCAR/CONTCAR, (ext)xyz, ASE trajectory, or pymatgen's or ASE's JSON.

    Raises
    ------
    InputError
        If the file is missing, or no structure could be read.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}; give the path of a CIF, POSCAR or extxyz file.")
    entries = list(stream_structures(path))
    found = [(e.name, e.structure) for e in entries if isinstance(e, Record)]
    if not found:
        reasons = "; ".join(dict.fromkeys(e.reason for e in entries[:3] if isinstance(e, Quarantined)))
        raise InputError(f"{path} cannot be read as a structure ({reasons}); expected {FORMATS}.")
    return found


def stream_structures(path: Path) -> Iterator[Entry]:
    """Yield the records of one structure file; what cannot be read is a record with its reason.

    Raises
    ------
    InputError
        If there is no such file.
    """
    number = 0
    try:
        for entry in _READERS[file_format(path)](path):
            number += 1
            yield entry
    except RecordError as error:
        yield Quarantined(path.name, number + 1, None, str(error), code=error.code, fatal=number > 0)
    except Exception as error:  # noqa: BLE001 - a file that breaks a reader must not end the import of the others
        said = f"the reader failed ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        yield Quarantined(path.name, number + 1, None, said, fatal=number > 0)


def file_format(path: Path) -> str:
    """Return which reader a file needs: by its suffix or name, else by its first lines.

    Raises
    ------
    RecordError
        If it is a web page.
    """
    suffixes = [s.lower() for s in path.suffixes if s.lower() not in (".gz", ".bz2", ".xz", ".z")]
    by_suffix = _SUFFIXES.get(suffixes[-1] if suffixes else "")
    start = head(path)
    refuse_html(start)
    if by_suffix:
        return by_suffix
    if re.search(r"poscar|contcar", path.name, re.IGNORECASE):
        return "poscar"
    lines = start.split("\n")
    if start.startswith("- of Ulm"):
        return "traj"
    if re.search(r"^\s*data_\S*", start, re.MULTILINE) and re.search(r"^\s*(_|loop_)", start, re.MULTILINE):
        return "cif"
    if start.lstrip("\ufeff \t\r\n")[:1] in ("{", "["):
        return "json"
    if lines[0].strip().isdigit() and len(lines) > 1 and "Lattice" in lines[1]:
        return "extxyz"
    return "poscar" if looks_like_poscar(start) else "other"


def _record(path: Path, name: str, number: int, structure: Structure, remarks: list[str], **more: str) -> Record:
    provenance = {"file": path.name, "record": number, **more}
    return Record(name, structure, provenance | ({"remarks": sorted(set(remarks))} if remarks else {}))


def _cif(path: Path) -> Iterator[Entry]:
    text, decoded = read_text(path)
    found = list(read_cif(text))
    for number, (block, line, structure, remarks) in enumerate(found, 1):
        if isinstance(structure, RecordError):
            yield Quarantined(path.name, number, line, str(structure), block or None, code=structure.code)
        elif len(found) == 1:
            yield _record(path, path.name, number, structure, decoded + remarks)
        else:
            yield _record(path, f"{path.name}:{block or number}", number, structure, decoded + remarks, block=block)


def _poscar(path: Path) -> Iterator[Entry]:
    text, decoded = read_text(path)
    structure, remarks = read_poscar(text)
    yield _record(path, path.name, 1, structure, decoded + remarks)


def _frames(read: Callable[[Path], Iterator[Frame]]) -> Callable[[Path], Iterator[Entry]]:
    def stream(path: Path) -> Iterator[Entry]:
        for number, line, structure, remarks in read(path):
            if isinstance(structure, RecordError):
                yield Quarantined(path.name, number, line, str(structure), code=structure.code)
            else:
                yield _record(path, f"{path.name}:{number - 1}", number, structure, remarks)

    return stream


def _json(path: Path) -> Iterator[Entry]:
    try:
        for item in documents(path):
            yield _document(path, item)
    except InputError as error:  # it is no list or mapping
        raise RecordError(str(error), "not_json") from None


def _document(path: Path, item: Item) -> Entry:
    if item.error:
        code = "cut_off" if item.fatal else "not_json"
        return Quarantined(path.name, item.record, item.line, item.error, fatal=item.fatal, code=code)
    key, value = item.value if isinstance(item.value, tuple) else ("", item.value)
    identifier = key or _identifier(value)
    try:
        structure, remarks = json_structure(value)
    except RecordError as error:
        return Quarantined(path.name, item.record, item.line, str(error), identifier, code=error.code)
    except Exception as error:  # noqa: BLE001 - a document can be anything; what breaks on it becomes its reason
        said = f"it cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        return Quarantined(path.name, item.record, item.line, said, identifier)
    single = item.record == 1 and not key and value is not None and identifier is None
    name = path.name if single else f"{path.name}:{identifier or item.record - 1}"
    return _record(path, name, item.record, structure, remarks)


def _identifier(value: object) -> str | None:
    if not isinstance(value, dict):
        return None
    found = next((value[k] for k in ("entry_id", "unique_id", "material_id", "id") if value.get(k)), None)
    return str(encodable(found)) if isinstance(found, str | int) else None


def _other(path: Path) -> Iterator[Entry]:
    """Yield what pymatgen reads of a file by its name, e.g. CSSR, XSF, CHGCAR or vasprun.xml."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = Structure.from_file(path)
        except ImportError as error:
            raise RecordError(
                f"reading it needs a Python package that is not installed ({' '.join(str(error).split())})",
                "missing_plugin",
            ) from None
        except Exception as error:  # noqa: BLE001 - pymatgen's readers fail in many ways; it becomes the reason
            if "ecogni" in str(error) or "format" in str(error):
                raise RecordError(
                    f"its name and its content are of no known format; expected {FORMATS}", "unknown_format"
                ) from None
            said_text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise RecordError(f"pymatgen cannot read it ({said_text}); expected {FORMATS}", "syntax") from None
    if not isinstance(found, Structure):
        raise RecordError(f"it holds a {type(found).__name__}; expected a crystal", "not_periodic")
    structure, remarks = plain_structure(found)
    yield _record(path, path.name, 1, structure, sorted({" ".join(str(s.message).split()) for s in said}) + remarks)


_READERS: dict[str, Callable[[Path], Iterator[Entry]]] = {
    "cif": _cif,
    "poscar": _poscar,
    "extxyz": _frames(read_extxyz),
    "traj": _frames(read_trajectory),
    "json": _json,
    "other": _other,
}
