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

#: Tags that say what is written to disk, how the SCF gets to its ground state, how the work is spread over
#: cores, or how atoms move. They do not define the potential-energy surface, so they are no part of a
#: protocol's identity: a static and a step of AIMD with the same remaining tags are one theory level.
_OUTPUT = "SYSTEM NWRITE LAECHG LCHARG LWAVE LORBIT LELF LVTOT LVHAR LVACPOTAV NEDOS EMIN EMAX LH5"
_SELF_CONSISTENCY = (
    "ALGO IALGO NELM NELMIN NELMDL TIME AMIX AMIX_MAG BMIX BMIX_MAG AMIN IMIX INIMIX MIXPRE MAXMIX WC LMAXMIX LMIXTAU "
    "ISEARCH ISTART ICHARG INIWAV LDIAG LSUBROT NBANDS ISYM SYMPREC MAGMOM IOPT"
)
_PARALLEL = "NCORE NPAR KPAR NSIM LPLANE LSCALAPACK LSCALU LASYNC"
_DYNAMICS = (
    "IBRION NSW POTIM TEBEG TEEND MDALGO ISIF LANGEVIN_GAMMA LANGEVIN_GAMMA_L PMASS PSTRESS SMASS NBLOCK KBLOCK "
    "RANDOM_SEED"
)
NOT_THEORY = frozenset(f"{_OUTPUT} {_SELF_CONSISTENCY} {_PARALLEL} {_DYNAMICS}".split())


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


def _plain(value: Any) -> Any:
    """Return one spelling per value: upper-case text, floats for numbers, lists for sequences."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, str):
        return value.strip().upper()
    if isinstance(value, int | float):
        return float(value)
    return [_plain(v) for v in value]


def theory(incar: Mapping[str, Any]) -> dict[str, Any]:
    """Return those tags of an INCAR that define the potential-energy surface, one spelling per value."""
    return {k.upper(): _plain(v) for k, v in incar.items() if k.upper() not in NOT_THEORY and v is not None}


def changes(expected: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return tag → (expected, seen) for the tags in which two mappings differ."""
    left, right = ({k.upper(): _plain(v) for k, v in m.items() if v is not None} for m in (expected, seen))
    return {k: (left.get(k), right.get(k)) for k in sorted(left.keys() | right.keys()) if left.get(k) != right.get(k)}


def static_incar(incar_updates: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the frozen INCAR with a campaign's changes; a MAGMOM or GGA among them is refused.

    Raises
    ------
    ConfigError
        If a change would leave r2SCAN or fix a structure-dependent tag.
    """
    updates = {k.upper(): v for k, v in (incar_updates or {}).items()}
    for tag in ("MAGMOM", "GGA", "NSW", "LDAU"):
        if tag in updates:
            raise ConfigError(f"labeling.incar_updates sets {tag}, which the r2SCAN static fixes; remove it.")
    if _plain(updates.get("METAGGA", "R2SCAN")) != "R2SCAN":
        raise ConfigError(f"labeling.incar_updates sets METAGGA to {updates['METAGGA']!r}; expected R2SCAN, remove it.")
    return frozen_incar() | updates


def settings_hash(incar: Mapping[str, Any]) -> str:
    """Return the settings hash of an INCAR's theory level with MatPES' POTCARs."""
    return content_hash(
        {"incar": theory(incar), "potcar_functional": potcar_functional(), "potcar": frozen_settings()["potcar"]}
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
        functional="r2SCAN",
        settings_hash=settings_hash(static_incar(incar_updates)),
        potcar_hashes=dict(potcar_hashes or {}),
    )
