"""A reader of OUTCAR for folders without vasprun.xml: line by line, one ionic step in memory at a time.

OUTCAR prints positions with five decimals and forces with six, vasprun.xml both with eight; where both are there,
vasprun.xml is read.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.vasp.incar import plain_value
from aqvolt_flows.vasp.vasprun import Header, KPoints, RawStep, number

Array = NDArray[np.float64]

_NUMBER = r"[-+]?\d*\.\d+(?:[ED][-+]?\d+)?|\*{3,}|NaN"
_FLOAT = re.compile(_NUMBER, re.IGNORECASE)
#: A run with dispersion prints a second number, without it, behind each of these.
_TOTEN = re.compile(rf"free\s+energy\s+TOTEN\s*=\s*({_NUMBER})", re.IGNORECASE)
_EXTRAPOLATED = re.compile(rf"entropy\s*=\s*({_NUMBER}).*energy\(sigma->0\)\s*=\s*({_NUMBER})", re.IGNORECASE)
#: Tags that OUTCAR lists as used, before the first iteration.
_USED = re.compile(
    r"(?:^|;)\s*(PREC|ISPIN|ICHARG|LASPH|ENCUT|ENAUG|NELM|EDIFF|LREAL|NSW|IBRION|ISIF|PSTRESS|TEBEG|TEEND|ISMEAR|SIGMA"
    r"|LDAU|GGA|LHFCALC|AEXX|HFSCREEN|IVDW|LUSE_VDW|NELECT|MDALGO|IMAGES|LEPSILON|ML_LMLFF)\s*=\s*([^;\s]+)"
)
_METAGGA = re.compile(r"^\s*METAGGA\s*=\s*([A-Z0-9]{3,}\w*)", re.IGNORECASE)
_ECHO = re.compile(r"^\s*([A-Z][A-Z0-9_]*)\s*=\s*(.*)$")
_MESH = re.compile(r"generate k-points for:\s+(\d+)\s+(\d+)\s+(\d+)")


class OutcarReader:
    """Read one OUTCAR, gzip-ed or not; the same interface as :class:`~aqvolt_flows.vasp.vasprun.VasprunReader`.

    Parameters
    ----------
    path
        The file.

    Attributes
    ----------
    header
        Whole from the first ionic step on.
    problem
        Why the file could not be read to its end, or what it lacks; empty for a whole file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.header, self.problem = path, Header(), ""
        self._potcars: list[str] = []
        self._species: list[str] = []
        self._counts: list[int] = []
        self._cell: Array | None = None
        self._stress: Array | None = None
        self._table: Array | None = None
        self._toten = float("nan")
        self._electronic: list[dict[str, float]] = []

    def steps(self) -> Iterator[RawStep]:
        """Yield whole ionic steps in order; where the file is damaged they end, and :attr:`problem` says why."""
        try:
            with _opened(self.path) as handle:
                yield from self._read(handle)
        except (EOFError, OSError, zlib.error) as error:
            self.problem = f"it cannot be read ({error})"

    def bandgap(self) -> float | None:
        """Return None: OUTCAR's table of levels is not read."""
        return None

    def _read(self, handle: IO[str]) -> Iterator[RawStep]:
        lines = iter(handle)
        in_incar, started = False, False
        for line in lines:
            if not started:
                in_incar = self._head(line, lines, in_incar)
                started = "Iteration" in line
            elif "free energy    TOTEN" in line or "free  energy   TOTEN" in line:
                found = _TOTEN.search(line)
                self._toten = number(found.group(1)) if found else float("nan")
            elif "energy(sigma->0)" in line:
                step = self._energy(line)
                if step is not None:
                    yield step
            elif line.startswith("  in kB"):
                values = np.array([number(w) for w in _FLOAT.findall(line)])
                if values.shape == (6,):
                    xx, yy, zz, xy, yz, zx = values
                    self._stress = np.array([[xx, xy, zx], [xy, yy, yz], [zx, yz, zz]])
            elif "direct lattice vectors" in line:
                self._cell = _rows(lines, 3, 3)
            elif "TOTAL-FORCE (eV/Angst)" in line:
                next(lines, "")
                self._table = _rows(lines, sum(self._counts), 6)

    def _head(self, line: str, lines: Iterator[str], in_incar: bool) -> bool:
        """Take a line before the first iteration; return whether the next one is of the echoed INCAR."""
        head = self.header
        if not head.version and (found := re.match(r"\s*vasp\.(\S+)", line)):
            head.version = found.group(1).lower()
        elif line.startswith(" INCAR:"):
            return True
        elif line.startswith(" POTCAR:"):
            self._potcars.append(line.partition(":")[2].strip())
        elif in_incar:
            if tag := _ECHO.match(line):
                head.incar[tag.group(1)] = plain_value(tag.group(1), tag.group(2).strip())
            return True
        elif "TITEL" in line:
            head.titles.append(line.partition("=")[2].strip())
        elif "VRHFIN" in line:
            self._species.append(line.partition("=")[2].partition(":")[0].strip())
        elif "ions per type" in line:
            self._counts = [int(w) for w in line.partition("=")[2].split() if w.isdigit()]
            self._name_species()
        elif "direct lattice vectors" in line:
            self._cell = _rows(lines, 3, 3)
        elif mesh := _MESH.search(line):
            divisions = (int(mesh.group(1)), int(mesh.group(2)), int(mesh.group(3)))
            head.kpoints = KPoints("", divisions, head.kpoints.count)
        elif count := re.search(r"k-points\s+NKPTS =\s*(\d+)", line):
            head.kpoints = KPoints("", head.kpoints.divisions, int(count.group(1)))
        elif meta := _METAGGA.match(line):
            head.parameters["METAGGA"] = plain_value("METAGGA", meta.group(1))
        else:
            for tag_, value in _USED.findall(line):
                head.parameters.setdefault(tag_, plain_value(tag_, value))
        return False

    def _name_species(self) -> None:
        """Give every atom its element; with NWRITE = 0 the POTCARs are named only in a list, which comes twice."""
        kinds = len(self._counts)
        if not self.header.titles:
            self.header.titles = self._potcars[:kinds]
            self._species = [t.split()[1].partition("_")[0] for t in self.header.titles if len(t.split()) > 1]
        if len(self._species) == kinds:
            self.header.symbols = [s for s, n in zip(self._species, self._counts, strict=True) for _ in range(n)]

    def _energy(self, line: str) -> RawStep | None:
        found = _EXTRAPOLATED.search(line)
        if found is None:
            return None
        without, zero = number(found.group(1)), number(found.group(2))
        energy = {"e_fr_energy": self._toten, "e_wo_entrp": without, "e_0_energy": zero}
        if "energy without" in line:
            self._electronic.append(energy)
            return None
        table, stress, electronic = self._table, self._stress, self._electronic
        self._table, self._stress, self._electronic = None, None, []
        n_atoms = sum(self._counts)
        if self._cell is None or table is None or table.shape != (n_atoms, 6) or not self.header.symbols:
            return None
        if not np.isfinite(self._cell).all() or abs(np.linalg.det(self._cell)) < 1e-9:
            return None
        fractional: Array = np.asarray(np.linalg.solve(self._cell.T, table[:, :3].T).T, dtype=float)
        return RawStep(self._cell, fractional, table[:, 3:], stress, energy, electronic)


def _opened(path: Path) -> IO[str]:
    with path.open("rb") as probe:
        zipped = probe.read(2) == b"\x1f\x8b"
    options: dict[str, Any] = {"mode": "rt", "encoding": "utf-8", "errors": "replace"}
    return cast("IO[str]", gzip.open(path, **options) if zipped else path.open(**{**options, "mode": "r"}))


def _rows(lines: Iterator[str], count: int, width: int) -> Array | None:
    """Return the next lines as numbers, the first ``width`` of each; None where they are not that many."""
    rows = []
    for _ in range(count):
        found = _FLOAT.findall(next(lines, ""))
        if len(found) < width:
            return None
        rows.append([number(word) for word in found[:width]])
    return np.array(rows)
