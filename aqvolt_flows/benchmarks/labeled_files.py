"""Files of labeled structures as items of a benchmark: extended XYZ, ASE trajectories, JSON documents of statics.

One broken entry is an item with the reason; a stress may be missing. Published tables (MatPES and others), whose units
are their own, are read by ``aqvolt labels import`` and come as the collection ``labels``.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from aqvolt_flows.benchmarks.item_errors import Reference
from aqvolt_flows.benchmarks.items import Item, broken_item, numbered
from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import content_key, structure_hash
from aqvolt_flows.labeled import to_labeled
from aqvolt_flows.streams import stream_documents, stream_lines

EXPECTED = "expected extended XYZ, an ASE trajectory, or JSON documents with structure, energy, forces and stress"


def read_labeled(path: Path, source: str = "") -> list[Item]:
    """Return the labeled structures of one file as items; broken entries are items with a reason.

    Parameters
    ----------
    path
        ``.xyz`` or ``.extxyz`` (gzip-ed or not), ``.traj``, ``.json`` or ``.jsonl``. Energies in eV, forces in eV/Å,
        stresses in eV/Å³ with ASE's sign.
    source
        For the tables by source; by default the file's name.

    Raises
    ------
    InputError
        If it is none of these.
    """
    name = source or path.name
    suffixes = [s.lower() for s in path.suffixes if s.lower() != ".gz"]
    last = suffixes[-1] if suffixes else ""
    if last in {".xyz", ".extxyz"}:
        entries: Iterable[Any] = _extxyz(path)
    elif last == ".traj":
        entries = _trajectory(path)
    elif last in {".json", ".jsonl", ".ndjson"}:
        entries = _json(path, last != ".json")
    else:
        raise InputError(f"{path} has no labels that can be read here; {EXPECTED}.")
    return numbered(_item(entry, name, number) for number, entry in enumerate(entries, 1))


def _item(entry: Any, source: str, number: int) -> Item:
    name = f"{source}:{number - 1}"
    if isinstance(entry, str):
        return broken_item(name, source, number, entry)
    if isinstance(entry, dict) and "matpes_id" in entry:
        said = "it is a MatPES document, whose stress has other units; import it with 'aqvolt labels import'"
        return broken_item(name, source, number, said)
    try:
        (label,) = to_labeled(entry)
    except InputError as error:
        return broken_item(name, source, number, str(error))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return broken_item(name, source, number, f"it is no labeled structure ({error})")
    about = getattr(entry, "info", None) or (entry if isinstance(entry, dict) else {})
    reference = Reference("", label.energy, label.forces, label.stress)
    said_values = [label.energy, label.forces, label.stress]
    return Item(
        name,
        content_key("benchmark-label/1", structure=structure_hash(label.structure), values=said_values),
        label.structure,
        reference,
        source=str(about.get("source") or source),
        subset=str(about.get("split") or ""),
        group=str(about.get("candidate_id") or ""),
    )


def _extxyz(path: Path) -> Iterator[Any]:
    """Yield Atoms, or the reason why a block is none; the next block is looked for behind a broken one."""
    from ase.io import read

    for block in _blocks(path):
        lines = block.splitlines()
        if not lines[0].strip().isdecimal() or len(lines) < int(lines[0]) + 2:
            said = f"it begins with {lines[0].strip()[:30]!r} and has {len(lines)} lines"
            yield f"{said}; expected a number of atoms, a comment, and a line for each atom"
            continue
        try:
            yield read(io.StringIO(block), format="extxyz")
        except Exception as error:  # noqa: BLE001 - ASE's parser fails in many ways; it becomes the reason
            yield f"the block cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})"


def _blocks(path: Path) -> Iterator[str]:
    """Yield the text of each block: a line with one integer, and what follows until the next such line."""
    with path.open("rb") as probe:
        packed = probe.read(2) == b"\x1f\x8b"
    block: list[str] = []
    with gzip.open(path, "rt", errors="replace") if packed else path.open(errors="replace") as lines:
        for line in lines:
            if line.strip().isdecimal() and len(block) != 1:
                if "".join(block).strip():
                    yield "".join(block)
                block = []
            block.append(line)
    if "".join(block).strip():
        yield "".join(block)


def _trajectory(path: Path) -> Iterator[Any]:
    from ase.io.trajectory import TrajectoryReader

    try:
        frames: Any = TrajectoryReader(str(path))
        count = len(frames)
    except Exception as error:  # noqa: BLE001 - a broken binary file fails in many ways
        raise InputError(f"{path} is no ASE trajectory ({' '.join(str(error).split())[:200]}); {EXPECTED}.") from None
    with frames:
        for index in range(count):
            try:
                yield frames[index]
            except Exception as error:  # noqa: BLE001 - as above, for one frame
                yield f"the frame cannot be read ({' '.join(str(error).split())[:200]})"


def _json(path: Path, lines: bool) -> Iterable[Any]:
    for item in stream_lines(path) if lines else stream_documents(path):
        if item.error:
            yield item.error
        else:
            yield item.value[1] if isinstance(item.value, tuple) else item.value


def label_items(documents: Iterable[Any]) -> list[Item]:
    """Return valid documents of ``labels`` as items."""
    import numpy as np
    from pymatgen.core import Structure

    found = []
    for d in documents:
        structure = Structure(d["cell"], d["atomic_numbers"], d["positions"], coords_are_cartesian=True)
        stress = None if d.get("stress") is None else np.asarray(d["stress"], dtype=float)
        reference = Reference(d["label_id"], float(d["energy"]), np.asarray(d["forces"], dtype=float), stress)
        group = d.get("candidate_id") or d.get("trajectory_id") or d["frame_id"]
        name = f"{d['formula']} {d['frame_id']}"
        found.append(Item(name, d["label_id"], structure, reference, source=d["source"], group=group))
    return found
