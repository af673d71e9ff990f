"""Input sets and POTCARs."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aqvolt_flows.errors import ResourceError
from aqvolt_flows.vasp.settings import potcar_functional, potcar_symbol

if TYPE_CHECKING:
    from pymatgen.core import Structure
    from pymatgen.io.vasp.inputs import PotcarSingle
    from pymatgen.io.vasp.sets import MatPESStaticSet

VASP_VARIABLE = "VASP_CMD"
POTCAR_VARIABLE = "PMG_VASP_PSP_DIR"


def matpes_static_set(incar_updates: Mapping[str, Any] | None = None) -> MatPESStaticSet:
    """Return pymatgen's generator of a MatPES r2SCAN static (``GGA`` dropped, as atomate2's maker does)."""
    from pymatgen.io.vasp.sets import MatPESStaticSet

    return MatPESStaticSet(xc_functional="R2SCAN", user_incar_settings={"GGA": None, **(incar_updates or {})})


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


def potcar_folder() -> Path:
    """Return the folder of POTCARs that pymatgen is configured with.

    Raises
    ------
    ResourceError
        If none is configured, or it is not there.
    """
    from pymatgen.core import SETTINGS

    folder = SETTINGS.get(POTCAR_VARIABLE) or os.environ.get(POTCAR_VARIABLE)
    if not folder:
        raise ResourceError(
            f"{POTCAR_VARIABLE} is not set; set it to the folder that 'pmg config -p' made from your licensed VASP "
            "pseudopotentials, or choose another labeler."
        )
    if not Path(folder).is_dir():
        raise ResourceError(f"{POTCAR_VARIABLE} names {folder}, which is not a folder; correct it.")
    return Path(folder)


def read_potcar(element: str) -> PotcarSingle:
    """Return the POTCAR of an element, from the configured folder.

    Raises
    ------
    ResourceError
        If it is not there.
    """
    from pymatgen.io.vasp.inputs import PotcarSingle

    symbol, release = potcar_symbol(element), potcar_functional()
    with warnings.catch_warnings():
        # pymatgen warns of POTCARs it does not know; the hash that we record says which one it is.
        warnings.simplefilter("ignore")
        try:
            return PotcarSingle.from_symbol_and_functional(symbol, release)
        except (OSError, ValueError, KeyError) as error:
            raise ResourceError(
                f"The POTCAR {symbol} of {release} for {element} cannot be read ({error}); add it to the folder that "
                f"{POTCAR_VARIABLE} names."
            ) from None


def potcar_sha256(data: str) -> str:
    """Return the SHA-256 of a POTCAR's text up to its end mark, without white space at the ends of lines.

    The same dataset hashes the same from a file of its own and from a POTCAR of several.
    """
    dataset = data.partition("End of Dataset")[0].strip()
    return hashlib.sha256("\n".join(line.rstrip() for line in dataset.splitlines()).encode()).hexdigest()


def potcar_hashes(elements: Iterable[str]) -> dict[str, str]:
    """Return element → SHA-256 of its POTCAR; raises :class:`ResourceError` naming all that are missing."""
    potcar_folder()
    found: dict[str, str] = {}
    missing: list[str] = []
    for element in sorted(set(elements)):
        try:
            found[element] = potcar_sha256(read_potcar(element).data)
        except ResourceError:
            missing.append(f"{element} ({potcar_symbol(element)})")
    if missing:
        raise ResourceError(
            f"POTCARs of {potcar_functional()} are missing for {', '.join(missing)}; add them to the folder that "
            f"{POTCAR_VARIABLE} names."
        )
    return found
