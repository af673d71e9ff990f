"""Which theory level a campaign labels at, and the key of one label. No torch, no VASP, no GPAW is imported."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePath
from typing import Any

from aqvolt_flows.identity import content_hash, content_key
from aqvolt_flows.potentials import model_hash
from aqvolt_flows.potentials.given import model_name
from aqvolt_flows.potentials.registry import model_version
from aqvolt_flows.schemas.provenance import Protocol

#: r2SCAN in libxc's names (Furness et al., J. Phys. Chem. Lett. 11, 8208 (2020)).
GPAW_XC = "MGGA_X_R2SCAN+MGGA_C_R2SCAN"


def installed_version(package: str) -> str:
    """Return the version of an installed package, or an empty string."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def surrogate_protocol(model: Any) -> Protocol:
    """Return the protocol of a potential as labeler: ``surrogate:<model>@<hash of its weights>``.

    The path of a checkpoint is reduced to its file name, so that the same weights are one protocol on
    every machine. A calculator or model object has a name and no hash: what it computes is not known here.

    Parameters
    ----------
    model
        Model string, or what :func:`aqvolt_flows.potentials.given.as_potential` takes.
    """
    if not isinstance(model, str):
        return Protocol(code="surrogate", version="", functional=model_name(model), settings_hash="")
    digest = model_hash(model)
    family, colon, path = model.partition(":")
    name = f"{family}:{PurePath(path).name}" if colon else model
    return Protocol(code="surrogate", version=model_version(model), functional=name, settings_hash=digest)


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


def label_key(frame_id: str, protocol: Protocol) -> str:
    """Return the key of one label: this frame at this theory level."""
    return content_key("label/1", frame_id=frame_id, protocol_id=protocol.protocol_id)
