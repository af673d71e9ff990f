"""The state in which a VASP molecular-dynamics run ended, and the input that continues it.

VASP writes CONTCAR after every ionic step: positions and cell of the step to come, the velocities of the cell (NpT)
and of the atoms (VASP wiki, POSCAR), and REPORT with the state of its random numbers (VASP wiki, RANDOM_SEED). Both
together continue a run; its first step is the one after the last that was written, so that none is made twice.
"""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aqvolt_flows.errors import InputError
from aqvolt_flows.vasp.outputs import Array, Calculation, Mesh, read_text

if TYPE_CHECKING:
    from pymatgen.core import Structure
    from pymatgen.io.vasp.inputs import Poscar

_SEED = re.compile(r"RANDOM_SEED\s*=\s*(-?\d+)\s+(-?\d+)\s+(-?\d+)")
GRID_TAGS = ("NGX", "NGY", "NGZ", "NGXF", "NGYF", "NGZF")
_GRID = re.compile(r"^\s*dimension x,y,z (NGXF?=? .*)$", re.MULTILINE)
_ALONG = re.compile(r"NG([XYZ])(F?)\s*=\s*(\d+)")


@dataclass(frozen=True, eq=False)
class MDState:
    """State that continues a run, in VASP's order of atoms.

    Attributes
    ----------
    contcar
        Text of CONTCAR, velocities included.
    unfolded
        (n_atoms, 3), fractional coordinates of the last step that was made, not folded into the cell.
    random_seed
        VASP's three numbers.
    kpoints
        Mesh of the first run; None in states of before, and where a run had no mesh.
    moments
        (n_atoms,), moments in the atoms' spheres at the end of the last run that printed them, μB; None: none did.
    magnetization
        Total of the cell at the last step, μB; None where OSZICAR does not say.
    grid
        NGX … NGZF of the run that made the present plane waves, tag → number; empty where OUTCAR does not say.
    """

    contcar: str
    unfolded: Array
    random_seed: tuple[int, int, int]
    kpoints: Mesh | None = None
    moments: list[float] | None = None
    magnetization: float | None = None
    grid: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the state as JSON text; the same state gives the same bytes."""
        plain = {
            "contcar": self.contcar,
            "unfolded": self.unfolded.tolist(),
            "random_seed": list(self.random_seed),
            "kpoints": None if self.kpoints is None else asdict(self.kpoints),
            "moments": self.moments,
            "magnetization": self.magnetization,
            "grid": self.grid,
        }
        return json.dumps(plain, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> MDState:
        """Return the state that :meth:`to_json` wrote."""
        plain = json.loads(data)
        a, b, c = plain["random_seed"]
        mesh = plain.get("kpoints")
        return cls(
            plain["contcar"],
            np.array(plain["unfolded"], dtype=float),
            (a, b, c),
            None if mesh is None else Mesh(tuple(mesh["divisions"]), mesh["gamma"]),
            plain.get("moments"),
            plain.get("magnetization"),
            plain.get("grid") or {},
        )

    def structure(self) -> Structure:
        """Return the structure to go on with; velocities of atoms and cell, and known moments, are its properties.

        Raises
        ------
        InputError
            If the text is not a whole CONTCAR with velocities.
        """
        try:
            found = read_poscar(self.contcar)
        except InputError as error:
            raise InputError(f"The CONTCAR to go on from cannot be read ({error}); start the run again.") from None
        structure = found.structure
        velocities = np.asarray(structure.site_properties.get("velocities") or [], dtype=float)
        if velocities.shape != (len(structure), 3) or not np.isfinite(velocities).all():
            raise InputError("The CONTCAR to go on from has no velocities of all atoms; start the run again.")
        structure.add_site_property("velocities", velocities.tolist())
        if self.moments is not None and len(self.moments) == len(structure):
            structure.add_site_property("magmom", [float(m) for m in self.moments])
        if found.lattice_velocities is not None:
            # the rows behind the velocities are the cell again, in fewer digits than the cell has above
            rates = np.asarray(found.lattice_velocities, dtype=float)[:3]
            cell = np.asarray(structure.lattice.matrix)
            structure.properties["lattice_velocities"] = np.concatenate([rates, cell]).tolist()
        return structure


def read_poscar(text: str) -> Poscar:
    """Return the text of a POSCAR or CONTCAR, read.

    Raises
    ------
    InputError
        If it is none, or cut short.
    """
    from pymatgen.io.vasp.inputs import BadPoscarWarning, Poscar

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Poscar.from_str(text)
    # pymatgen raises its warning where a line of coordinates is no numbers
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, BadPoscarWarning) as error:
        raise InputError(f"no whole POSCAR: {error}") from None


def random_seed(report: str) -> tuple[int, int, int] | None:
    """Return the last state of the random numbers in the text of REPORT, or None."""
    found = _SEED.findall(report)
    if not found:
        return None
    a, b, c = (int(x) for x in found[-1])
    return a, b, c


def fft_grid(outcar: str) -> dict[str, int]:
    """Return the FFT grids of a run as tags (NGX … NGZF), or empty where the text of OUTCAR does not tell them."""
    found = _GRID.findall(outcar)
    return {f"NG{axis}{fine}": int(n) for line in found[:2] for axis, fine, n in _ALONG.findall(line)}


def md_state(
    folder: Path, unfolded: Array, otherwise_seed: int, found: Calculation | None = None, before: MDState | None = None
) -> MDState | None:
    """Return the state that a run left in a folder, or None where no other run can go on from it.

    Parameters
    ----------
    folder
        With CONTCAR and REPORT.
    unfolded
        See :class:`MDState`.
    otherwise_seed
        Seed of the next run where REPORT has no state of the random numbers.
    found
        What the folder says, for mesh and moments.
    before
        The state that the run was started from; its mesh stays, its moments where the run printed none.
    """
    mesh, moments, magnetization = None, None, None
    grid = fft_grid(read_text(folder, "OUTCAR"))
    if found is not None:
        mesh, moments = found.kpoints, found.magmoms
        magnetization = found.magnetizations[-1] if found.magnetizations else None
    if before is not None:
        mesh, moments = before.kpoints or mesh, moments or before.moments
    seed = random_seed(read_text(folder, "REPORT")) or (otherwise_seed, 0, 0)
    state = MDState(read_text(folder, "CONTCAR"), unfolded, seed, mesh, moments, magnetization, grid)
    try:
        n_atoms = len(state.structure())
    except InputError:
        return None
    return state if n_atoms == len(unfolded) else None
