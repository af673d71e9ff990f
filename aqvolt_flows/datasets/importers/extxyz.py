"""Labels in extended XYZ, block by block: a broken block does not end the rest.

ASE parses each block; units are ASE's (eV, eV/Å, and for the stress what ``stress_unit`` of the options says). A
comment line may declare ``energy_unit``, ``forces_unit`` or ``stress_unit``; an unknown unit sets its block aside.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from ase import Atoms

from aqvolt_flows.datasets.importers.published import (
    Broken,
    Entry,
    Imported,
    ImportOptions,
    RecordError,
    Skipped,
    array,
    converged,
    external_protocol,
    finite,
    maybe,
    moment_list,
    stress,
    text,
)
from aqvolt_flows.datasets.importers.tables import protocol_of_name
from aqvolt_flows.identity import content_key
from aqvolt_flows.schemas.provenance import Protocol
from aqvolt_flows.units import STRESS_FACTORS

_UNITS = {"energy_unit": {"ev"}, "forces_unit": {"ev/a", "ev/ang", "ev/å", "ev/angstrom"}}
#: A configuration of more atoms means that a number was misread.
MAX_ATOMS = 1_000_000


def extxyz_entries(path: Path, options: ImportOptions) -> Iterator[Entry]:
    """Yield the labels of a file, plain or gzip-ed, one configuration in memory at a time."""
    record = 0
    for line, block, problem, fatal in _blocks(path):
        record += 1
        if problem:
            yield Broken(path.name, record, line, problem, fatal=fatal)
            continue
        try:
            yield extxyz_entry(block, {"file": path.name, "record": record}, options)
        except RecordError as error:
            yield Broken(path.name, record, line, str(error))


def extxyz_entry(block: str, where: Mapping[str, Any], options: ImportOptions) -> Entry:
    """Return the label of one block.

    Raises
    ------
    RecordError
        If it is not extended XYZ, not periodic in three dimensions, or lacks energy, forces or stress.
    """
    from ase.io.extxyz import key_val_str_to_dict, read_xyz

    comment = block.split("\n", 2)[1]
    try:
        said = key_val_str_to_dict(comment)
        (atoms,) = list(read_xyz(io.StringIO(block), index=slice(None)))
    # ASE's reader raises whatever its parts meet
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OSError, RuntimeError) as error:
        raise RecordError(f"not extended XYZ ({type(error).__name__}: {' '.join(str(error).split())[:200]})") from None
    unit = _unit(said, options)
    if "Lattice" not in said:
        raise RecordError("it has no Lattice; labels are of periodic cells")
    results = dict(atoms.calc.results) if atoms.calc is not None else {}
    protocol = _protocol(atoms, options)
    if options.functional is not None and options.functional.lower() not in protocol.functional.lower():
        return Skipped("other_functional")
    n_atoms = len(atoms)
    outcome = converged(
        text(atoms.info.get("frame_id")) or frame_identity(atoms),
        protocol,
        {
            "atomic_numbers": [int(z) for z in atoms.numbers],
            "positions": array(atoms.positions, (n_atoms, 3), "positions"),
            "cell": array(atoms.cell.array, (3, 3), "Lattice"),
            "magmoms": moment_list(results.get("magmoms"), n_atoms),
        },
        energy=finite(results.get("energy"), "energy"),
        forces=array(results.get("forces"), (n_atoms, 3), "forces"),
        stress=stress(_given_stress(said, results), unit),
        bandgap=maybe(atoms.info.get("bandgap")),
    )
    named = text(atoms.info.get("label_id")) or text(atoms.info.get("matpes_id"))
    provenance = {**where, "database": options.name} | ({"record_id": named} if named else {})
    return Imported(
        outcome=outcome,
        provenance=provenance,
        temperature_k=maybe(atoms.info.get("temperature_k")),
        candidate_id=text(atoms.info.get("candidate_id")),
        trajectory_id=text(atoms.info.get("trajectory_id")),
    )


def frame_identity(atoms: Atoms) -> str:
    """Return an identity made of species, cell and positions (10⁻⁶ Å), whatever the file and place it stood in."""
    key = content_key(
        "imported-frame/1",
        numbers=[int(z) for z in atoms.numbers],
        cell=np.round(atoms.cell.array, 6) + 0.0,
        positions=np.round(atoms.positions, 6) + 0.0,
    )
    return f"frame-{key}"


def _unit(said: Mapping[str, Any], options: ImportOptions) -> str:
    for name, known in _UNITS.items():
        if name in said and str(said[name]).lower() not in known:
            raise RecordError(f"its {name} is {said[name]!r}; expected {sorted(known)[0]}, convert it first")
    unit = str(said.get("stress_unit", options.stress_unit))
    if unit not in STRESS_FACTORS:
        raise RecordError(f"its stress_unit is {unit!r}; expected {', '.join(STRESS_FACTORS)}")
    return unit


def _given_stress(said: Mapping[str, Any], results: Mapping[str, Any]) -> Any:
    """Return the stress as it stands in the comment: nine numbers in extended XYZ are a matrix, by its definition."""
    given = said.get("stress")
    if given is None:
        return results.get("stress")
    found = np.asarray(given)
    return found.reshape(3, 3) if found.shape == (9,) else found


def _protocol(atoms: Atoms, options: ImportOptions) -> Protocol:
    named = text(atoms.info.get("protocol"))
    if named is None:
        return external_protocol(options.name, text(atoms.info.get("functional")) or options.functional or "unknown")
    return protocol_of_name(named, options)


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
