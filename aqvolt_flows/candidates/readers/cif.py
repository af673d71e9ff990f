"""CIF: every block of a file becomes a structure, or a reason.

The sites of the asymmetric unit, the operations and the cell are read here, each value checked; pymatgen's
``CifParser`` expands them. Then formula, formula units, volume, density and space group of the file are compared with
the result, so that a file that lost its operations or a site does not become another compound.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from pymatgen.core import Lattice, Structure

from aqvolt_flows.candidates.readers.cif_checks import Stated, check_stated, read_stated, shows_all_atoms
from aqvolt_flows.candidates.readers.cif_sites import Site, read_sites
from aqvolt_flows.candidates.readers.cif_symmetry import (
    Symmetry,
    keeps_metric,
    n_rotations,
    point_group_order,
    read_symmetry,
    settings_of,
)
from aqvolt_flows.candidates.readers.cif_text import UNKNOWN, Block, number, parse_block, split_blocks
from aqvolt_flows.candidates.records import check_numbers, plain_structure
from aqvolt_flows.candidates.refusals import RecordError

#: Å; planes of a cell closer than this make pymatgen's search for neighbors endless.
MIN_THICKNESS_A = 0.5
#: Two atoms of an expanded structure closer than this show a wrong setting or rounded special positions.
MIN_DISTANCE_A = 0.5
#: Å; tolerance of spglib when the space group of listed atoms is compared with the stated one.
SYMPREC_A = 0.02
#: Beginnings of tags of which a structure is made.
_PARTS = ("_cell_", "_atom_site_", "_symmetry_", "_space_group_", "_chemical_formula_sum")
Read = tuple[str, int, Structure | RecordError, list[str]]


def read_cif(text: str) -> Iterator[Read]:
    """Yield (block name, line, structure or why there is none, remarks) of the blocks that describe a structure.

    Raises
    ------
    RecordError
        If no block does.
    """
    found, blocks = False, 0
    for name, line, lines in split_blocks(text):
        blocks += 1
        block = parse_block(name, line, lines)
        if not _describes_structure(block):
            continue
        found = True
        try:
            structure, remarks = read_block(block)
        except RecordError as error:
            yield name, line, error, []
        except Exception as error:  # noqa: BLE001 - one block; the others are read
            said = f"the block cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
            yield name, line, RecordError(said), []
        else:
            yield name, line, structure, remarks
    if not found:
        said = f"no block of {blocks} has a cell and sites" if blocks else "it has no block (a line data_…)"
        raise RecordError(f"{said}; expected _cell_length_a and _atom_site_fract_x", "no_structure")


def _describes_structure(block: Block) -> bool:
    """Return whether a block has sites; a list of nothing but ``?`` is none (the Pauling File has such blocks)."""
    tags = block.columns.keys() | block.items.keys() | block.broken
    listed = block.columns.get("_atom_site_fract_x", ["0"])
    has_sites = any(t.startswith("_atom_site_fract") or t == "_atom_site_cartn_x" for t in tags)
    return has_sites and any(v not in UNKNOWN or v == "." for v in listed)


def read_block(block: Block) -> tuple[Structure, list[str]]:
    """Return the structure of a block, with remarks.

    Raises
    ------
    RecordError
        If it has none, or contradicts itself.
    """
    twice = sorted(t for t in block.repeated if t.startswith(_PARTS))
    if twice:
        raise RecordError(f"{', '.join(twice[:3])} is given twice with different values; expected one block", "syntax")
    cell = read_cell(block)
    symmetry, stated = read_symmetry(block), read_stated(block)
    sites, remarks = read_sites(block, set(stated.formula))
    structure, said = _expand(block, cell, sites, symmetry, stated)
    plain, left_out = plain_structure(structure)
    if any(t.startswith("_atom_site_moment") for t in block.columns):
        left_out.append("magnetic moments left out")
    return plain, [*remarks, *said, *left_out]


def read_cell(block: Block) -> Lattice:
    """Return the lattice (Å); raise :class:`RecordError` if a parameter is missing or no cell has it."""
    values = []
    for tag in (*(f"_cell_length_{x}" for x in "abc"), *(f"_cell_angle_{x}" for x in ("alpha", "beta", "gamma"))):
        text = block.first(tag)
        try:
            values.append(number(text or ""))
        except ValueError:
            seen = "missing" if text is None and tag not in block.items else repr(block.items.get(tag, text))
            raise RecordError(f"{tag} is {seen}; expected a number", "cell") from None
    lengths, angles = np.array(values[:3]), np.array(values[3:])
    if not np.isfinite(values).all() or (lengths > 1e4).any():
        raise RecordError(f"the cell lengths are {', '.join(f'{v:.4g}' for v in lengths)} Å", "number")
    if (lengths <= 0).any() or (angles <= 0).any() or (angles >= 180).any():
        raise RecordError(f"no cell has the parameters {', '.join(f'{v:g}' for v in values)}", "cell")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lattice = Lattice.from_parameters(*values)
    planes = lattice.volume / np.array([np.linalg.norm(np.cross(*np.delete(lattice.matrix, i, 0))) for i in range(3)])
    if not np.isfinite(lattice.matrix).all() or not (planes > MIN_THICKNESS_A).all():
        raise RecordError(f"the cell of {', '.join(f'{v:g}' for v in values)} has no volume", "cell")
    return lattice


def _expand(
    block: Block, cell: Lattice, sites: list[Site], symmetry: Symmetry, stated: Stated
) -> tuple[Structure, list[str]]:
    """Return the structure in the first setting in which it contradicts nothing."""
    if symmetry.operations:
        structure, said = expand(block, cell, sites, symmetry)
        check_stated(structure, stated)
        _check_complete(structure, symmetry, stated)
        return structure, said
    if not symmetry.stated or symmetry.is_p1:
        structure, _ = expand(block, cell, sites, replace(symmetry, operations=("x,y,z",)))
        check_stated(structure, stated)
        if not symmetry.stated and not shows_all_atoms(structure, stated):
            raise RecordError(
                "it has neither symmetry operations nor a space group; add them, or _space_group_name_H-M_alt 'P 1' if "
                "all atoms are listed",
                "no_symmetry",
            )
        return structure, [] if symmetry.stated else ["no symmetry given; the formula shows that all atoms are listed"]
    return _try_settings(block, cell, sites, symmetry, stated)


def _try_settings(
    block: Block, cell: Lattice, sites: list[Site], symmetry: Symmetry, stated: Stated
) -> tuple[Structure, list[str]]:
    """Return the structure of a block that names its space group and lists no operations.

    pymatgen's operations of the name come first. Where they fail, those of spglib's settings that the name may mean are
    tried; a setting is taken if the formula shows that it is the only one that fits.
    """
    first: RecordError | None = None
    try:
        structure, said = expand(block, cell, sites, symmetry)
        check_stated(structure, stated)
        _check_distances(structure)
    except RecordError as error:
        first = error
    else:
        return structure, said
    fitting: list[tuple[Structure, str]] = []
    for label, operations, rotations in settings_of(symmetry) if stated.formula else ():
        if not keeps_metric(rotations, cell.matrix):
            continue
        try:
            structure, _ = expand(block, cell, sites, replace(symmetry, operations=operations))
            check_stated(structure, stated)
            _check_distances(structure)
        except RecordError:
            continue
        if shows_all_atoms(structure, stated):
            fitting.append((structure, label))
    if len(fitting) == 1:
        return fitting[0][0], [f"operations of the setting {fitting[0][1]}"]
    if fitting:
        said_settings = ", ".join(label for _, label in fitting)
        raise RecordError(f"the space group may mean the settings {said_settings}; list the operations", "symmetry")
    raise first


def expand(block: Block, cell: Lattice, sites: list[Site], symmetry: Symmetry) -> tuple[Structure, list[str]]:
    """Return pymatgen's structure of checked values, and what it remarked."""
    from pymatgen.io.cif import CifParser

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            parser = CifParser.from_str(written(block, sites, symmetry), occupancy_tolerance=1.005, check_cif=False)
            [structure] = parser.parse_structures(primitive=False, on_error="raise")
        except (ValueError, KeyError, IndexError, TypeError, ArithmeticError, np.linalg.LinAlgError) as error:
            text = " ".join(str(error).split())
            if too_many := re.search(r"Occupancy ([0-9.]+) exceeded", text):
                raise RecordError(
                    f"the occupancies of one position add up to {float(too_many[1]):g}; expected at most 1", "occupancy"
                ) from None
            raise RecordError(f"pymatgen: {text[:200]}") from None
    check_numbers(np.asarray(structure.lattice.matrix), np.asarray(structure.frac_coords))
    if not keeps_metric([op.rotation_matrix for op in parser.symmetry_operations], cell.matrix):
        group = f" of {symmetry.name or symmetry.number}" if symmetry.name or symmetry.number else ""
        raise RecordError(
            f"the symmetry operations{group} do not map the cell onto itself; correct one of them", "symmetry"
        )
    texts = {" ".join(str(s.message).split()) for s in said} | {" ".join(w.split()) for w in vars(parser)["warnings"]}
    if any("Defaulting to P1" in t for t in texts) and not symmetry.is_p1:
        raise RecordError(f"the space group {symmetry.name or symmetry.hall!r} is not known", "symmetry")
    return structure, sorted(t for t in texts if not t.startswith("Issues encountered"))


def written(block: Block, sites: list[Site], symmetry: Symmetry) -> str:
    """Return a CIF of nothing but the checked values."""
    lines, names = ["data_x"], ("alpha", "beta", "gamma")
    lines += [f"_cell_length_{n} {_text(block, f'_cell_length_{n}')}" for n in "abc"]
    lines += [f"_cell_angle_{n} {_text(block, f'_cell_angle_{n}')}" for n in names]
    if symmetry.operations:
        lines += ["loop_", "_symmetry_equiv_pos_as_xyz", *(f"'{o}'" for o in symmetry.operations)]
    else:
        quoted = {"_symmetry_space_group_name_H-M": symmetry.name, "_space_group_name_Hall": symmetry.hall}
        lines += [f'{tag} "{value}"' for tag, value in quoted.items() if value]
        if symmetry.number and not symmetry.name and not symmetry.hall:
            lines.append(f"_symmetry_Int_Tables_number {symmetry.number}")
    lines += _oxidation_states(block)
    lines += [
        "loop_",
        *(f"_atom_site_{t}" for t in ("label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy")),
    ]
    for i, site in enumerate(sites):
        x, y, z = map(repr, site.xyz)
        lines.append(f"{site.element}{i} {site.symbol} {x} {y} {z} {site.occupancy!r}")
    return "\n".join(lines) + "\n"


def _text(block: Block, tag: str) -> str:
    return repr(number(block.first(tag) or ""))


def _oxidation_states(block: Block) -> list[str]:
    """Return the loop of oxidation states where it is whole; disordered sites keep them, as in earlier imports."""
    symbols, states = (block.columns.get(f"_atom_type_{t}") for t in ("symbol", "oxidation_number"))
    if not symbols or not states or not all(s.isascii() and s[:1].isalpha() and " " not in s for s in symbols):
        return []
    try:
        rows = [f"{symbol} {number(state)!r}" for symbol, state in zip(symbols, states, strict=True)]
    except ValueError:
        return []
    return ["loop_", "_atom_type_symbol", "_atom_type_oxidation_number", *rows]


def _check_distances(structure: Structure) -> None:
    distances = np.array(structure.distance_matrix)
    np.fill_diagonal(distances, np.inf)
    if len(structure) > 1 and distances.min() < MIN_DISTANCE_A:
        raise RecordError(
            f"the operations of the named space group put two atoms {distances.min():.3f} Å apart; list the operations "
            "of the setting",
            "symmetry",
        )


def _check_complete(structure: Structure, symmetry: Symmetry, stated: Stated) -> None:
    """Refuse fewer operations than the stated space group has, unless the sites are shown to be all atoms."""
    if not symmetry.number or n_rotations(symmetry.rotations) >= point_group_order(symmetry.number):
        return
    if shows_all_atoms(structure, stated) or space_group_number(structure) == symmetry.number:
        return
    raise RecordError(
        f"it lists {len(symmetry.operations)} operations and the space group {symmetry.name or symmetry.number} has "
        "more; list them all, or name the space group P 1 if all atoms are listed",
        "symmetry",
    )


def space_group_number(structure: Structure) -> int | None:
    """Return spglib's space group of an ordered structure at 0.02 Å, or None."""
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    if not structure.is_ordered:
        return None
    try:
        return int(SpacegroupAnalyzer(structure, symprec=SYMPREC_A).get_space_group_number())
    except Exception:  # noqa: BLE001 - spglib gives up in many ways; then nothing is shown
        return None
