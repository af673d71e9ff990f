"""The theory level of MatPES r2SCAN, frozen, and the guard against a pymatgen that writes another.

``data/matpes_r2scan.json`` holds the INCAR (without structure-dependent MAGMOM), the POTCAR map and the
initial moments that ``MatPESStaticSet(xc_functional="R2SCAN")`` of pymatgen-core 2026.10.16 writes
(Kaplan et al., arXiv:2503.04070; AQVolt26, section 2.2: no PBE pre-step).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from aqvolt_flows.errors import ConfigError, InputError
from aqvolt_flows.identity import content_hash
from aqvolt_flows.schemas.provenance import Protocol
from aqvolt_flows.vasp.functional import functional_of
from aqvolt_flows.vasp.incar import NOT_THEORY, changes, plain_value, refused_update, theory

__all__ = [
    "FUNCTIONAL",
    "NOT_THEORY",
    "changes",
    "element_moment",
    "frozen_incar",
    "frozen_moments",
    "frozen_potcars",
    "frozen_settings",
    "potcar_functional",
    "potcar_symbol",
    "r2scan_protocol",
    "settings_hash",
    "spelled_hash",
    "static_incar",
    "theory",
]

FUNCTIONAL = "r2SCAN"


@cache
def frozen_settings() -> dict[str, Any]:
    """Return the frozen MatPES r2SCAN settings as shipped: INCAR, POTCAR symbols, moments."""
    text = resources.files("aqvolt_flows").joinpath("data/matpes_r2scan.json").read_text()
    return dict(json.loads(text))


def frozen_incar() -> dict[str, Any]:
    """Return the frozen INCAR as tag → value, without MAGMOM."""
    return dict(frozen_settings()["incar"])


def frozen_potcars() -> dict[str, str]:
    """Return the frozen map element → POTCAR symbol."""
    return dict(frozen_settings()["potcar"])


def frozen_moments() -> dict[str, float]:
    """Return the frozen map element → initial moment (μB)."""
    return {element: float(moment) for element, moment in frozen_settings()["magmom"].items()}


def potcar_functional() -> str:
    """Return the POTCAR release, ``PBE_64``."""
    return str(frozen_settings()["potcar_functional"])


def potcar_symbol(element: str) -> str:
    """Return the POTCAR that MatPES uses for an element, e.g. ``Li_sv``.

    Raises
    ------
    InputError
        If MatPES has none.
    """
    symbol = frozen_settings()["potcar"].get(element)
    if symbol is None:
        raise InputError(f"MatPES names no POTCAR for {element}; leave structures with it out of the candidates.")
    return str(symbol)


def element_moment(element: str) -> float:
    """Return the moment (μB) that MatPES starts an element with, 0 for those it does not list."""
    return float(frozen_settings()["magmom"].get(element, 0.0))


def static_incar(incar_updates: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the frozen INCAR with a campaign's changes; those that make no label, or another functional, are refused.

    Raises
    ------
    ConfigError
        If a change would leave r2SCAN, fix a tag that depends on the structure, or leave labels without a
        self-consistent energy or without stress (:func:`aqvolt_flows.vasp.incar.refused_update`).
    """
    updates = {k.upper(): v for k, v in (incar_updates or {}).items()}
    for tag, value in updates.items():
        why = refused_update(tag, value)
        if why:
            raise ConfigError(f"labeling.incar_updates sets {tag} to {value!r}: {why}; correct or remove it.")
    if plain_value("METAGGA", updates.get("METAGGA", "R2SCAN")) != "R2SCAN":
        raise ConfigError(f"labeling.incar_updates sets METAGGA to {updates['METAGGA']!r}; expected R2SCAN, remove it.")
    tags = frozen_incar() | updates
    functional = functional_of(tags)
    if functional != FUNCTIONAL:
        more = ", ".join(sorted(updates))
        raise ConfigError(f"labeling.incar_updates ({more}) makes {functional} of {FUNCTIONAL}; remove what does.")
    return tags


def settings_hash(incar: Mapping[str, Any]) -> str:
    """Return the settings hash of an INCAR's theory level with MatPES' POTCARs."""
    return spelled_hash(theory(incar))


def spelled_hash(tags: Mapping[str, Any]) -> str:
    """Return the settings hash of an INCAR's theory level with its tags as they stand, not normalized."""
    return content_hash(
        {"incar": dict(tags), "potcar_functional": potcar_functional(), "potcar": frozen_settings()["potcar"]}
    )


def r2scan_protocol(
    incar_updates: Mapping[str, Any] | None = None,
    version: str = "",
    potcar_hashes: Mapping[str, str] | None = None,
) -> Protocol:
    """Return the protocol of a VASP r2SCAN calculation with MatPES settings.

    Parameters
    ----------
    incar_updates
        A campaign's changes to the frozen INCAR.
    version
        VASP's version where it is known (after a run); no part of the identity.
    potcar_hashes
        Element → SHA-256 of its POTCAR where known; no part of the identity.
    """
    return Protocol(
        code="vasp",
        version=version,
        functional=FUNCTIONAL,
        settings_hash=settings_hash(static_incar(incar_updates)),
        potcar_hashes=dict(potcar_hashes or {}),
    )
