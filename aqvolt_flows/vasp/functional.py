"""Which functional a VASP run has: one decision from INCAR, what VASP used, POTCAR titles and what a record says.

VASP takes METAGGA before GGA before the functional of the POTCARs (VASP wiki, METAGGA and GGA). Sources that contradict
each other are named and refused, because one of them is wrong about every number of the run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from aqvolt_flows.vasp.incar import plain_value

METAGGA = {
    "R2SCAN": "r2SCAN",
    "RSCAN": "rSCAN",
    "SCAN": "SCAN",
    "R2SCANL": "r2SCAN-L",
    "SCANL": "SCAN-L",
    "TPSS": "TPSS",
    "RTPSS": "revTPSS",
    "M06L": "M06-L",
    "MBJ": "mBJ",
    "HLE17": "HLE17",
    "MS0": "MS0",
    "MS1": "MS1",
    "MS2": "MS2",
}
#: VASP wiki, GGA: tags of two letters.
GGA = {
    "PE": "PBE",
    "PS": "PBEsol",
    "RP": "RPBE",
    "RE": "revPBE",
    "AM": "AM05",
    "91": "PW91",
    "OR": "optPBE",
    "BO": "optB88",
    "MK": "optB86b",
    "BF": "BEEF",
    "B3": "B3LYP",
    "B5": "B3LYP",
    "CA": "LDA",
}
#: First word of a POTCAR's TITEL → the functional it was made with (VASP wiki, available pseudopotentials).
_FAMILIES = {"PAW_PBE": "PBE", "PAW": "LDA", "PAW_LDA": "LDA", "PAW_GGA": "PW91", "US": "LDA", "NC": "LDA"}
_DISPERSION = {1: "D2", 10: "D2", 11: "D3", 12: "D3(BJ)", 13: "D4", 2: "TS", 20: "TS", 21: "TS", 202: "MBD", 4: "dDsC"}
#: A program's words that are no functional of their own: any GGA, any meta-GGA, or nothing.
_ANY_GGA = frozenset({"GGA"})
_SAYS_NOTHING = frozenset({"", "NONE", "UNKNOWN", "NULL", "--"})
#: First version that knows a functional without a patch (VASP wiki, METAGGA: R2SCAN as of 6.2.0).
FIRST_VERSION = {"r2SCAN": (6, 2, 0)}


class FunctionalError(ValueError):
    """Sources that contradict each other, or none at all; the message names them."""


def functional_of(
    incar: Mapping[str, Any],
    used: Mapping[str, Any] | None = None,
    titles: Iterable[str] = (),
    said: Any = None,
) -> str:
    """Return the functional of a run, e.g. ``r2SCAN``, ``PBE+U``, ``PBE+D3(BJ)``, ``HSE06``.

    Parameters
    ----------
    incar
        Tags as given.
    used
        What VASP says it used: ``parameters`` of vasprun.xml, or METAGGA and GGA of OUTCAR.
    titles
        TITEL of each POTCAR.
    said
        What a record calls it (``run_type``), also as an enum's dict.

    Raises
    ------
    FunctionalError
        If sources contradict each other, or none says anything.
    """
    given = {k.upper(): plain_value(k, v) for k, v in incar.items()}
    ran = {k.upper(): plain_value(k, v) for k, v in (used or {}).items()}
    families = _families(titles)
    base = _base(given, ran, families)
    name = _name(said)
    if base is None:
        if name is None:
            raise FunctionalError("neither INCAR nor POTCAR titles nor run_type say which functional it is")
        return name
    _refuse_family(base, families)
    found = base + _hubbard(given, ran) + _dispersion(given, ran)
    if name is not None and not _agree(name, found, base):
        raise FunctionalError(f"its run_type says {name}, its INCAR and POTCARs say {found}")
    return found


def _base(given: Mapping[str, Any], ran: Mapping[str, Any], families: list[str]) -> str | None:
    """Return the functional without corrections; None where nothing says it."""
    hybrid = given.get("LHFCALC", ran.get("LHFCALC"))
    if hybrid is True:
        return _hybrid({**ran, **given})
    meta = _one_of("METAGGA", given, ran)
    if meta is not None:
        return METAGGA.get(meta, meta)
    gga = _one_of("GGA", given, ran)
    if gga is not None:
        return GGA.get(gga, gga)
    return families[0] if families else None


def _one_of(tag: str, given: Mapping[str, Any], ran: Mapping[str, Any]) -> str | None:
    asked, seen = given.get(tag), ran.get(tag)
    if asked is not None and seen is not None and str(asked)[:6] != str(seen)[:6]:
        raise FunctionalError(f"INCAR says {tag} = {asked}, VASP used {seen}")
    found = asked if asked is not None else seen
    return None if found is None else str(found)


def _hybrid(tags: Mapping[str, Any]) -> str:
    exact, screening = _number(tags.get("AEXX"), 0.25), _number(tags.get("HFSCREEN"), 0.0)
    if exact == 1.0:
        return "HF"
    if tags.get("GGA") in ("B3", "B5"):
        return "B3LYP"
    if exact == 0.25 and 0.19 <= screening <= 0.21:
        return "HSE06"
    if exact == 0.25 and screening == 0.3:
        return "HSE03"
    if exact == 0.25 and not screening:
        return "PBE0"
    return f"hybrid(AEXX={exact:g},HFSCREEN={screening:g})"


def _number(value: Any, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else otherwise


def _families(titles: Iterable[str]) -> list[str]:
    words = [title.split() for title in titles]
    found = sorted({_FAMILIES[w[0].upper()] for w in words if w and w[0].upper() in _FAMILIES})
    if len(found) > 1:
        listed = ", ".join(" ".join(w[:2]) for w in words)
        raise FunctionalError(f"its POTCARs are of {' and '.join(found)} ({listed})")
    return found


def _refuse_family(base: str, families: list[str]) -> None:
    """Refuse LDA or PW91 pseudopotentials under another functional; those of PBE serve GGAs, meta-GGAs, hybrids."""
    if families and families[0] != "PBE" and base != families[0]:
        raise FunctionalError(f"its INCAR says {base}, its POTCARs are of {families[0]}")


def _hubbard(given: Mapping[str, Any], ran: Mapping[str, Any]) -> str:
    on = given.get("LDAU", ran.get("LDAU"))
    if on is not True:
        return ""
    both = {**ran, **given}
    values = [v for tag in ("LDAUU", "LDAUJ") for v in _list(both.get(tag))]
    return "+U" if not values or any(v != 0 for v in values) else ""


def _dispersion(given: Mapping[str, Any], ran: Mapping[str, Any]) -> str:
    both = {**ran, **given}
    if both.get("LUSE_VDW") is True:
        return "+rVV10" if both.get("METAGGA") else "+vdW-DF"
    if both.get("LVDW") is True:
        return "+D2"
    kind = both.get("IVDW")
    if isinstance(kind, float) and 0 < kind < 1e6:
        return f"+{_DISPERSION.get(int(kind), f'IVDW{kind:g}')}"
    return ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _name(said: Any) -> str | None:
    """Return a record's word for its functional; None where it says nothing."""
    value = said.get("value") if isinstance(said, Mapping) else getattr(said, "value", said)
    text = str(value or "").strip().removeprefix("RunType.")
    if text.upper() in _SAYS_NOTHING:
        return None
    base, plus, _ = re.sub(r"[_ ]U$", "+U", text, flags=re.IGNORECASE).partition("+")
    known = {key.upper(): name for table in (METAGGA, GGA) for key, name in table.items()}
    known |= {name.upper(): name for name in known.values()}
    return known.get(base.upper(), base) + (text[len(base) :].replace("_U", "+U") if plus or text != base else "")


def _agree(name: str, found: str, base: str) -> bool:
    said, _, more = name.partition("+")
    corrected = "+" in found
    if said.upper() in _ANY_GGA:
        fits = base in GGA.values()
    else:
        fits = said.upper() in (base.upper(), found.upper()) or found.upper().startswith(said.upper() + "-")
    return fits and ("U" in more.upper()) == ("+U" in found) and (bool(more) or not corrected or "+U" not in found)


def version_fault(functional: str, version: str) -> str | None:
    """Return why a version of VASP cannot have computed a functional, or None.

    Parameters
    ----------
    functional
        As :func:`functional_of` returns it.
    version
        As VASP prints it, e.g. ``6.4.1`` or ``5.4.4.18apr17-6-g9f103f2a35``; one that cannot be read is no fault.
    """
    first = FIRST_VERSION.get(functional.partition("+")[0])
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    if first is None or found is None:
        return None
    if tuple(int(part or 0) for part in found.groups()) >= first:
        return None
    wanted = ".".join(str(part) for part in first)
    return f"VASP {version} knows {functional} only if it was patched; expected {wanted} or later"
