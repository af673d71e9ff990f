"""INCAR tags: one spelling for each value, what a tag is there for, and which values make no label at all.

A tag belongs to the *level* (it defines the potential-energy surface, and with it the protocol), or only to the *path*
to it (output, convergence, parallel work, motion of atoms). Tags that are not named here count as level, so that
nothing unknown is mixed silently.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

#: Path: what is written to disk.
_OUTPUT = "SYSTEM NWRITE LAECHG LCHARG LWAVE LORBIT LELF LVTOT LVHAR LVACPOTAV NEDOS EMIN EMAX LH5"
#: Path: how the SCF gets to its ground state.
_SELF_CONSISTENCY = (
    "ALGO IALGO NELM NELMIN NELMDL TIME AMIX AMIX_MAG BMIX BMIX_MAG AMIN IMIX INIMIX MIXPRE MAXMIX WC LMAXMIX LMIXTAU "
    "ISEARCH ISTART ICHARG INIWAV LDIAG LSUBROT NBANDS ISYM SYMPREC MAGMOM IOPT"
)
#: Path: how the work is spread over cores.
_PARALLEL = "NCORE NPAR KPAR NSIM LPLANE LSCALAPACK LSCALU LASYNC"
#: Path: how atoms move.
_DYNAMICS = (
    "IBRION NSW POTIM TEBEG TEEND MDALGO ISIF LANGEVIN_GAMMA LANGEVIN_GAMMA_L PMASS PSTRESS SMASS NBLOCK KBLOCK "
    "RANDOM_SEED"
)
NOT_THEORY = frozenset(f"{_OUTPUT} {_SELF_CONSISTENCY} {_PARALLEL} {_DYNAMICS}".split())
#: Path too, where somebody else's run is read: how a relaxation or a run of MD ends, or is written.
_MOTION = "EDIFFG NFREE ANDERSEN_PROB LCLIMB SPRING LNMDL IWAVPR LORBMOM APACO"
MOTION = frozenset(_MOTION.split())

_LOGICAL = re.compile(r"^\.?(T|TRUE|F|FALSE)\.?$", re.IGNORECASE)
_NUMBER = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([EDed][-+]?\d+)?$")
#: VASP reads PREC by its first letters (VASP wiki, PREC); vasprun.xml cuts it to six.
_PREC = {"L": "LOW", "M": "MEDIUM", "N": "NORMAL", "H": "HIGH", "A": "ACCURATE", "S": "SINGLE"}
#: Values that switch nothing on: as if the tag were not there (VASP wiki, defaults).
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "METAGGA": (None,),
    "GGA": (None,),
    "LDAU": (False,),
    "IVDW": (0.0, False),
    "LVDW": (False,),
    "LUSE_VDW": (False,),
    "LHFCALC": (False,),
    "ADDGRID": (False,),
    "LDIPOL": (False,),
    "LSORBIT": (False,),
    "LNONCOLLINEAR": (False,),
    "EFIELD": (0.0,),
    "NUPDOWN": (-1.0,),
    "KGAMMA": (True,),
    "ML_LMLFF": (False,),
    "LSOL": (False,),
    "LEPSILON": (False,),
    "LCALCEPS": (False,),
    "LOPTICS": (False,),
}
_NONE = frozenset({"", "--", "NONE", "NULL"})


def plain_value(tag: str, value: Any) -> Any:
    """Return the one spelling of a tag's value: bool, float, upper-case word, or a list of them.

    ``'680'``, ``680`` and ``680.0`` are one value, as are ``'.FALSE.'``, ``'F'`` and ``False``, and PREC ``A`` and
    ``Accurate``. A comment behind ``!`` or ``#`` is dropped. METAGGA and GGA are None where they name nothing.
    """
    name = tag.upper()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str):
        return _plain_text(name, re.split(r"[!#]", value, maxsplit=1)[0].strip())
    if isinstance(value, Mapping):
        return {str(k): plain_value(name, v) for k, v in sorted(value.items(), key=lambda item: str(item[0]))}
    try:
        return [plain_value(name, v) for v in value]
    except TypeError:
        return str(value).upper()


def _plain_text(name: str, text: str) -> Any:
    upper = text.upper()
    if name in ("METAGGA", "GGA"):
        if upper in _NONE:
            return None
        return upper if name == "METAGGA" else upper[:2]
    if name == "SYSTEM":
        return upper
    if name == "PREC":
        return _PREC.get(upper[:1], upper)
    if name == "LREAL" and upper[:1] in ("A", "O"):
        return {"A": "AUTO", "O": "ON"}[upper[:1]]
    if name == "ALGO":
        return _ALGO.get(upper, upper)
    if _LOGICAL.match(text):
        return upper.strip(".").startswith("T")
    if _NUMBER.match(text):
        return float(upper.replace("D", "E"))
    words = text.split()
    if len(words) > 1:
        return [_plain_text(name, word) for word in words]
    return upper


#: One letter stands for a word (VASP wiki, ALGO).
_ALGO = {"N": "NORMAL", "V": "VERYFAST", "F": "FAST", "C": "CONJUGATE", "A": "ALL", "D": "DAMPED", "E": "EXACT"}
#: Ways that never reach a self-consistent ground state, or do not look for one.
_NO_SCF = frozenset({"NONE", "NOTHING", "SUBROT", "EIGENVAL", "EXACT", "CHI", "BSE", "TDHF", "TIMEEV"})
#: Fewer electronic steps than this end most labels as not converged; VASP's default is 60. A choice of this project.
MIN_NELM = 30
#: VASP's default is 1e-5; a coarser one symmetrizes atoms and forces that are not symmetric. A choice of this project.
MAX_SYMPREC = 1e-4


def theory(incar: Mapping[str, Any]) -> dict[str, Any]:
    """Return those tags of an INCAR that define the potential-energy surface, one spelling per value."""
    plain = {k.upper(): plain_value(k, v) for k, v in incar.items() if k.upper() not in NOT_THEORY}
    return {k: v for k, v in plain.items() if v is not None and v not in _NEUTRAL.get(k, ())}


def changes(expected: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return tag → (expected, seen) for the tags in which two mappings differ."""
    left, right = ({k.upper(): plain_value(k, v) for k, v in m.items() if v is not None} for m in (expected, seen))
    return {k: (left.get(k), right.get(k)) for k in sorted(left.keys() | right.keys()) if left.get(k) != right.get(k)}


def no_self_consistency(incar: Mapping[str, Any]) -> str | None:
    """Return why a run with these tags has no self-consistent energy and forces, or None."""
    plain = {k.upper(): plain_value(k, v) for k, v in incar.items()}
    charge = plain.get("ICHARG")
    if isinstance(charge, float) and charge >= 10:
        return f"ICHARG = {charge:g} keeps a given charge density; the energy is not self-consistent"
    algo = plain.get("ALGO")
    if isinstance(algo, str) and (algo in _NO_SCF or algo.startswith(("GW", "QPGW", "EVGW", "SCGW", "G0W0", "ACFDT"))):
        return f"ALGO = {algo} does not search the ground state"
    if plain.get("IALGO") in (-1.0, 2.0, 3.0, 4.0, 5.0):
        return f"IALGO = {plain['IALGO']:g} does not search the ground state"
    if plain.get("ML_LMLFF") is True:
        return "ML_LMLFF = T: energies and forces may be of a machine-learned force field"
    return None


def refused_update(tag: str, value: Any) -> str | None:
    """Return why a campaign may not set a tag of the static to a value, or None.

    Parameters
    ----------
    tag, value
        One entry of ``labeling.incar_updates``.
    """
    name, plain = tag.upper(), plain_value(tag, value)
    if name in {"MAGMOM", "GGA", "NSW", "NBANDS", "NELECT"} or name.startswith("LDAU"):
        return "the static or each structure fixes it"
    if name in _NUMERIC:
        if not isinstance(plain, float) or not math.isfinite(plain):
            return "it is no number"
        if name in _POSITIVE and plain <= 0:
            return "it must be above 0"
    if name == "NELM" and plain < MIN_NELM:
        return f"so few electronic steps end labels as not converged; expected at least {MIN_NELM}"
    if name == "SYMPREC" and plain > MAX_SYMPREC:
        return f"atoms and forces would be symmetrized that are not symmetric; expected at most {MAX_SYMPREC:g}"
    if name == "ISIF" and plain in (0.0, 1.0):
        return "VASP would not compute the whole stress, which every label needs; expected 2"
    return no_self_consistency({name: value})


_NUMBERS = "ENCUT ENAUG EDIFF ISMEAR SIGMA KSPACING ISPIN NELM NELMIN SYMPREC ISIF ICHARG ISTART ISYM"
_NUMERIC = frozenset(_NUMBERS.split())
_POSITIVE = frozenset({"ENCUT", "ENAUG", "EDIFF", "SIGMA", "KSPACING", "NELM", "SYMPREC"})
