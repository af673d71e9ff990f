"""The theory level of somebody else's run: functional, the settings that it really used, POTCARs, k-points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element

from aqvolt_flows.datasets.importers.published import RecordError
from aqvolt_flows.identity import content_hash
from aqvolt_flows.schemas.provenance import Protocol
from aqvolt_flows.vasp.functional import functional_of, version_fault
from aqvolt_flows.vasp.incar import MOTION, no_self_consistency, plain_value, theory
from aqvolt_flows.vasp.settings import frozen_potcars, potcar_functional
from aqvolt_flows.vasp.steps import pressure_work, terms_of
from aqvolt_flows.vasp.used import used_changes, used_level
from aqvolt_flows.vasp.vasprun import Header, RawStep

Array = NDArray[np.float64]
Kind = Literal["static", "relaxation", "aimd"]

#: Tags whose value is that of VASP where INCAR does not give one.
_FILLED = ("ENCUT", "PREC", "EDIFF", "ISMEAR", "SIGMA", "ISPIN", "LASPH", "LREAL")
#: 1/Å; the spacing of a mesh from a KPOINTS file is kept as the next multiple of this, so that the cells of one set of
#: runs, whose meshes follow one rule, share a protocol. A choice of this project.
SPACING_STEP = 0.1
#: Å³; less is no cell.
MIN_VOLUME_A3 = 1e-3


@dataclass(frozen=True)
class Level:
    """What all steps of a run share.

    Attributes
    ----------
    tags
        INCAR's tags, one spelling per value.
    kind
        By NSW and IBRION.
    nelm
        Allowed electronic steps.
    temperature_k
        Target temperature of MD, where it is one.
    pstress
        kbar.
    holds_work, pressure
        What PSTRESS added: whether energies hold P·V, and what is to be added to the diagonal of stresses, kbar.
    """

    protocol: Protocol
    tags: dict[str, Any]
    kind: Kind
    nelm: int
    temperature_k: float | None
    pstress: float
    holds_work: bool = False
    pressure: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)
    titles: tuple[str, ...] = ()

    def work(self, cell: Array) -> float:
        """Return P·V of a cell, eV."""
        return pressure_work(self.pstress, cell)

    def held_work(self, cell: Array) -> float:
        """Return the P·V that the energies hold, eV."""
        return self.work(cell) if self.holds_work else 0.0

    def provenance(self) -> dict[str, Any]:
        """Return what a label keeps of its run."""
        return {"run": self.kind, "settings": self.settings, "potcars": list(self.titles)}


def level_of(header: Header, incar: Mapping[str, Any], first: RawStep, outcar: str, patched: bool = False) -> Level:
    """Return the level of a run.

    Parameters
    ----------
    header, incar
        What vasprun.xml or OUTCAR says, and the INCAR file beside it.
    first
        The first step, for which the mesh was made, and which shows what PSTRESS adds.
    outcar
        Text of OUTCAR, or empty.
    patched
        Accept r2SCAN of versions that know it only if patched.

    Raises
    ------
    RecordError, FunctionalError
        If its steps cannot be labels, or its sources contradict each other.
    """
    cell = first.cell
    given = {k.upper(): v for k, v in {**header.incar, **incar}.items()}
    tags = {k: plain_value(k, v) for k, v in given.items()}
    ran = {k: plain_value(k, v) for k, v in header.parameters.items()}
    _refuse_unfit({**ran, **tags}, tags, header)
    if not np.isfinite(cell).all() or abs(float(np.linalg.det(cell))) < MIN_VOLUME_A3:
        raise RecordError("its cell has no volume, or numbers that VASP could not print")
    functional = functional_of(given, header.parameters, header.titles)
    old = None if patched else version_fault(functional, header.version)
    if old:
        raise RecordError(f"{old}, or --patched-vasp")
    terms = terms_of([first], header, incar, outcar)
    if terms.doubt:
        raise RecordError(terms.doubt)
    used = used_level(header)
    settings = _settings(given, used, cell, header, functional)
    potcars = frozen_potcars() | _symbols(header)
    digest = content_hash({"incar": settings, "potcar_functional": potcar_functional(), "potcar": potcars})
    both = {**ran, **tags}
    steps, motion = _number(both.get("NSW"), 0.0), _number(both.get("IBRION"), -1.0)
    kind: Kind = "static" if steps <= 0 or motion == -1 else "aimd" if motion == 0 and steps > 1 else "relaxation"
    begin, end = _number(both.get("TEBEG"), 0.0), _number(both.get("TEEND", both.get("TEBEG")), 0.0)
    return Level(
        protocol=Protocol(code="vasp", version=header.version, functional=functional, settings_hash=digest),
        tags=tags,
        kind=kind,
        nelm=int(_number(both.get("NELM"), 60.0)),
        temperature_k=begin if kind == "aimd" and begin == end and begin > 0 else None,
        pstress=_number(both.get("PSTRESS"), 0.0),
        holds_work=bool(terms.works[0]),
        pressure=terms.pressure,
        settings=settings | ({"MESH": used["MESH"]} if "MESH" in used else {}),
        titles=tuple(header.titles),
    )


def _refuse_unfit(both: Mapping[str, Any], given: Mapping[str, Any], header: Header) -> None:
    unfit = no_self_consistency(both)
    if unfit:
        raise RecordError(unfit)
    if _number(given.get("IMAGES"), 0.0) > 0 or "SPRING" in given:  # vasprun.xml of an image repeats SPRING only
        raise RecordError("it is an image of a nudged elastic band, whose forces are projected: no derivatives of E")
    strange = sorted({s for s in header.symbols if not Element.is_valid_symbol(s)})
    if strange:
        raise RecordError(f"its atoms are called {', '.join(strange)}; expected symbols of elements")


def _settings(
    given: Mapping[str, Any], used: Mapping[str, Any], cell: Array, header: Header, functional: str
) -> dict[str, Any]:
    """Return what defines the energy surface: INCAR's tags, the rest as VASP used it, and the k-points."""
    level = {k: v for k, v in theory(given).items() if k not in MOTION and not k.startswith("LDAU")}
    level |= {k: used[k] for k in _FILLED if k in used and k not in level}
    differing = used_changes(level, used, cell)
    differing.pop("LREAL", None) if level.get("LREAL") in ("AUTO", "ON") else None
    for tag, (_, seen) in differing.items():
        if tag != "k-points":
            level[tag] = seen
    if "KSPACING" not in level or "k-points" in differing:
        level = {k: v for k, v in level.items() if k not in ("KSPACING", "KGAMMA")}
        level["KPOINTS"] = _spacing(used, cell)
    if "+U" in functional:
        level["LDAU"] = _hubbard(given, header)
    return level


def _spacing(used: Mapping[str, Any], cell: Array) -> str:
    mesh = used.get("MESH")
    if not isinstance(mesh, list):
        return str(mesh or "unknown")
    lengths = 2.0 * math.pi * np.linalg.norm(np.linalg.inv(cell).T, axis=1) / np.asarray(mesh, dtype=float)
    limit = math.ceil(float(lengths.max()) / SPACING_STEP - 1e-6) * SPACING_STEP
    return f"{used.get('SCHEME') or 'mesh'}, at most {limit:.1f}/Å"


def _symbols(header: Header) -> dict[str, str]:
    """Return element → POTCAR symbol of the titles; where there are none, that they are unknown."""
    symbols = [title.split()[1] for title in header.titles if len(title.split()) > 1]
    if not symbols:
        return dict.fromkeys(header.symbols, "unknown")
    return {symbol.partition("_")[0]: symbol for symbol in symbols}


def _hubbard(given: Mapping[str, Any], header: Header) -> dict[str, list[Any]]:
    """Return element → [l, U, J] of those with U or J."""
    species = [s.partition("_")[0] for s in (t.split()[1] for t in header.titles if len(t.split()) > 1)]
    columns = [_listed(given.get(tag), len(species)) for tag in ("LDAUL", "LDAUU", "LDAUJ")]
    rows = dict(zip(species, map(list, zip(*columns, strict=True)), strict=True))
    return {element: row for element, row in sorted(rows.items()) if any(v not in (None, 0.0) for v in row[1:])}


def _listed(value: Any, count: int) -> list[Any]:
    plain = plain_value("LDAUU", value)
    found = plain if isinstance(plain, list) else [] if plain is None else [plain]
    return (found + [None] * count)[:count]


def _number(value: Any, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else otherwise
