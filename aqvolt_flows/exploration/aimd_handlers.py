"""custodian's handlers for a run of MD: what they start again goes on where it stood, and makes no step too many.

custodian's own copy CONTCAR to POSCAR and leave NSW and RANDOM_SEED as they were: VASP would make all steps once more,
with the noise of the first ones, and on the mesh that KSPACING gives for another cell. Import this only where VASP
runs; it needs custodian.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from custodian.vasp.handlers import FrozenJobErrorHandler, VaspErrorHandler
from custodian.vasp.interpreter import VaspModder
from pymatgen.io.vasp.inputs import Incar

from aqvolt_flows.vasp.continuation import GRID_TAGS, random_seed
from aqvolt_flows.vasp.inputs import mesh_file
from aqvolt_flows.vasp.outputs import read_calculation, read_text

#: Notes which run was counted: two handlers may correct one run.
_COUNTED = "aimd_counted"
_STEP = re.compile(r"^\s*\d+ T=", re.MULTILINE)


class _GoesOn:
    """Lets an MD that is started from CONTCAR make the steps that are left, with the noise that follows."""

    def correct(self, directory: str = "./") -> dict[str, Any]:
        """Correct as custodian does; then set what the run needs that VASP starts next."""
        folder = Path(directory)
        made = len(_STEP.findall(read_text(folder, "OSZICAR")))
        done: dict[str, Any] = super().correct(directory)  # type: ignore[misc]
        actions = list(done.get("actions") or [])
        if actions:
            goes_on = any(action.get("file") == "CONTCAR" for action in actions)
            done["actions"] = [*actions, *without_orbitals(folder), *(go_on(folder, made) if goes_on else [])]
        return done


def without_orbitals(folder: Path) -> list[dict[str, Any]]:
    """Let VASP make its plane waves again where a handler removed the orbitals, and return custodian's actions."""
    incar = Incar.from_file(folder / "INCAR")
    if int(incar.get("ISTART", 0)) != 2 or (folder / "WAVECAR").is_file():
        return []
    grids = {tag: 1 for tag in GRID_TAGS if tag in incar}  # those of the basis that is gone
    return _apply(folder, {"_set": {"ISTART": 0}} | ({"_unset": grids} if grids else {}))


def go_on(folder: Path, made: int) -> list[dict[str, Any]]:
    """Set what is left of a run in the INCAR of a folder, once for each run, and return custodian's actions.

    Parameters
    ----------
    folder
        Of the run, CONTCAR already copied to POSCAR.
    made
        Whole ionic steps that it made.
    """
    run = hashlib.sha256(read_text(folder, "OSZICAR").encode()).hexdigest()
    note = folder / _COUNTED
    if not made or (note.is_file() and note.read_text() == run):
        return []
    note.write_text(run)
    incar = Incar.from_file(folder / "INCAR")
    tags: dict[str, Any] = {"NSW": max(1, int(incar.get("NSW", 1)) - made)}
    seed = random_seed(read_text(folder, "REPORT"))
    if seed is not None:
        tags["RANDOM_SEED"] = list(seed)
    found = read_calculation(folder, eigenvalues=False, partial=True)
    if found.magmoms is not None:
        tags["MAGMOM"] = found.magmoms
    if found.kpoints is not None and not (folder / "KPOINTS").is_file():
        mesh_file(found.kpoints).write_file(str(folder / "KPOINTS"))  # KSPACING would make another mesh of this cell
    return _apply(folder, {"_set": tags})


def _apply(folder: Path, action: dict[str, Any]) -> list[dict[str, Any]]:
    actions = [{"dict": "INCAR", "action": action}]
    VaspModder(directory=str(folder)).apply_actions(actions)
    return actions


class MDErrorHandler(_GoesOn, VaspErrorHandler):
    """Errors that VASP prints."""


class MDFrozenHandler(_GoesOn, FrozenJobErrorHandler):
    """A run that has written nothing for six hours."""
