"""A reader of vasprun.xml: one pass, one ionic step in memory at a time, whole steps also of a file that is cut short.

Numbers are as VASP prints them (Å, eV, eV/Å, kbar with VASP's sign); :mod:`aqvolt_flows.vasp.steps` turns them into
ours. A field that VASP could not print (``********``) is NaN.
"""

from __future__ import annotations

import gzip
import re
import xml.etree.ElementTree as ET  # expat 2.4.1 and newer limits entities; it fetches none  # nosec B405
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.vasp.incar import plain_value

Array = NDArray[np.float64]

_CHUNK = 1 << 18
#: Large, and read by nobody here: cut out before the XML is parsed.
_CUT = ("dos", "projected", "dielectricfunction", "dynmat", "opticaltransitions")
_LONGEST_TAG = 64
_ENERGIES = ("e_fr_energy", "e_wo_entrp", "e_0_energy")
#: Occupations above this count as occupied, as in pymatgen's ``Vasprun`` (``occu_tol``).
_OCCUPIED = 1e-8


class VasprunError(ValueError):
    """A vasprun.xml without what a result needs; the message says what is wrong."""


@dataclass(frozen=True)
class KPoints:
    """The k-points that were used.

    Attributes
    ----------
    scheme
        ``Gamma``, ``Monkhorst-Pack``, ``Listgenerated`` (lines), or empty for an explicit list.
    divisions
        Of the mesh; None for lines and lists.
    count
        Irreducible points.
    shifted
        The mesh is moved off its own center.
    """

    scheme: str = ""
    divisions: tuple[int, int, int] | None = None
    count: int = 0
    shifted: bool = False


@dataclass(eq=False)
class Header:
    """What stands before the first ionic step.

    Attributes
    ----------
    incar, parameters
        Tags as given, and what VASP used; upper-case names.
    symbols
        Element of each atom.
    titles
        POTCAR title of each species.
    """

    version: str = ""
    incar: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    kpoints: KPoints = field(default_factory=KPoints)
    symbols: list[str] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class RawStep:
    """One whole ionic step as printed.

    Attributes
    ----------
    cell, fractional
        (3, 3; Å, rows are vectors) and (n_atoms, 3).
    forces, stress
        (n_atoms, 3; eV/Å) and (3, 3; kbar), or None where VASP wrote none.
    energy
        ``e_fr_energy``, ``e_wo_entrp``, ``e_0_energy`` of the ionic step, eV.
    electronic
        The same of every electronic step that has them; in linear response also of steps that are no SCF.
    """

    cell: Array
    fractional: Array
    forces: Array | None
    stress: Array | None
    energy: dict[str, float]
    electronic: list[dict[str, float]]


class VasprunReader:
    """Read one vasprun.xml, gzip-ed or not.

    Parameters
    ----------
    path
        The file.
    eigenvalues
        Keep those of the last step, for :meth:`bandgap`.

    Attributes
    ----------
    header
        Filled while :meth:`steps` runs; whole from the first step on.
    problem
        Why the file could not be read to its end; empty for a whole file.
    """

    def __init__(self, path: Path, eigenvalues: bool = False) -> None:
        self.path, self.header, self.problem = path, Header(), ""
        self._edges: tuple[float, float] | None = None
        self._cut = _CUT if eigenvalues else (*_CUT, "eigenvalues")

    def steps(self) -> Iterator[RawStep]:
        """Yield whole ionic steps in order; where the file is damaged they end, and :attr:`problem` says why."""
        parser: Any = ET.XMLPullParser(events=("start", "end"))
        stack: list[ET.Element] = []
        try:
            with _opened(self.path) as handle:
                for chunk in _without(handle, self._cut):
                    parser.feed(chunk)
                    yield from self._taken(parser, stack)
            parser.close()
            yield from self._taken(parser, stack)
        except ET.ParseError as error:
            yield from self._rest(parser, stack)
            self.problem = f"XML is damaged or cut short ({error})"
        except (EOFError, OSError, zlib.error) as error:
            yield from self._rest(parser, stack)
            self.problem = f"it cannot be read ({error})"
        except VasprunError as error:
            self.problem = str(error)

    def _rest(self, parser: Any, stack: list[ET.Element]) -> Iterator[RawStep]:
        try:
            yield from self._taken(parser, stack)
        except (ET.ParseError, VasprunError):
            return

    def _taken(self, parser: Any, stack: list[ET.Element]) -> Iterator[RawStep]:
        for event, element in parser.read_events():
            if not isinstance(element, ET.Element):
                continue
            if event == "start":
                stack.append(element)
                continue
            stack.pop()
            step = self._ended(element, stack)
            if step is not None:
                yield step

    def _ended(self, element: ET.Element, stack: list[ET.Element]) -> RawStep | None:
        """Take what an element says, free it where nobody needs it again, and return the step that it completes."""
        if len(stack) == 2 and stack[1].tag == "calculation":
            self._part_of_step(element, stack[1])
        if len(stack) != 1:
            return None
        step = self._step(element) if element.tag == "calculation" else None
        if element.tag != "calculation":
            self._part_of_header(element)
        stack[0].remove(element)
        return step

    def _part_of_step(self, element: ET.Element, calculation: ET.Element) -> None:
        if element.tag == "scstep":
            energy = element.find("energy")
            found = {} if energy is None else _energies(energy)
            element.clear()
            element.attrib.update({k: repr(v) for k, v in found.items()})
        elif element.tag == "eigenvalues":
            self._edges = _edges(element) or self._edges
            calculation.remove(element)

    def _part_of_header(self, element: ET.Element) -> None:
        head = self.header
        if element.tag == "generator":
            words = (element.findtext("i[@name='version']") or "").split()
            head.version = words[0].lower() if words else ""
        elif element.tag == "incar":
            head.incar = _tags(element)
        elif element.tag == "parameters":
            head.parameters = _tags(element)
        elif element.tag == "kpoints":
            head.kpoints = _kpoints(element)
        elif element.tag == "atominfo":
            atoms = element.findall("array[@name='atoms']/set/rc")
            kinds = element.findall("array[@name='atomtypes']/set/rc")
            head.symbols = [_element(row.findtext("c") or "") for row in atoms]
            head.titles = [_cells(row)[-1] for row in kinds if len(row)]

    def _step(self, calculation: ET.Element) -> RawStep | None:
        structure, energy = calculation.find("structure"), calculation.find("energy")
        electronic = [{k: float(v) for k, v in e.attrib.items()} for e in calculation.findall("scstep")]
        if structure is None or energy is None or not self.header.symbols:
            return None
        n_atoms = len(self.header.symbols)
        cell = _block(structure.find("crystal/varray[@name='basis']"), 3, "lattice vectors")
        fractional = _block(structure.find("varray[@name='positions']"), n_atoms, "positions")
        forces, stress = calculation.find("varray[@name='forces']"), calculation.find("varray[@name='stress']")
        return RawStep(
            cell,
            fractional,
            None if forces is None else _block(forces, n_atoms, "forces"),
            None if stress is None else _block(stress, 3, "stress"),
            _energies(energy),
            [e for e in electronic if "e_fr_energy" in e],
        )

    def bandgap(self) -> float | None:
        """Return the gap of the last step in eV (0 for a metal): the lowest empty above the highest occupied level."""
        if self._edges is None or not np.isfinite(self._edges).all():
            return None
        highest, lowest = self._edges
        return max(lowest - highest, 0.0)


def starts_as_static(path: Path) -> bool:
    """Return whether the INCAR that a vasprun.xml repeats asks for no ionic steps; False where it cannot be read."""
    try:
        with _opened(path) as handle:
            head = handle.read(_CHUNK)
    except (EOFError, OSError, zlib.error):
        return False
    given, end, _ = head.partition(b"</incar>")
    found = re.search(rb'name="NSW">\s*(\d+)', given)
    return bool(end) and (found is None or int(found.group(1)) == 0)


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as probe:
        zipped = probe.read(2) == b"\x1f\x8b"
    return cast("IO[bytes]", gzip.open(path, "rb") if zipped else path.open("rb"))


def _without(handle: IO[bytes], tags: tuple[str, ...]) -> Iterator[bytes]:
    """Yield the text without the elements of these names."""
    opening = re.compile(rb"<(" + "|".join(tags).encode() + rb")[ >]")
    rest, closing = b"", b""
    while True:
        chunk = handle.read(_CHUNK)
        rest += chunk
        kept: list[bytes] = []
        while True:
            if closing:
                end = rest.find(closing)
                if end < 0:
                    rest = rest[-_LONGEST_TAG:]
                    break
                rest, closing = rest[end + len(closing) :], b""
            found = opening.search(rest)
            if found is None:
                whole = len(rest) - (_LONGEST_TAG if chunk else 0)
                kept.append(rest[: max(whole, 0)])
                rest = rest[max(whole, 0) :]
                break
            kept.append(rest[: found.start()])
            rest, closing = rest[found.start() :], b"</" + found.group(1) + b">"
        if text := b"".join(kept):
            yield text
        if not chunk:
            return


def _energies(element: ET.Element) -> dict[str, float]:
    return {str(i.get("name")): number(i.text) for i in element if i.get("name") in _ENERGIES}


def number(text: str | None) -> float:
    """Return a printed number; NaN where VASP printed stars, or none."""
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def _block(element: ET.Element | None, rows: int, what: str) -> Array:
    if element is None:
        raise VasprunError(f"an ionic step has no {what}")
    text = " ".join(v.text or "" for v in element)
    try:
        values = np.array(text.split(), dtype=float)
    except ValueError:
        values = np.array([number(word) for word in text.split()])
    if values.shape != (3 * rows,):
        raise VasprunError(f"an ionic step has {len(values)} numbers as {what}; expected {3 * rows}")
    return values.reshape(rows, 3)


def _tags(element: ET.Element) -> dict[str, Any]:
    """Return the tags below an element, those of nested separators too; VASP repeats some in other senses later on."""
    found: dict[str, Any] = {}
    for item in element.iter():
        name = (item.get("name") or "").upper()
        if item.tag not in ("i", "v") or not name or name in found:
            continue
        words = (item.text or "").strip()
        if item.get("type") == "string":
            found[name] = words
        elif item.tag == "v":
            found[name] = [plain_value(name, w) for w in words.split()]
        else:
            found[name] = plain_value(name, words)
    return found


def _kpoints(element: ET.Element) -> KPoints:
    generation = element.find("generation")
    points = element.find("varray[@name='kpointlist']")
    count = 0 if points is None else len(points)
    if generation is None:
        return KPoints("", None, count)
    scheme = generation.get("param", "")
    words = (generation.findtext("v[@name='divisions']") or "").split()
    numbers = [int(w) for w in words if w.lstrip("-").isdigit()]
    divisions = (numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 else None
    shift = [number(w) for w in (generation.findtext("v[@name='usershift']") or "").split()]
    return KPoints(scheme, divisions if scheme in ("Gamma", "Monkhorst-Pack") else None, count, any(shift))


def _cells(row: ET.Element) -> list[str]:
    return [(c.text or "").strip() for c in row]


def _element(text: str) -> str:
    """Return the symbol of an atom; VASP prints two characters and calls some elements by a letter too few."""
    symbol = text.strip()
    return {"X": "Xe", "r": "Zr"}.get(symbol, symbol)


def _edges(element: ET.Element) -> tuple[float, float] | None:
    rows = [r.text or "" for r in element.iter("r")]
    values = np.array([[number(w) for w in row.split()[:2]] for row in rows if len(row.split()) >= 2])
    if not len(values):
        return None
    occupied = values[:, 1] > _OCCUPIED
    highest = float(values[occupied, 0].max()) if occupied.any() else float("-inf")
    lowest = float(values[~occupied, 0].min()) if (~occupied).any() else float("inf")
    return highest, lowest
