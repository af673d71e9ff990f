"""Labels in extended XYZ, block by block: a broken block does not end the rest.

The comment line is parsed by ASE's parser of keys and values, the columns by their ``Properties``. Which keys are the
energy, forces and stress is decided in :mod:`~aqvolt_flows.datasets.importers.keys`; units are ASE's (eV, eV/Å, eV/Å³,
tension positive) unless the comment declares them (``energy_unit``, ``force-unit``, ``stress_unit``, …) or the options
do. A block whose ``pbc`` is not ``T T T`` is refused.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from aqvolt_flows.datasets.importers.demands import periodic
from aqvolt_flows.datasets.importers.further import further_results
from aqvolt_flows.datasets.importers.keys import known_key, results_of, units_of
from aqvolt_flows.datasets.importers.notes import Notes
from aqvolt_flows.datasets.importers.published import (
    Broken,
    Entry,
    Imported,
    ImportOptions,
    RecordError,
    Skipped,
    array,
    atomic_numbers,
    converged,
    external_protocol,
    frame_identity,
    maybe,
    text,
)
from aqvolt_flows.datasets.importers.tables import protocol_of_name
from aqvolt_flows.schemas.provenance import Protocol

#: A configuration of more atoms means that a number was misread.
MAX_ATOMS = 1_000_000
_UNIT_KEY = re.compile(r"(energy|forces?|stress|virials?|length|positions?|pos)[_-]units?", re.IGNORECASE)
#: ASE's parser demands nine numbers of these two keys; six are a tensor, too.
_TENSOR = re.compile(r"(?<![\w-])(stress|virial)(?=\s*=)")
_ESCAPED = "_as_given"
_QUANTITIES = {"force": "forces", "virials": "virial", "position": "length", "positions": "length", "pos": "length"}
#: Keys that say where a configuration comes from; read, or of no interest to a label.
_ABOUT = {
    *("Lattice", "Properties", "pbc", "cell_origin", "species", "pos", "Z", "numbers"),
    *("frame_id", "label_id", "matpes_id", "candidate_id", "trajectory_id", "temperature_k"),
    *("protocol", "functional", "source", "split", "head"),
}


def extxyz_entries(path: Path, options: ImportOptions, notes: Notes | None = None) -> Iterator[Entry]:
    """Yield the labels of a file, plain or gzip-ed, one configuration in memory at a time."""
    notes = notes if notes is not None else Notes()
    record = 0
    for line, block, problem, fatal in _blocks(path):
        record += 1
        if problem:
            yield Broken(path.name, record, line, problem, fatal=fatal)
            continue
        try:
            yield extxyz_entry(block, {"file": path.name, "record": record}, options, notes)
        except RecordError as error:
            yield Broken(path.name, record, line, str(error))


def extxyz_entry(block: str, where: Mapping[str, Any], options: ImportOptions, notes: Notes | None = None) -> Entry:
    """Return the label of one block.

    Raises
    ------
    RecordError
        If it is not extended XYZ, not periodic in three dimensions, or lacks energy, forces or stress.
    """
    said, columns = _parsed(block)
    if "Lattice" not in said:
        raise RecordError("not_periodic: it has no Lattice; labels are of periodic cells")
    periodic(said.get("pbc", (True, True, True)))
    declared = {}
    for key in [k for k in said if _UNIT_KEY.fullmatch(k)]:
        quantity = cast("re.Match[str]", _UNIT_KEY.fullmatch(key))[1].lower()
        declared[_QUANTITIES.get(quantity, quantity)] = str(said.pop(key))
    units = units_of(declared, options)
    protocol = _protocol(said, options, notes)
    if options.functional is not None and options.functional.lower() not in protocol.functional.lower():
        return Skipped("other_functional")
    numbers = _numbers(columns)
    n_atoms = len(numbers)
    cell = array(np.transpose(said["Lattice"]), (3, 3), "Lattice") * units.length
    positions = array(columns.get("pos"), (n_atoms, 3), "positions") * units.length
    said_only = {k: v for k, v in said.items() if k not in columns or not known_key("forces", k)}
    record = {k: v for k, v in {**columns, **said_only}.items() if k not in _ABOUT}
    results, read = results_of(record, n_atoms, cell, options, units)
    further, kept = further_results(record, n_atoms, units.energy)
    if notes is not None:
        notes.unread.update(k for k in record if k not in read and k not in kept)
    # A frame_id alone may be the number of a step in any file; our exports carry the label's identity, too.
    named = text(said.get("label_id"))
    own = text(said.get("frame_id")) if named else None
    outcome = converged(
        own or frame_identity(numbers, cell, positions),
        protocol,
        {"atomic_numbers": numbers, "positions": positions, "cell": cell},
        **results,
        **further,
    )
    named = named or text(said.get("matpes_id"))
    provenance = {**where, "database": options.name} | ({"record_id": named} if named else {})
    return Imported(
        outcome=outcome,
        provenance=provenance,
        temperature_k=maybe(said.get("temperature_k")),
        candidate_id=text(said.get("candidate_id")),
        trajectory_id=text(said.get("trajectory_id")),
    )


def _parsed(block: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the keys of the comment and the columns of the atoms."""
    from ase.io.extxyz import key_val_str_to_dict

    lines = block.split("\n")
    count = _count(lines[0])
    if count is None or len(lines) < count + 2:
        raise RecordError("not extended XYZ: it has fewer lines than atoms")
    try:
        said = {_name(k): v for k, v in key_val_str_to_dict(_TENSOR.sub(r"\1" + _ESCAPED, lines[1])).items()}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:  # whatever ASE's parser meets
        raise RecordError(f"not extended XYZ ({type(error).__name__}: {_short(error)})") from None
    if "Properties" not in said:
        raise RecordError("not extended XYZ: its comment line has no Properties")
    rows = [line.split() for line in lines[2 : count + 2]]
    names = _columns(str(said["Properties"]).strip())
    width = sum(n for _, _, n in names)
    for number, row in enumerate(rows, 1):
        if len(row) != width:
            raise RecordError(f"not extended XYZ: atom {number} has {len(row)} columns; its Properties say {width}")
    flat = list(zip(*rows, strict=True))
    columns: dict[str, Any] = {}
    at = 0
    for name, kind, count in names:
        part = flat[at : at + count]
        at += count
        if kind in "RI":
            try:
                values = np.array(part, dtype=float).T
            except ValueError as error:
                raise RecordError(f"not extended XYZ: its column {name} is not of numbers ({_short(error)})") from None
            columns[name] = values[:, 0] if count == 1 else values
        else:
            columns[name] = part[0] if count == 1 else list(zip(*part, strict=True))
    return said, columns


@cache
def _columns(properties: str) -> tuple[tuple[str, str, int], ...]:
    """Return name, kind (R, I, S, L) and number of the columns that ``Properties`` describes."""
    parts = properties.split(":")
    found = []
    for name, kind, count in zip(parts[::3], parts[1::3], parts[2::3], strict=False):
        if kind not in {"R", "I", "S", "L"} or not count.isdigit() or not 0 < int(count) <= 1000:
            raise RecordError(f"not extended XYZ: its Properties have {name}:{kind}:{count}")
        found.append((name, kind, int(count)))
    if len(parts) % 3 or not found:
        raise RecordError(f"not extended XYZ: its Properties are {properties[:60]!r}")
    return tuple(found)


def _numbers(columns: Mapping[str, Any]) -> list[int]:
    if "species" in columns:
        return [_atomic_number(symbol) for symbol in columns["species"]]
    given = columns.get("Z", columns.get("numbers"))
    if given is None:
        raise RecordError("it has neither species nor Z among its Properties")
    return atomic_numbers([int(z) if float(z).is_integer() else z for z in np.ravel(given)])


@cache
def _atomic_number(symbol: str) -> int:
    from ase.data import atomic_numbers as known

    number = known.get(symbol.capitalize() if symbol.isalpha() else symbol)
    if number is None and symbol.isdigit():
        number = int(symbol)
    if not number or number > 118:
        raise RecordError(f"its species {symbol!r} is no element")
    return int(number)


def _name(key: str) -> str:
    return key.removesuffix(_ESCAPED)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _protocol(said: Mapping[str, Any], options: ImportOptions, notes: Notes | None) -> Protocol:
    named = text(said.get("protocol"))
    if named is not None:
        return protocol_of_name(named, options)
    functional = text(said.get("functional"))
    if functional is None and notes is not None and not options.says_functional:
        notes.say(f"The file does not say its functional; the labels are taken as {options.functional} (--functional).")
    return external_protocol(options.name, functional or options.functional or "unknown")


def _blocks(path: Path) -> Iterator[tuple[int, str, str, bool]]:
    """Yield (line, text, problem, fatal) of each configuration; after a broken one, from the next count of atoms on."""
    with path.open("rb") as probe:
        zipped = probe.read(2) == b"\x1f\x8b"
    with gzip.open(path, "rt", errors="replace") if zipped else path.open(errors="replace") as opened:
        handle = cast("IO[str]", opened)
        lines = enumerate(handle, 1)
        number = 0
        try:
            held: tuple[int, str] | None = None
            lost = False
            while True:
                number, line = held if held is not None else next(lines)
                held = None
                count = _count(line)
                if count is None:
                    if line.strip() and not lost:
                        lost = True
                        yield number, "", f"line {number} is {line.strip()[:40]!r}; expected the number of atoms", False
                    continue
                lost = False
                block, held = _take(lines, line, count)
                short = len(block) < count + 2
                said = f"it ends after {max(0, len(block) - 2)} of {count} atoms" if short else ""
                yield number, "".join(block), said, False
        except StopIteration:
            return
        except (EOFError, OSError, zlib.error) as error:
            yield number + 1, "", f"the compressed file is damaged or cut off here ({error})", True


def _take(lines: Iterator[tuple[int, str]], first: str, count: int) -> tuple[list[str], tuple[int, str] | None]:
    """Return a block; it ends early where a line is itself a count of atoms, which is handed back."""
    block = [first]
    for number, line in lines:
        if len(block) > 1 and _count(line) is not None:
            return block, (number, line)
        block.append(line)
        if len(block) == count + 2:
            break
    return block, None


def _count(line: str) -> int | None:
    word = line.strip()
    return int(word) if word.isdigit() and 0 < int(word) <= MAX_ATOMS else None
