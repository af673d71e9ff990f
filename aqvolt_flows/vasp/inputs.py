"""Input sets, the command that starts VASP, and POTCARs (:mod:`aqvolt_flows.vasp.potcars`)."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aqvolt_flows.errors import ResourceError
from aqvolt_flows.vasp.potcars import POTCAR_VARIABLE, potcar_folder, potcar_hashes, potcar_report

if TYPE_CHECKING:
    from pymatgen.core import Structure
    from pymatgen.io.vasp.inputs import Kpoints
    from pymatgen.io.vasp.sets import MatPESStaticSet

    from aqvolt_flows.vasp.outputs import Mesh

__all__ = [
    "POTCAR_VARIABLE",
    "VASP_VARIABLE",
    "matpes_static_set",
    "mesh_file",
    "potcar_folder",
    "potcar_hashes",
    "potcar_report",
    "sorted_with_order",
    "vasp_command",
]

VASP_VARIABLE = "VASP_CMD"


def matpes_static_set(incar_updates: Mapping[str, Any] | None = None, kpoints: Mesh | None = None) -> MatPESStaticSet:
    """Return pymatgen's generator of a MatPES r2SCAN static (``GGA`` dropped, as atomate2's maker does).

    Parameters
    ----------
    incar_updates
        Tags that differ.
    kpoints
        A mesh for KPOINTS in the place of KSPACING, to keep that of an earlier cell.
    """
    from pymatgen.io.vasp.sets import MatPESStaticSet

    settings = {"GGA": None, **(incar_updates or {})}
    further: dict[str, Any] = {}
    if kpoints is not None:
        settings.pop("KSPACING", None)
        further["user_kpoints_settings"] = mesh_file(kpoints)
    return MatPESStaticSet(xc_functional="R2SCAN", user_incar_settings=settings, **further)


def mesh_file(mesh: Mesh) -> Kpoints:
    """Return KPOINTS of a mesh."""
    from pymatgen.io.vasp.inputs import Kpoints

    make = Kpoints.gamma_automatic if mesh.gamma else Kpoints.monkhorst_automatic
    return make(mesh.divisions)


def sorted_with_order(structure: Structure) -> tuple[Structure, list[int]]:
    """Return the structure as VASP gets it, species grouped, and the permutation to it.

    Returns
    -------
    structure, order
        Site ``i`` of the result is site ``order[i]`` of the structure given.
    """
    tagged = structure.copy()
    tagged.add_site_property("given_index", list(range(len(structure))))
    ordered = tagged.get_sorted_structure()
    order = [int(i) for i in ordered.site_properties["given_index"]]
    ordered.remove_site_property("given_index")
    return ordered, order


def vasp_command(given: str | None = None) -> str:
    """Return the command that starts VASP: the one given, or that of ``VASP_CMD``.

    Raises
    ------
    ResourceError
        If there is none, or its first word is no executable here.
    """
    command = given or os.environ.get(VASP_VARIABLE, "")
    if not command.strip():
        raise ResourceError(
            f"{VASP_VARIABLE} is not set; set it to the command that starts VASP, e.g. 'srun vasp_std', or choose "
            "another labeler."
        )
    first = shlex.split(os.path.expandvars(command))[0]
    if shutil.which(first) is None:
        raise ResourceError(
            f"{VASP_VARIABLE} starts with {first!r}, which is no executable here; correct it or load VASP's module."
        )
    return command
