"""Reading INCAR, POSCAR, KPOINTS and POTCAR as VASP does, with VASP's complaints."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np


class VaspError(Exception):
    """What VASP says before it stops."""


@dataclass
class Dataset:
    title: str
    element: str
    valence: float
    mass: float
    radius: float
    atom_energy: float


@dataclass
class Cell:
    comment: str
    lattice: np.ndarray
    names: list[str]
    counts: list[int]
    fractional: np.ndarray

    @property
    def types(self) -> list[int]:
        return [t for t, n in enumerate(self.counts) for _ in range(n)]


LOGICAL = {
    ".TRUE.": True,
    "T": True,
    "TRUE": True,
    ".T.": True,
    ".FALSE.": False,
    "F": False,
    "FALSE": False,
    ".F.": False,
}


def read_incar(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise VaspError("INCAR: No such file or directory")
    tags = {}
    for line in re.split(r"[\n;]", path.read_text()):
        name, equals, value = line.partition("#")[0].partition("!")[0].partition("=")
        if equals:
            tags[name.strip().upper()] = value.strip()
    return tags


def number(tags: dict[str, str], name: str, default: float) -> float:
    try:
        return float(tags.get(name, default))
    except ValueError:
        raise VaspError(f"Error reading item '{name}' from file INCAR.") from None


def logical(tags: dict[str, str], name: str, default: bool) -> bool:
    return LOGICAL.get(tags[name].upper(), default) if name in tags else default


def vector(tags: dict[str, str], name: str, size: int) -> list[float] | None:
    if name not in tags:
        return None
    values: list[float] = []
    for word in tags[name].split():
        count, star, value = word.partition("*")
        values += [float(value)] * int(count) if star else [float(word)]
    if len(values) < size:
        raise VaspError(
            f"Error reading item '{name}' from file INCAR.\n Error code was IERR=0 Found N= {len(values):8d} data."
        )
    return values[:size]


def read_poscar(path: Path) -> Cell:
    if not path.is_file():
        raise VaspError("ERROR: there must be 1 or 3 items on line 2 of POSCAR")
    lines = path.read_text().splitlines()
    try:
        lattice = float(lines[1]) * np.array([[float(x) for x in line.split()[:3]] for line in lines[2:5]])
        names = lines[5].split()
        counts = [int(x) for x in lines[6].split()]
        total = sum(counts)
        direct = lines[7].strip().lower().startswith("d")
        rows = np.array([[float(x) for x in line.split()[:3]] for line in lines[8 : 8 + total]])
    except (IndexError, ValueError) as error:
        raise VaspError(f"ERROR: the POSCAR could not be read ({error})") from None
    if rows.shape != (total, 3):
        raise VaspError(f"No initial positions read in: {rows.shape[0]} of {total}")
    if np.linalg.det(lattice) < 0:
        raise VaspError("ERROR: the triple product of the basis vectors is negative exchange two basis vectors")
    fractional = rows if direct else rows @ np.linalg.inv(lattice)
    apart = fractional[:, None, :] - fractional[None, :, :]
    close = np.linalg.norm((apart - np.round(apart)) @ lattice, axis=-1) < 1e-3
    if close.sum() > total:
        raise VaspError("VERY BAD NEWS! internal error in subroutine SGRCON:\n Found some non-integer element")
    return Cell(
        lines[0].strip(), lattice, [n.split("_")[0].split("/")[0] for n in names], counts, np.mod(fractional, 1.0)
    )


def check_incar(tags: dict[str, str]) -> None:
    """Stop at what VASP stops at in an INCAR of these calculations."""
    functional = tags.get("METAGGA", "--").upper()
    if functional not in {"--", "NONE", "TPSS", "RTPSS", "M06L", "MBJ", "SCAN", "RSCAN", "R2SCAN", "SCANL", "MS2"}:
        raise VaspError("Error reading item 'METAGGA' from file INCAR.")
    if tags.get("PREC", "N")[:1].upper() not in "LMHNAS":
        raise VaspError("Error reading item 'PREC' from file INCAR.")
    for name in ("ENCUT", "EDIFF", "SIGMA", "NELM"):
        if name in tags and number(tags, name, 1.0) <= 0:
            raise VaspError(f"Error reading item '{name}' from file INCAR.")


def read_potcar(path: Path) -> list[Dataset]:
    if not path.is_file():
        raise VaspError("ERROR: POTCAR: No such file or directory")
    datasets = []
    for block in re.split(r"End of Dataset[^\n]*\n?", path.read_text()):
        if not block.strip():
            continue

        def keyword(name: str, text: str = block) -> str:
            found = re.search(rf"\b{name}\s*=\s*([^;\n]+)", text)
            if found is None:
                raise VaspError(f"ERROR: POTCAR lacks {name}")
            return found.group(1).strip()

        datasets.append(
            Dataset(
                title=keyword("TITEL"),
                element=keyword("VRHFIN").split(":")[0].strip(),
                valence=float(keyword("ZVAL").split()[0]),
                mass=float(keyword("POMASS").split()[0]),
                radius=float(keyword("RWIGS").split()[0]),
                atom_energy=float(keyword("EATOM").split()[0]),
            )
        )
    return datasets


def match(cell: Cell, datasets: list[Dataset]) -> list[str]:
    """Return VASP's warnings; POTCAR wins over the names in POSCAR, a wrong number of datasets stops VASP."""
    if len(datasets) != len(cell.counts):
        raise VaspError(
            "ERROR: number of potentials on File POTCAR incompatible with number\n       of species : "
            f"{len(datasets)} {len(cell.counts)}"
        )
    if [d.element for d in datasets] == cell.names:
        return []
    cell.names = [d.element for d in datasets]
    return [
        "The type information on POSCAR and POTCAR are incompatible. POTCAR",
        "overwrites the type information in POSCAR.",
    ]


def divisions(cell: Cell, tags: dict[str, str], kpoints: Path) -> tuple[int, int, int]:
    """Return the mesh of KPOINTS, or of KSPACING (default 0.5) where there is none."""
    if kpoints.is_file():
        lines = kpoints.read_text().splitlines()
        if len(lines) < 4 or int(lines[1].split()[0]) != 0:
            raise VaspError("ERROR: only automatic meshes are known to this stand-in")
        a, b, c = (int(x) for x in lines[3].split()[:3])
        return a, b, c
    spacing = number(tags, "KSPACING", 0.5)
    if spacing <= 0:
        raise VaspError("Error reading item 'KSPACING' from file INCAR.")
    reciprocal = 2 * np.pi * np.linalg.norm(np.linalg.inv(cell.lattice).T, axis=1)
    a, b, c = (max(1, int(np.ceil(x / spacing - 1e-8))) for x in reciprocal)
    return a, b, c
