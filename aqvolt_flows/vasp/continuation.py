"""The state in which a VASP molecular-dynamics run ended, and the input that continues it.

VASP writes CONTCAR after every ionic step: positions and cell of the step to come, the velocities of the cell (NpT)
and of the atoms (VASP wiki, POSCAR), and REPORT with the state of its random numbers (VASP wiki, RANDOM_SEED). Both
together continue a run; its first step is the one after the last that was written, so that none is made twice.
"""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aqvolt_flows.errors import InputError
from aqvolt_flows.vasp.outputs import Array, read_text

if TYPE_CHECKING:
    from pymatgen.core import Structure

_SEED = re.compile(r"RANDOM_SEED\s*=\s*(-?\d+)\s+(-?\d+)\s+(-?\d+)")


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
    """

    contcar: str
    unfolded: Array
    random_seed: tuple[int, int, int]

    def to_json(self) -> bytes:
        """Return the state as JSON text; the same state gives the same bytes."""
        plain = {"contcar": self.contcar, "unfolded": self.unfolded.tolist(), "random_seed": list(self.random_seed)}
        return json.dumps(plain, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> MDState:
        """Return the state that :meth:`to_json` wrote."""
        plain = json.loads(data)
        a, b, c = plain["random_seed"]
        return cls(plain["contcar"], np.array(plain["unfolded"], dtype=float), (a, b, c))

    def structure(self) -> Structure:
        """Return the structure to go on with; velocities of atoms and cell are its properties.

        Raises
        ------
        InputError
            If the text is not a whole CONTCAR with velocities.
        """
        from pymatgen.io.vasp.inputs import Poscar

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = Poscar.from_str(self.contcar)
        except (ValueError, IndexError, KeyError, TypeError) as error:
            raise InputError(f"The CONTCAR to go on from cannot be read ({error}); start the run again.") from None
        structure = found.structure
        velocities = np.asarray(structure.site_properties.get("velocities") or [], dtype=float)
        if velocities.shape != (len(structure), 3) or not np.isfinite(velocities).all():
            raise InputError("The CONTCAR to go on from has no velocities of all atoms; start the run again.")
        structure.add_site_property("velocities", velocities.tolist())
        if found.lattice_velocities is not None:
            # the rows behind the velocities are the cell again, in fewer digits than the cell has above
            rates = np.asarray(found.lattice_velocities, dtype=float)[:3]
            cell = np.asarray(structure.lattice.matrix)
            structure.properties["lattice_velocities"] = np.concatenate([rates, cell]).tolist()
        return structure


def md_state(folder: Path, unfolded: Array, otherwise_seed: int) -> MDState | None:
    """Return the state that a run left in a folder, or None where no other run can go on from it.

    Parameters
    ----------
    folder
        With CONTCAR and REPORT.
    unfolded
        See :class:`MDState`.
    otherwise_seed
        Seed of the next run where REPORT has no state of the random numbers.
    """
    seeds = _SEED.findall(read_text(folder, "REPORT"))
    random_seed = tuple(int(x) for x in seeds[-1]) if seeds else (otherwise_seed, 0, 0)
    state = MDState(read_text(folder, "CONTCAR"), unfolded, random_seed)  # type: ignore[arg-type]
    try:
        n_atoms = len(state.structure())
    except InputError:
        return None
    return state if n_atoms == len(unfolded) else None
