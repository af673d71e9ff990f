"""CIF files that real programs and databases write: what is read, and what is refused with which reason.

Numbers of the rock salt are those of LiCl (a = 5.13 Å, 4 formula units, 2.08 g/cm³); Li3YCl6 is a cell of made-up
positions whose formula, units and density belong together.
"""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifParser, CifWriter

from aqvolt_flows.candidates.files import stream_structures
from aqvolt_flows.candidates.readers.cif import read_cif
from aqvolt_flows.candidates.readers.cif_checks import parse_formula
from aqvolt_flows.candidates.readers.cif_sites import element_of_label
from aqvolt_flows.candidates.readers.cif_symmetry import point_group_order, read_operation
from aqvolt_flows.candidates.readers.cif_text import number, parse_block, split_blocks
from aqvolt_flows.candidates.records import Quarantined, Record
from aqvolt_flows.candidates.refusals import REFUSALS, RecordError

SITES = """loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Li1 Li 0 0 0 1
Cl1 Cl 0.5 0.5 0.5 1
"""
CELL = """_cell_length_a 5.13
_cell_length_b 5.13
_cell_length_c 5.13
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
"""
NAME = "_symmetry_space_group_name_H-M 'F m -3 m'\n_symmetry_Int_Tables_number 225\n"
STATED = "_chemical_formula_sum 'Li Cl'\n_cell_formula_units_Z 4\n"
SALT = f"data_LiCl\n{NAME}{CELL}{STATED}{SITES}"
IDENTITY = "loop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'\n"


def one(text: str) -> tuple[Structure, list[str]]:
    [(_, _, structure, remarks)] = read_cif(text)
    if isinstance(structure, RecordError):
        raise structure
    return structure, remarks


def refusal(text: str) -> RecordError:
    with pytest.raises(RecordError) as raised:
        one(text)
    assert raised.value.code in REFUSALS
    return raised.value


def monoclinic() -> Structure:
    """A cell of Li3YCl6 without symmetry: 3 Li, 1 Y, 6 Cl."""
    frac = [[0.1, 0.2, 0.3], [0.4, 0.7, 0.1], [0.8, 0.5, 0.6], [0, 0, 0]]
    frac += [
        [0.25, 0.1, 0.8],
        [0.75, 0.9, 0.2],
        [0.3, 0.4, 0.45],
        [0.6, 0.15, 0.35],
        [0.05, 0.6, 0.75],
        [0.55, 0.8, 0.9],
    ]
    return Structure(Lattice.monoclinic(6.9, 6.3, 6.5, 110), ["Li"] * 3 + ["Y"] + ["Cl"] * 6, frac)


def test_a_cif_gives_what_pymatgen_gives() -> None:
    """Numbers against pymatgen's own reader of the same text, listed operations and named group."""
    listed = str(CifWriter(one(SALT)[0], symprec=0.01))
    for text in (SALT, listed, str(CifWriter(monoclinic()))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            [theirs] = CifParser.from_str(text, check_cif=False).parse_structures(primitive=False)
        ours = one(text)[0]
        assert ours.species == theirs.species
        np.testing.assert_allclose(ours.lattice.matrix, theirs.lattice.matrix, rtol=1e-14)
        np.testing.assert_allclose(ours.frac_coords, theirs.frac_coords, atol=1e-14)
    assert one(SALT)[0].composition.formula == "Li4 Cl4"


def test_sites_of_another_compound_than_the_formula_are_refused() -> None:
    """Two of three Li sites and three of six Cl sites are lost: LiYCl3 under the name of Li3YCl6."""
    text = str(CifWriter(monoclinic()))
    lines = text.splitlines()
    lost = [i for i, line in enumerate(lines) if re.match(r"\s*(Li|Cl)\s", line)]
    kept = [line for i, line in enumerate(lines) if i not in {lost[1], lost[2], lost[-1], lost[-2], lost[-3]}]
    assert one(text)[0].reduced_formula == "Li3YCl6"
    error = refusal("\n".join(kept))
    assert error.code == "composition"
    assert "Li3 Y1 Cl6" in str(error)
    assert "Cl3 Li1 Y1" in str(error)


@pytest.mark.parametrize(
    ("stated", "code"),
    [
        (STATED, "formula_units"),
        ("", "no_symmetry"),
        ("_chemical_formula_sum 'Li Cl'\n", "no_symmetry"),
        ("_exptl_crystal_density_diffrn 2.08\n", "density"),
    ],
)
def test_two_atoms_where_the_operations_are_missing_are_no_crystal(stated: str, code: str) -> None:
    assert refusal(f"data_LiCl\n{CELL}{stated}{SITES}").code == code


def test_operations_that_are_fewer_than_the_space_group_has_are_refused() -> None:
    assert refusal(f"data_LiCl\n{NAME}{CELL}{STATED}{IDENTITY}{SITES}").code == "formula_units"
    error = refusal(f"data_LiCl\n{NAME}{CELL}{IDENTITY}{SITES}")
    assert error.code == "symmetry"
    assert "lists 1 operations" in str(error)


def test_all_atoms_listed_under_the_name_of_the_group_are_taken() -> None:
    """Programs that expand a cell often keep the name of its group; spglib finds it in the atoms."""
    corners = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    salt = Structure(Lattice.cubic(5.13), ["Li"] * 4 + ["Cl"] * 4, corners + [[x + 0.5 for x in c] for c in corners])
    text = str(CifWriter(salt)).replace("'P 1'", "'F m -3 m'").replace("number   1", "number   225")
    assert "'F m -3 m'" in text
    bare = re.sub(r"_cell_formula_units_Z.*|_chemical_formula.*", "", text)
    assert one(bare)[0].composition.formula == "Li4 Cl4"


@pytest.mark.parametrize(
    ("old", "new", "code", "said"),
    [
        ("0 0 0 1", "0 0 0 ?", "occupancy", "'?'"),
        ("0 0 0 1", "0 0 0 1.02", "occupancy", "1.02"),
        ("0 0 0 1", "0 0 0 -0.5", "occupancy", "-0.5"),
        ("0 0 0 1", "0 0 0 0.8\nNa1 Na 0 0 0 0.7", "occupancy", "1.5"),
        ("0 0 0 1", "0 ? 0 1", "position", r"0, \?, 0"),
        ("_a 5.13", "_a ?", "cell", "_cell_length_a is '?'"),
        ("_cell_length_a 5.13\n", "", "cell", "missing"),
        ("_beta 90", "_beta 190", "cell", "190"),
        ("_gamma 90", "_gamma 179.9999", "cell", "no volume"),
        ("5.13", "1e308", "number", r"1e\+308"),
        ("5.13", "0.513", "cell", "atoms in|no volume"),
        ("Li1 Li", "X1 X", "unknown_element", "X"),
        ("Cl1 Cl", "OH1 OH", "unknown_element", "OH"),
        ("Cl1 Cl", "NH3 NH3", "unknown_element", "NH3"),
        ("'F m -3 m'", "'F x -3 m'", "symmetry", "F x -3 m"),
        ("_b 5.13", "_b 5.9", "symmetry", "do not map the cell"),
        ("_Z 4", "_Z 4\n_cell_volume 143.1", "cell_volume", "143.1"),
        ("_Z 4", "_Z 4\n_cell_modulation_dimension 1", "modulated", "superspace"),
        ("Cl1 Cl 0.5 0.5 0.5 1", "Cl1 Cl 0.5 0.5 0.5", "syntax", "columns"),
    ],
)
def test_each_broken_value_has_its_own_reason(old: str, new: str, code: str, said: str) -> None:
    assert old in SALT
    error = refusal(SALT.replace(old, new))
    assert error.code == code
    assert re.search(said, str(error))


def test_an_occupancy_of_a_dot_is_the_dictionarys_default() -> None:
    structure, remarks = one(SALT.replace("0 0 0 1", "0 0 0 ."))
    assert structure.composition.formula == "Li4 Cl4"
    assert any("occupancy '.' read as 1" in r for r in remarks)


@pytest.mark.parametrize("label", ["Li1", "LI1", "Li"])
def test_elements_come_from_labels_only_where_they_leave_no_choice(label: str) -> None:
    sites = SITES.replace("_atom_site_type_symbol\n", "").replace("Li1 Li", label).replace("Cl1 Cl", "Cl1")
    assert one(f"data_LiCl\n{NAME}{CELL}{STATED}{sites}")[0].composition.formula == "Li4 Cl4"


@pytest.mark.parametrize(
    ("label", "formula", "element"),
    [
        ("Co1", {"C", "O"}, "C"),
        ("CO1", {"C", "O"}, "C"),
        ("CO1", {"Co"}, "Co"),
        ("HO1", {"H", "O"}, "H"),
        ("Ow2", {"H", "O"}, "O"),
        ("CO1", {"C", "Co"}, None),
        ("CO1", set(), None),
        ("OH", set(), None),
        ("Vac1", set(), None),
        ("M1", {"Li"}, None),
    ],
)
def test_labels(label: str, formula: set[str], element: str | None) -> None:
    if element is None:
        with pytest.raises(RecordError, match="_atom_site_type_symbol"):
            element_of_label(label, formula)
    else:
        assert element_of_label(label, formula) == element


def test_deuterium_is_hydrogen_and_charges_are_left_out() -> None:
    text = SALT.replace("Li1 Li", "D1 D").replace("Cl1 Cl", "Cl1 Cl1-").replace("'Li Cl'", "'D Cl'")
    structure, remarks = one(text)
    assert sorted(str(s) for s in structure.composition.elements) == ["Cl", "H"]
    assert "D read as H" in remarks


def test_a_magnetic_cif_gives_its_atoms() -> None:
    text = (
        SALT.replace(NAME, "").replace("LiCl\n", "LiCl\n_space_group_magn.number_BNS 1.1\n", 1).replace("_Z 4", "_Z 1")
    )
    text += """loop_
_space_group_symop_magn_operation.id
_space_group_symop_magn_operation.xyz
1 x,y,z,+1
loop_
_space_group_symop_magn_centering.id
_space_group_symop_magn_centering.xyz
1 x,y,z,+1
2 x+1/2,y+1/2,z,-1
loop_
_atom_site_moment.label
_atom_site_moment.crystalaxis_x
_atom_site_moment.crystalaxis_y
_atom_site_moment.crystalaxis_z
Li1 0 0 2.5
"""
    structure, remarks = one(text.replace("_Z 1", "_Z 2"))
    assert structure.composition.formula == "Li2 Cl2"  # two centerings
    assert structure.site_properties == {}
    assert "magnetic moments left out" in remarks


def test_settings_that_the_name_leaves_open_are_decided_by_formula_and_cell() -> None:
    """Diamond at (1/8, 1/8, 1/8) is origin choice 2 of Fd-3m; at 0 it is choice 1, pymatgen's default: 8 atoms each."""
    silicon = (
        SALT.replace("F m -3 m", "F d -3 m").replace(" 225", " 227").replace("'Li Cl'", "Si").replace("_Z 4", "_Z 8")
    )
    silicon = silicon.replace("5.13", "5.43").replace("Cl1 Cl 0.5 0.5 0.5 1\n", "")
    first, _ = one(silicon.replace("Li1 Li", "Si1 Si"))
    second, remarks = one(silicon.replace("Li1 Li 0 0 0", "Si1 Si 0.125 0.125 0.125"))
    assert len(first) == len(second) == 8
    assert first.matches(second)
    assert any("F 4_1/d -3 2/m (2)" in r for r in remarks)


def test_rhombohedral_axes_are_seen_in_the_cell() -> None:
    """LiCoO2 (R-3m) in the rhombohedral cell: 4 atoms, in the hexagonal one 12; the same crystal."""
    sites = "Li1 Li 0 0 0 1\nCo1 Co 0.5 0.5 0.5 1\nO1 O 0.26 0.26 0.26 1\n"
    head = "data_x\n" + NAME.replace("F m -3 m", "R -3 m").replace("225", "166") + "_chemical_formula_sum 'Li Co O2'\n"
    table = SITES.split("Li1")[0]
    lattice = Lattice.hexagonal(2.82, 14.05)
    primitive = np.array([[2, 1, 1], [-1, 1, 1], [-1, -2, 1]]) / 3 @ lattice.matrix
    a, _, _, alpha, _, _ = Lattice(primitive).parameters
    rhombohedral = head + "_cell_formula_units_Z 1\n" + CELL.replace("5.13", f"{a:.8f}").replace(" 90", f" {alpha:.8f}")
    hexagonal = head + "_cell_formula_units_Z 3\n" + CELL.replace("5.13", "2.82").replace("gamma 90", "gamma 120")
    hexagonal = hexagonal.replace("_length_c 2.82", "_length_c 14.05")
    one_axis = sites.replace("0.26 0.26 0.26", "0 0 0.26").replace("0.5 0.5 0.5", "0 0 0.5")
    small, large = one(rhombohedral + table + sites)[0], one(hexagonal + table + one_axis)[0]
    assert (len(small), len(large)) == (4, 12)
    assert small.matches(large)


def test_every_block_gives_a_structure_or_a_reason(tmp_path) -> None:
    """A global block without structure, a good one, a broken one, one inside an unclosed text field, a good one."""
    broken = SALT.replace("data_LiCl", "data_bad").replace("_a 5.13", "_a ?")
    comment = "_publ_section_comment\n;\ndata_was collected at 300 K\n;\n"
    unclosed = SALT.replace("data_LiCl\n", "data_open\n") + "_publ_section_title\n;\nnever closed\n"
    text = "data_global\n_journal_year 2026\n" + SALT.replace(CELL, CELL + comment) + broken + unclosed
    text += SALT.replace("LiCl\n", "last\n", 1)
    path = tmp_path / "many.cif"
    path.write_text(text)
    entries = list(stream_structures(path))
    assert [type(e) for e in entries] == [Record, Quarantined, Record, Record]
    assert [e.name for e in entries if isinstance(e, Record)] == ["many.cif:LiCl", "many.cif:open", "many.cif:last"]
    assert (entries[1].record, entries[1].record_id, entries[1].code) == (2, "bad", "cell")
    assert text.splitlines()[entries[1].line - 1] == "data_bad"


def test_two_blocks_of_which_one_lost_its_first_line_are_not_mixed() -> None:
    """pymatgen takes the last cell and the last sites of what it believes to be one block."""
    error = refusal(SALT + SALT.replace("data_LiCl\n", "").replace("5.13", "5.3"))
    assert error.code == "syntax"
    assert "_cell_length_a" in str(error)
    assert one(SALT + SALT.replace("data_LiCl\n", ""))[0].composition.formula == "Li4 Cl4"  # the same twice


def test_what_ends_a_loop_and_a_quotation() -> None:
    text = """data_x
_a 'it's one' # no comment ' in it
loop_
_b.one _b.two # comment
1 "two words" 3
;
a field
of two lines
;
loop_
_empty
loop_
_d
1 2
_C_Upper 5.13(2)
"""
    [(name, line, lines)] = split_blocks(text)
    block = parse_block(name, line, lines)
    assert block.items == {"_a": "it's one", "_c_upper": "5.13(2)"}
    assert block.columns["_empty"] == []
    assert block.columns["_d"] == ["1", "2"]
    assert block.columns["_b_one"] == ["1", "3"]
    assert block.columns["_b_two"] == ["two words", "a field\nof two lines"]


def test_numbers_formulas_operations_and_groups() -> None:
    assert [number(t) for t in ("5.13(2)", "-.5", "1.0E1", "3(12")] == [5.13, -0.5, 10.0, 3.0]
    assert parse_formula("C30 H39 D2 'Mo2'") == {"C": 30, "H": 41, "Mo": 2}
    assert parse_formula("Li2.91(3) Cl") == {"Li": 2.91, "Cl": 1}
    assert parse_formula("?") == parse_formula("Li X2") == parse_formula("") == {}
    assert read_operation("1/2+X, -y ,z-.25").translation_vector.tolist() == [0.5, 0, -0.25]
    for broken in ("x,y", "x,y,q", "x,x,z", "", "x,y,z/0", "exp(x),y,z"):
        with pytest.raises(RecordError, match="no symmetry operation"):
            read_operation(broken)
    # orders of m-3m, mmm and 1: International Tables A, table 3.2.1
    assert [point_group_order(n) for n in (225, 62, 1)] == [48, 8, 1]


def test_mixed_sites_of_the_pauling_file() -> None:
    mixed = SALT.replace("Li1 Li 0 0 0 1", "'Nb,Zr' '0.8Nb + 0.2Zr' 0 0 0 1").replace(STATED, "")
    structure, _ = one(mixed)
    assert structure.composition.as_dict() == pytest.approx({"Nb": 3.2, "Zr": 0.8, "Cl": 4})
