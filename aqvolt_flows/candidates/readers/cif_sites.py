"""Sites of a CIF block: element, position and occupancy of every row, none guessed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pymatgen.core import Element

from aqvolt_flows.candidates.readers.cif_text import UNKNOWN, Block, number
from aqvolt_flows.candidates.refusals import RecordError

_CHARGED = re.compile(r"^([A-Za-z]{1,2})(?:\(?[0-9.]*[+-]?[0-9.]*\)?)$")
#: Scattering-factor symbols of SHELX and GSAS that are no element symbols.
_SPECIAL = {"Cval": "C", "Siva": "Si", "Sival": "Si", "Hiso": "H", "Owat": "O"}
_MIXED = re.compile(r"^\(?\s*([0-9]*\.?[0-9]+)(?:\([0-9]*\))?\s*([A-Z][a-z]?)(?:<sup>.*)?\s*\)?$")


@dataclass(frozen=True, slots=True)
class Site:
    """One row of the atom sites: ``symbol`` as pymatgen is given it, fractions, occupancy."""

    element: str
    symbol: str
    xyz: tuple[float, float, float]
    occupancy: float


def read_sites(block: Block, formula: set[str]) -> tuple[list[Site], list[str]]:
    """Return the sites of the asymmetric unit and remarks.

    Parameters
    ----------
    block
        A block with ``_atom_site_fract_x``.
    formula
        Elements of the stated formula; decides labels such as CO1 where no type symbol is given.

    Raises
    ------
    RecordError
        If an element, a position or an occupancy is not known.
    """
    labels, symbols = block.column("_atom_site_label"), block.column("_atom_site_type_symbol")
    axes = [block.column(f"_atom_site_fract_{axis}") for axis in "xyz"]
    if any(a is None for a in axes):
        raise RecordError("the sites have no fractional coordinates (_atom_site_fract_x, _y, _z)", "position")
    n = len(axes[0] or ())
    names = labels or symbols or []
    if len(names) != n or any(len(a or ()) != n for a in axes):
        raise RecordError("the sites have neither labels nor type symbols", "unknown_element")
    occupancies, flags = block.column("_atom_site_occupancy"), block.column("_atom_site_calc_flag")
    sites: list[Site] = []
    remarks: set[str] = set()
    for i in range(n):
        if flags and flags[i].lower() == "dum":
            remarks.add("dummy sites left out")
            continue
        xyz = _position(names[i], [(a or [])[i] for a in axes], bool(formula), remarks)
        occupancy = _occupancy(names[i], occupancies[i] if occupancies else "1", remarks)
        if not occupancy:
            remarks.add(f"site {names[i]} has occupancy 0")
            continue
        for symbol, element, share in _species(symbols[i] if symbols else None, names[i], formula, remarks):
            sites.append(Site(element, symbol, xyz, occupancy * share))
    attached = [a for a in block.column("_atom_site_attached_hydrogens") or () if a not in (*UNKNOWN, "0")]
    if attached:
        raise RecordError("sites have attached hydrogens without positions (_atom_site_attached_hydrogens)", "position")
    if not sites:
        raise RecordError("it lists no atom", "no_structure")
    return sites, sorted(remarks)


def _position(name: str, values: list[str], checked: bool, remarks: set[str]) -> tuple[float, float, float]:
    """Return the fractions; ``.`` is 0, as in old ICSD files, where the formula will show whether that was meant."""
    if checked and "." in values:
        remarks.add("coordinate '.' read as 0")
        values = ["0" if v == "." else v for v in values]
    try:
        x, y, z = (number(v) for v in values)
    except ValueError:
        raise RecordError(
            f"site {name} is at {', '.join(v or '?' for v in values)}; expected three fractional coordinates",
            "position",
        ) from None
    return x, y, z


def _occupancy(name: str, text: str, remarks: set[str]) -> float:
    if text == ".":
        remarks.add("occupancy '.' read as 1, the default of the CIF dictionary")
        return 1.0
    try:
        value = number(text)
    except ValueError:
        raise RecordError(f"site {name} has occupancy {text!r}; expected a number from 0 to 1", "occupancy") from None
    if not 0.0 <= value <= 1.001:
        raise RecordError(f"site {name} has occupancy {value:g}; expected at most 1", "occupancy")
    return min(value, 1.0)


def _species(symbol: str | None, label: str, formula: set[str], remarks: set[str]) -> list[tuple[str, str, float]]:
    """Return (symbol for pymatgen, element, share) of one row."""
    if symbol is not None and symbol not in UNKNOWN:
        if "+ " in symbol or _MIXED.match(symbol):  # the Pauling File writes mixed sites as 0.8Nb + 0.2Zr
            parts = [_MIXED.match(p.strip()) for p in symbol.split("+ ")]
            if all(p and Element.is_valid_symbol(p[2]) for p in parts):
                return [(p[2], p[2], float(p[1])) for p in parts if p]
        charged = _CHARGED.match(symbol)
        letters = charged[1] if charged else ""
        element = letters if Element.is_valid_symbol(letters) else _SPECIAL.get(symbol, "")
        if letters and not element:  # LI, cl; but NH3 is no nihonium
            element = element_of_label(letters, formula, name=label)
            element = element if len(element) == len(letters) else ""
        if element:
            written = symbol if charged and symbol.startswith(element) and "(" not in symbol else element
            return [(written, element, 1.0)]
        raise RecordError(
            f"site {label} has the type symbol {symbol!r}; expected one element, with every atom of a group on its own",
            "unknown_element",
        )
    element = element_of_label(label, formula)
    if not label.startswith(element):
        remarks.add(f"{label} read as {element}")
    return [(element, element, 1.0)]


def element_of_label(label: str, formula: set[str], name: str = "") -> str:
    """Return the element that a label such as ``Li1`` begins with.

    Parameters
    ----------
    label
        Of a site.
    formula
        Elements of the stated formula, empty if there is none. Without one, a label must begin with the symbol as it is
        written and no other letter, or be in capitals and leave no choice.
    name
        What the site is called in a message, by default the label.

    Raises
    ------
    RecordError
        If it is none, or could be two.
    """
    letters = (re.match(r"[A-Za-z]+", label) or [""])[0]
    options = [s for s in dict.fromkeys((letters[:2].capitalize(), letters[:1].upper())) if Element.is_valid_symbol(s)]
    if formula:
        options = [s for s in options if s in formula]
        exact = [s for s in options if letters == s]
        if len(exact or options) == 1:
            return (exact or options)[0]
    elif letters in options:
        return letters
    elif letters.isupper() and len(letters) == 2 and options == [letters.capitalize()]:
        return options[0]
    said = (
        f"could be {' or '.join(options)}" if len(options) > 1 else "names no element of the formula" if formula else ""
    )
    raise RecordError(f"site {name or label} {said or 'is no element'}; give _atom_site_type_symbol", "unknown_element")
