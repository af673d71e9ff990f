"""The charge density of a host, by the first source that has one, or why there is none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymatgen.core import Structure

from aqvolt_flows.candidates.density import aeccar_files, fetch_aeccars, promolecular_density, read_aeccars
from aqvolt_flows.candidates.framework import primitive_cell
from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import content_hash, file_sha256
from aqvolt_flows.schemas.generation import LithiationParameters
from aqvolt_flows.schemas.provenance import Failure
from aqvolt_flows.settings import AqvoltSettings

if TYPE_CHECKING:
    from pymatgen.io.vasp import Chgcar

#: Why a host has no usable density; each is planned again once its files have changed.
DENSITY_REASONS = ("bad_density", "no_charge_density", "other_structure")


def find_density(
    host: dict[str, Any], structure: Structure, parameters: LithiationParameters, settings: AqvoltSettings
) -> tuple[Chgcar, dict[str, Any]] | Failure:
    """Return the host's charge density and where it is from.

    A host whose folder holds one of the two files gets no density from another source: its files are to be mended.

    Returns
    -------
    tuple or Failure
        ``no_charge_density`` if no source has one, ``bad_density`` if a file is missing or broken, ``other_structure``
        if the density is of another crystal.
    """
    density: Chgcar | None = None
    origin: dict[str, Any] = {}
    for source in parameters.densities:
        try:
            if source == "files":
                density, origin = _from_files(host, parameters, settings)
            elif source == "bucket":
                density, origin = _from_bucket(host)
            else:
                cell = primitive_cell(structure) if parameters.cell == "primitive" else structure
                density = promolecular_density(cell, parameters.promolecular_spacing_a)
                origin = {"density": "promolecular", "density_spacing_a": parameters.promolecular_spacing_a}
        except InputError as error:
            return Failure(reason="bad_density", message=str(error))
        if density is not None:
            break
    if density is None:
        return Failure(reason="no_charge_density", message=f"no density from {', '.join(parameters.densities)}")
    other = Structure.from_sites(list(density.structure))
    if not _same_crystal(structure, other):
        where = origin.get("density_folder") or f"{origin['density']} {origin.get('density_id', '')}".strip()
        same = other.composition.reduced_formula == structure.composition.reduced_formula
        seen = f"another {other.composition.reduced_formula}" if same else other.composition.reduced_formula
        said = f"the density of {where} is of {seen}; expected one of this {structure.composition.reduced_formula}"
        return Failure(reason="other_structure", message=said)
    return density, origin


def _same_crystal(structure: Structure, other: Structure) -> bool:
    """Return whether two cells are of one crystal; a distortion may hide the translations of either of them."""
    from pymatgen.core.structure_matcher import StructureMatcher

    if StructureMatcher().fit(structure, other):
        return True
    return bool(StructureMatcher(primitive_cell=False, attempt_supercell=True).fit(structure, other))


def density_folder(host: dict[str, Any], parameters: LithiationParameters, settings: AqvoltSettings) -> Path | None:
    """Return the folder that holds at least one of a host's AECCAR files, by candidate_id, name or identifier."""
    if parameters.aeccar_folder is None or "files" not in parameters.densities:
        return None
    root = settings.path(parameters.aeccar_folder)
    for name in (host["candidate_id"], host["name"], _record_id(host)):
        if name and "/" not in name and any(aeccar_files(root / name)):
            return root / name
    return None


def density_fingerprint(host: dict[str, Any], parameters: LithiationParameters, settings: AqvoltSettings) -> str | None:
    """Return a hash of the host's AECCAR files as they are now; None without any."""
    folder = density_folder(host, parameters, settings)
    if folder is None:
        return None
    return content_hash([file_sha256(path) if path else None for path in aeccar_files(folder)])


def _record_id(host: dict[str, Any]) -> str | None:
    value = (host.get("provenance") or {}).get("record_id")
    return str(value) if value else None


def _from_files(
    host: dict[str, Any], parameters: LithiationParameters, settings: AqvoltSettings
) -> tuple[Chgcar | None, dict[str, Any]]:
    folder = density_folder(host, parameters, settings)
    if folder is None:
        return None, {}
    relative = str(Path(str(parameters.aeccar_folder)) / folder.name)
    return read_aeccars(folder), {"density": "files", "density_id": folder.name, "density_folder": relative}


def _from_bucket(host: dict[str, Any]) -> tuple[Chgcar | None, dict[str, Any]]:
    provenance = host.get("provenance") or {}
    for task_id in dict.fromkeys([*(provenance.get("task_ids") or []), *filter(None, [_record_id(host)])]):
        if str(task_id).startswith(("mp-", "mvc-")) and (density := fetch_aeccars(str(task_id))) is not None:
            return density, {"density": "bucket", "density_id": str(task_id)}
    return None, {}
