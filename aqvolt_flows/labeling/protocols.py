"""Which theory level a campaign labels at, and the key of one label. No torch, no VASP, no GPAW is imported."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePath
from typing import Any

from aqvolt_flows.errors import InputError
from aqvolt_flows.identity import content_hash, content_key
from aqvolt_flows.potentials import model_hash
from aqvolt_flows.schemas.parameters import LabelingParameters
from aqvolt_flows.schemas.provenance import Protocol
from aqvolt_flows.vasp.drift import check_installed, diff_with_installed
from aqvolt_flows.vasp.settings import r2scan_protocol

__all__ = [
    "check_installed",
    "diff_with_installed",
    "gpaw_protocol",
    "gpaw_settings",
    "label_key",
    "protocol_for",
    "surrogate_protocol",
]

#: r2SCAN in libxc's names (Furness et al., J. Phys. Chem. Lett. 11, 8208 (2020)).
GPAW_XC = "MGGA_X_R2SCAN+MGGA_C_R2SCAN"


def installed_version(package: str) -> str:
    """Return the version of an installed package, or an empty string."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def surrogate_protocol(model: str) -> Protocol:
    """Return the protocol of a potential as labeler: ``surrogate:<model>@<hash of its weights>``.

    The path of a checkpoint is reduced to its file name, so that the same weights are one protocol on
    every machine.
    """
    digest = model_hash(model)
    family, colon, path = model.partition(":")
    name = f"{family}:{PurePath(path).name}" if colon else model
    package = {"chgnet": "chgnet", "7net-mf-0": "sevenn", "fairchem": "fairchem-core"}.get(family.split("/")[0], "")
    installed = installed_version(package) if package else ""
    return Protocol(code="surrogate", version=installed, functional=name, settings_hash=digest)


def gpaw_settings(ecut_ev: float, kspacing: float) -> dict[str, Any]:
    """Return what defines GPAW's energy surface: functional, cutoff (eV), k-spacing (1/Å, with 2π), smearing."""
    return {
        "xc": GPAW_XC,
        "mode": "pw",
        "ecut_ev": float(ecut_ev),
        "kspacing": float(kspacing),
        "kpoints": "gamma-centred",
        "occupations": "fermi-dirac",
        "width_ev": 0.05,
        "energy_convergence_ev_per_electron": 1e-6,
        "spin": "polarised where MatPES gives an element a moment, else paired",
        "setups": "paw",
    }


def gpaw_protocol(ecut_ev: float, kspacing: float) -> Protocol:
    """Return the protocol of GPAW r2SCAN with plane waves."""
    return Protocol(
        code="gpaw",
        version=installed_version("gpaw"),
        functional="r2SCAN",
        settings_hash=content_hash(gpaw_settings(ecut_ev, kspacing)),
    )


def protocol_for(parameters: LabelingParameters) -> Protocol:
    """Return the protocol that a campaign's labeling parameters ask for.

    Raises
    ------
    InputError
        If the surrogate is unknown.
    ConfigError
        If the INCAR changes leave r2SCAN.
    """
    if parameters.labeler == "surrogate":
        return surrogate_protocol(parameters.surrogate)
    if parameters.labeler == "gpaw":
        return gpaw_protocol(parameters.gpaw_ecut_ev, parameters.gpaw_kspacing)
    if parameters.labeler == "vasp":
        return r2scan_protocol(parameters.incar_updates)
    raise InputError(f"There is no labeler {parameters.labeler!r}; known are vasp, gpaw and surrogate.")


def label_key(frame_id: str, protocol: Protocol) -> str:
    """Return the key of one label: this frame at this theory level."""
    return content_key("label/1", frame_id=frame_id, protocol_id=protocol.protocol_id)
