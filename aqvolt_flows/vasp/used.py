"""What VASP used, beside what INCAR asked for: cutoffs, smearing, functional and the k-point mesh.

A KPOINTS file overrules KSPACING, and a tag that VASP does not know or cannot read is left out silently; INCAR alone
says neither.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aqvolt_flows.vasp.incar import plain_value
from aqvolt_flows.vasp.vasprun import Header

Array = NDArray[np.float64]

#: Tag → what vasprun.xml calls the value that was used.
_PARAMETERS = {
    "ENCUT": ("ENMAX", "ENCUT"),
    "ENAUG": ("ENAUG",),
    "EDIFF": ("EDIFF",),
    "ISMEAR": ("ISMEAR",),
    "SIGMA": ("SIGMA",),
    "ISPIN": ("ISPIN",),
    "LASPH": ("LASPH",),
    "LREAL": ("LREAL",),
    "PREC": ("PREC",),
    "METAGGA": ("METAGGA",),
}
#: Relative; OUTCAR and vasprun.xml print six to eight digits.
_SAME = 1e-5
#: Cells within this of a whole number of divisions may get either number, for the digits of the printed cell.
_EDGE = 1e-4


def used_level(header: Header) -> dict[str, Any]:
    """Return tag → value that VASP used, where the file says it; ``MESH`` and ``SCHEME`` are of the k-points."""
    used: dict[str, Any] = {}
    for tag, names in _PARAMETERS.items():
        value = next((header.parameters[n] for n in names if header.parameters.get(n) is not None), None)
        plain = plain_value(tag, value)
        if plain is not None:
            used[tag] = plain
    points = header.kpoints
    if points.divisions is not None:
        used["MESH"] = list(points.divisions)
    elif points.count > 1 or points.scheme:
        used["MESH"] = f"{points.scheme or 'a list'} of {points.count}"
    if points.scheme:
        used["SCHEME"] = points.scheme
    return used


def mesh_of(cell: Array, kspacing: float) -> list[tuple[int, ...]]:
    """Return the divisions that KSPACING gives a cell, along each vector one number, or two at an edge.

    Nᵢ = max(1, ⌈2π |bᵢ| / KSPACING⌉) (VASP wiki, KSPACING), bᵢ the reciprocal vectors without 2π.

    Parameters
    ----------
    cell
        (3, 3), Å, rows are vectors.
    kspacing
        1/Å, with 2π.
    """
    lengths = 2.0 * math.pi * np.linalg.norm(np.linalg.inv(np.asarray(cell, dtype=float)).T, axis=1) / kspacing
    return [tuple(sorted({max(1, math.ceil(x - _EDGE)), max(1, math.ceil(x + _EDGE))})) for x in lengths]


def used_changes(
    expected: Mapping[str, Any], used: Mapping[str, Any], cell: Array | None
) -> dict[str, tuple[Any, Any]]:
    """Return tag → (expected, used) for what VASP did otherwise than a theory level says.

    Parameters
    ----------
    expected
        :func:`aqvolt_flows.vasp.incar.theory` of the level.
    used
        From :func:`used_level`; what it does not say is not compared.
    cell
        (3, 3), Å, of the first ionic step, which the mesh was made for.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for tag, value in used.items():
        if tag in expected and tag not in ("MESH", "SCHEME") and not _same(tag, expected[tag], value):
            found[tag] = (expected[tag], value)
    spacing, mesh = expected.get("KSPACING"), used.get("MESH")
    if isinstance(spacing, float) and spacing > 0 and mesh is not None and cell is not None:
        wanted = mesh_of(cell, spacing)
        if isinstance(mesh, str) or any(n not in allowed for n, allowed in zip(mesh, wanted, strict=True)):
            listed = "×".join(str(allowed[0]) for allowed in wanted)
            seen = mesh if isinstance(mesh, str) else "×".join(str(n) for n in mesh)
            found["k-points"] = (f"{listed} (KSPACING {spacing:g})", seen)
        elif expected.get("KGAMMA", True) is True and used.get("SCHEME") == "Monkhorst-Pack":
            found["k-points"] = ("Gamma-centered", "Monkhorst-Pack")
    return found


def _same(tag: str, expected: Any, used: Any) -> bool:
    if isinstance(expected, bool) or isinstance(used, bool):
        on = expected if isinstance(expected, bool) else expected not in (None, 0.0)
        return bool(on) == bool(used)
    if isinstance(expected, float) and isinstance(used, float):
        return abs(expected - used) <= _SAME * max(abs(expected), abs(used))
    return str(expected)[:6] == str(used)[:6] if tag in ("PREC", "METAGGA") else expected == used
