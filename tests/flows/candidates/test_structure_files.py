"""POSCAR, extxyz, ASE trajectories and JSON: numbers against pymatgen and ASE, reasons for what is broken."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
from pathlib import Path
from typing import Any

import bson
import numpy as np
import pytest
from ase import Atoms
from ase.io import read as ase_read
from ase.io import write as ase_write
from pymatgen.core import Lattice, Molecule, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.cif import CifWriter
from pymatgen.io.vasp import Poscar

from aqvolt_flows.candidates.files import file_format, read_structures, stream_structures
from aqvolt_flows.candidates.records import (
    Quarantined,
    Record,
    encodable,
    finite,
    plain_structure,
    structure_from_dict,
)
from aqvolt_flows.candidates.refusals import REFUSALS, RecordError
from aqvolt_flows.candidates.sources import detect_format, stream_file
from aqvolt_flows.errors import InputError

CORNERS = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]


def salt(a: float = 5.13) -> Structure:
    others = [[(x + 0.5) % 1 for x in c] for c in CORNERS]
    return Structure(Lattice.cubic(a), ["Li"] * 4 + ["Cl"] * 4, CORNERS + others)


def skewed() -> Structure:
    """A triclinic cell with atoms at general positions, so that no wrong axis goes unseen."""
    lattice = Lattice([[4.1, 0.3, -0.2], [0.4, 5.2, 0.1], [-0.5, 0.6, 6.3]])
    return Structure(lattice, ["Li", "Li", "Cl"], [[0.11, 0.22, 0.33], [0.71, 0.52, 0.13], [0.45, 0.87, 0.64]])


def entries(path: Path) -> tuple[list[Record], list[Quarantined]]:
    found = list(stream_file(path))
    assert all(q.code in REFUSALS for q in found if isinstance(q, Quarantined))
    return [e for e in found if isinstance(e, Record)], [e for e in found if isinstance(e, Quarantined)]


def same(ours: Structure, atoms: Atoms) -> None:
    assert [s.specie.symbol for s in ours] == list(atoms.symbols)
    np.testing.assert_allclose(ours.lattice.matrix, atoms.cell[:], atol=1e-9)
    np.testing.assert_allclose(ours.cart_coords, atoms.get_positions(), atol=1e-8)


# POSCAR

HEAD = "a comment\n{scale}\n4.1 0.3 -0.2\n0.4 5.2 0.1\n-0.5 0.6 6.3\n"
ROWS = "0.11 0.22 0.33\n0.71 0.52 0.13\n0.45 0.87 0.64\n"


@pytest.mark.parametrize("scale", ["1.0", "1.5", "-200.0", "1.1 0.9 1.2"])
@pytest.mark.parametrize("mode", ["Direct", "Cartesian"])
def test_a_poscar_in_all_scales_as_ase_reads_it(tmp_path: Path, scale: str, mode: str) -> None:
    path = tmp_path / "POSCAR"
    path.write_text(HEAD.format(scale=scale) + f"Li Cl\n2 1\n{mode}\n" + ROWS)
    [(_, ours)] = read_structures(path)
    same(ours, ase_read(path, format="vasp"))


@pytest.mark.parametrize(
    ("symbols", "read"),
    [("Li Cl\n2 1", "LiLiCl"), ("Li_sv/1a2b Cl/3c4d\n2 1", "LiLiCl"), ("Li Cl\nLi\n1 1\n1", "LiClLi")],
)
def test_spellings_of_symbols(tmp_path: Path, symbols: str, read: str) -> None:
    """With suffixes and hashes of VASP 6, and on several lines, as VASP writes more than 20 groups."""
    path = tmp_path / "CONTCAR"
    path.write_text(HEAD.format(scale="1") + symbols + "\nDirect\n" + ROWS)
    [(_, ours)] = read_structures(path)
    assert "".join(s.specie.symbol for s in ours) == read


def test_selective_dynamics_and_velocities_are_left_out_and_said(tmp_path: Path) -> None:
    """What an array of booleans did to the database before: it could not be encoded."""
    path = tmp_path / "POSCAR"
    rows = "".join(f"{row} T F T\n" for row in ROWS.splitlines())
    velocities = "\n" + "0.1 0.2 0.3\n" * 3
    path.write_text(HEAD.format(scale="1") + "Li Cl\n2 1\nSelective dynamics\nDirect\n" + rows + velocities)
    [record], _ = entries(path)
    assert record.structure.site_properties == {}
    assert record.provenance["remarks"] == ["left out: selective_dynamics of its sites"]
    bson.encode(record.structure.as_dict())
    same(record.structure, ase_read(path, format="vasp"))


def test_a_poscar_of_vasp_4_is_not_hydrogen_and_helium(tmp_path: Path) -> None:
    path = tmp_path / "POSCAR"
    path.write_text(HEAD.format(scale="1").replace("a comment", "Li Cl") + "2 1\nDirect\n" + ROWS)
    records, [broken] = entries(path)
    assert not records
    assert broken.code == "no_symbols"
    assert "its comment says Li Cl" in broken.reason
    named = "".join(f"{row} {s}\n" for row, s in zip(ROWS.splitlines(), ("Li", "Li", "Cl"), strict=True))
    path.write_text(HEAD.format(scale="1") + "2 1\nDirect\n" + named)
    [record], _ = entries(path)
    assert [s.specie.symbol for s in record.structure] == ["Li", "Li", "Cl"]


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("Li Cl", "Li Qq", "unknown_element"),
        ("2 1", "2 2", "count"),
        ("2 1", "2", "count"),
        ("2 1", "", "count"),
        ("2 1", "0 0", "count"),
        ("0.71 0.52 0.13", "0.71 0.52", "position"),
        ("0.71 0.52 0.13", "0.71 nan 0.13", "position"),
        ("4.1 0.3 -0.2", "4.1 0.3", "syntax"),
        ("4.1 0.3 -0.2", "1e308 0.3 -0.2", "number"),
        ("4.1 0.3 -0.2", "0.4 5.2 0.1", "cell"),
        ("\n1\n", "\n-1e-300\n", "cell"),
        ("\n1\n", "\n1 -1 1\n", "cell"),
        ("Direct\n", "\n", "syntax"),
    ],
)
def test_broken_poscars_have_their_own_reasons(tmp_path: Path, old: str, new: str, code: str) -> None:
    text = HEAD.format(scale="1") + "Li Cl\n2 1\nDirect\n" + ROWS
    assert old in text
    path = tmp_path / "POSCAR"
    path.write_text(text.replace(old, new))
    _, [broken] = entries(path)
    assert broken.code == code, broken


# (ext)xyz and trajectories


def frames(n: int = 5) -> list[Atoms]:
    made = []
    for i in range(n):
        atoms = AseAtomsAdaptor.get_atoms(skewed(), msonable=False)
        atoms.rattle(0.1, seed=i)
        made.append(atoms)
    return made


@pytest.mark.parametrize("suffix", [".extxyz", ".xyz", ".extxyz.gz", ".extxyz.bz2", ".extxyz.xz"])
def test_extxyz_plain_and_compressed_as_ase_reads_it(tmp_path: Path, suffix: str) -> None:
    plain = tmp_path / "plain.extxyz"
    ase_write(plain, frames())
    pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    path = tmp_path / f"a{suffix}"
    path.write_bytes(pack.get(path.suffix, bytes)(plain.read_bytes()))
    records, broken = entries(path)
    assert not broken
    assert [r.name for r in records] == [f"{path.name}:{i}" for i in range(5)]
    for record, atoms in zip(records, ase_read(plain, index=":"), strict=True):
        same(record.structure, atoms)


BROKEN_FRAMES = [
    ("a row less", lambda t: t.rsplit("\n", 2)[0] + "\n", "count"),
    ("a row more", lambda t: t + t.splitlines()[-1] + "\n", "count"),
    ("no count", lambda t: t.replace("3\n", "", 1), "count"),
    ("a count that is none", lambda t: t.replace("3\n", "three\n", 1), "count"),
    ("a huge count", lambda t: t.replace("3\n", "99999999999\n", 1), "count"),
    ("a molecule", lambda t: t.replace('pbc="T T T"', 'pbc="F F F"'), "not_periodic"),
    ("a slab", lambda t: t.replace('pbc="T T T"', 'pbc="T T F"'), "not_periodic"),
    ("an unknown element", lambda t: t.replace("Cl ", "Qq "), "unknown_element"),
    ("element X", lambda t: t.replace("Cl ", "X  "), "unknown_element"),
    ("a lattice of 1e308", lambda t: t.replace('Lattice="4.1', 'Lattice="1e308'), "number"),
    ("NaN", lambda t: re.sub(r"(Cl +)\S+", r"\1nan", t), "number"),
    ("a comment that is none", lambda t: t.replace("Lattice=", "Lattice"), "not_periodic"),
]


@pytest.mark.parametrize(("name", "spoil", "code"), BROKEN_FRAMES, ids=[b[0] for b in BROKEN_FRAMES])
def test_one_bad_frame_loses_none_of_the_good(tmp_path: Path, name: str, spoil: Any, code: str) -> None:
    texts = []
    for atoms in frames(3):
        ase_write(tmp_path / "one.extxyz", atoms)
        texts.append((tmp_path / "one.extxyz").read_text())
    assert spoil(texts[1]) != texts[1]
    path = tmp_path / "a.extxyz"
    path.write_text(texts[0] + spoil(texts[1]) + texts[2])
    records, broken = entries(path)
    same(records[0].structure, frames()[0])
    same(records[-1].structure, frames()[2])
    assert len(records) == 2
    assert {b.code for b in broken} <= {code, "count"}
    assert code in {b.code for b in broken}


@pytest.mark.parametrize("kind", ["cif", "extxyz", "json"])
def test_a_reader_that_fails_on_one_record_ends_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Whatever a library raises that nobody thought of."""
    from aqvolt_flows.candidates import files
    from aqvolt_flows.candidates.readers import ase_atoms, cif

    module, name = {"cif": (cif, "read_block"), "extxyz": (ase_atoms, "_frame"), "json": (files, "json_structure")}[
        kind
    ]
    genuine, calls = getattr(module, name), []

    def fails_once(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise ZeroDivisionError("integer modulo by zero")
        return genuine(*arguments)

    monkeypatch.setattr(module, name, fails_once)
    path = tmp_path / f"a.{kind}"
    if kind == "cif":
        path.write_text("".join(str(CifWriter(salt(5 + i))) + "\n" for i in range(3)))
    elif kind == "extxyz":
        ase_write(path, frames(3))
    else:
        path.write_text(json.dumps([salt(5 + i).as_dict() for i in range(3)]))
    found = list(stream_structures(path))
    assert [type(e) for e in found] == [Record, Quarantined, Record]
    assert found[1].code == "unreadable"
    assert "ZeroDivisionError: integer modulo by zero" in found[1].reason


def test_a_cut_archive_of_frames_keeps_those_before(tmp_path: Path) -> None:
    plain = tmp_path / "plain.extxyz"
    ase_write(plain, frames(300))
    whole = gzip.compress(plain.read_bytes())
    path = tmp_path / "a.extxyz.gz"
    path.write_bytes(whole[: len(whole) // 2])
    records, broken = entries(path)
    assert 50 < len(records) < 250
    assert (broken[-1].code, broken[-1].fatal) == ("cut_off", True)


def test_a_trajectory_as_ase_reads_it_and_a_cut_one(tmp_path: Path) -> None:
    path = tmp_path / "a.traj"
    made = [*frames(3), Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.74]]), *frames(1)]
    ase_write(path, made)
    records, [broken] = entries(path)
    assert (broken.record, broken.code) == (4, "not_periodic")
    for record, atoms in zip(records, [*made[:3], made[4]], strict=True):
        same(record.structure, atoms)
    whole = path.read_bytes()
    for size in (10, 100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        _, broken_ones = entries(path)
        assert broken_ones
        assert all(b.code in ("syntax", "unknown_format", "not_periodic") for b in broken_ones)


def test_partial_occupancies_of_ase_are_kept(tmp_path: Path) -> None:
    """ASE puts one element on each site and the others into info: read alone, Li0.5Na0.5Cl would be LiCl."""
    atoms = AseAtomsAdaptor.get_atoms(salt(), msonable=False)
    atoms.info["occupancy"] = {"0": {"Li": 0.5, "Na": 0.5}, "1": {"Cl": 1.0}}
    atoms.set_array("spacegroup_kinds", np.array([0] * 4 + [1] * 4))
    ase_write(tmp_path / "a.extxyz", atoms)
    ase_write(tmp_path / "a.traj", atoms)  # does not hold which site is of which kind
    [record], _ = entries(tmp_path / "a.extxyz")
    _, [broken] = entries(tmp_path / "a.traj")
    assert broken.code == "occupancy"
    assert record.structure.composition.as_dict() == {"Li": 2.0, "Na": 2.0, "Cl": 4.0}


# JSON


def ase_dict(atoms: Atoms, path: Path) -> dict[str, Any]:
    """The row that ase.io.write makes of Atoms."""
    ase_write(path, atoms, format="json")
    return json.loads(path.read_text())["1"]


def json_forms(tmp_path: Path) -> dict[str, str]:
    """Each form of JSON that pymatgen and ASE write, with the skewed cell as its first or only structure."""
    pymatgen = [skewed().as_dict(), salt().as_dict()]
    entry = ComputedStructureEntry(skewed(), -1.0, entry_id="mine").as_dict()
    atoms = frames(2)
    atoms[0].positions = skewed().cart_coords
    ase_write(tmp_path / "rows.json", atoms, format="json")
    rows = [ase_dict(a, tmp_path / "one.json") for a in atoms]
    todict = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in atoms[0].todict().items()}
    mson = AseAtomsAdaptor.get_atoms(skewed()).as_dict()
    return {
        "pymatgen single": json.dumps(pymatgen[0]),
        "pymatgen indented": json.dumps(pymatgen[0], indent=2),
        "pymatgen list": json.dumps(pymatgen),
        "pymatgen lines": "\n".join(map(json.dumps, pymatgen)),
        "pymatgen mapping": json.dumps({"a": pymatgen[0], "b": pymatgen[1]}),
        "entry list": json.dumps([entry]),
        "entry single": json.dumps(entry),
        "ase rows": (tmp_path / "rows.json").read_text(),
        "ase list": json.dumps(rows),
        "ase lines": "\n".join(map(json.dumps, rows)),
        "ase todict": json.dumps(todict),
        "pymatgen's Atoms": json.dumps(mson),
    }


FORMS = (
    *("pymatgen single", "pymatgen indented", "pymatgen list", "pymatgen lines", "pymatgen mapping", "entry list"),
    *("entry single", "ase rows", "ase list", "ase lines", "ase todict", "pymatgen's Atoms"),
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_every_form_of_json_gives_the_crystal(tmp_path: Path, form: str, suffix: str) -> None:
    text = json_forms(tmp_path)[form]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    assert detect_format(path) == "structure"
    records, broken = entries(path)
    assert not broken
    several = any(w in form for w in ("list", "lines", "mapping", "rows")) and "entry" not in form
    assert len(records) == (2 if several else 1)
    assert records[0].structure.species == skewed().species
    np.testing.assert_allclose(records[0].structure.cart_coords, skewed().cart_coords, atol=1e-9)
    np.testing.assert_allclose(records[0].structure.lattice.matrix, skewed().lattice.matrix, atol=1e-9)


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (Molecule(["H", "H"], [[0, 0, 0], [0, 0, 0.74]]).as_dict(), "not_periodic"),
        ({"numbers": [1], "positions": [[0, 0, 0]], "cell": [3, 3, 3], "pbc": [True, True, False]}, "not_periodic"),
        ({"numbers": [0], "positions": [[0, 0, 0]], "cell": [3, 3, 3], "pbc": [True] * 3}, "unknown_element"),
        ({"numbers": [3], "positions": [[0, 0]], "cell": [3, 3, 3], "pbc": [True] * 3}, "count"),
        ({"numbers": [3], "positions": [[0, 0, 10**400]], "cell": [3, 3, 3], "pbc": [True] * 3}, "unreadable"),
        ({"lattice": {"matrix": [[1e308] * 3] * 3}, "sites": [{"abc": [0, 0, 0], "species": []}]}, "number"),
        ({"lattice": None, "sites": []}, "unreadable"),
        ({"energy": 1.0}, "no_structure"),
        (None, "not_json"),
        ("text", "not_json"),
    ],
)
def test_a_document_that_is_no_crystal_has_its_reason_and_its_neighbors_stay(
    tmp_path: Path, document: Any, code: str
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([salt().as_dict(), document, salt(5.2).as_dict()]))
    records, [broken] = entries(path)
    assert [r.provenance["record"] for r in records] == [1, 3]
    assert (broken.record, broken.code) == (2, code), broken


# Files of any kind


def test_encodings_and_pages(tmp_path: Path) -> None:
    """A byte-order mark and UTF-16 are read and remarked; a web page and binary data are named."""
    salt().to(tmp_path / "plain.cif")
    text = (tmp_path / "plain.cif").read_text() + "# 5.13 Å\n"
    for name, data, said in (
        ("bom.cif", text.encode("utf-8-sig"), "the file is UTF-8 with a byte-order mark"),
        ("wide.cif", text.encode("utf-16"), "the file is UTF-16"),
        ("latin.cif", text.encode("latin-1"), None),
        ("crlf.cif", text.replace("\n", "\r\n").encode(), None),
    ):
        (tmp_path / name).write_bytes(data)
        [record], _ = entries(tmp_path / name)
        assert record.structure.volume == pytest.approx(5.13**3)
        assert (said is None) or said in record.provenance["remarks"]
    for name in ("page.cif", "page.json", "POSCAR_page", "page.extxyz", "page"):
        (tmp_path / name).write_text("\n<!DOCTYPE html>\n<html><head><title>404</title></head></html>")
        _, [broken] = entries(tmp_path / name)
        assert broken.code == "html"
        assert "web page" in broken.reason
    for name, code in (("binary.cif", "unknown_format"), ("binary.traj", "syntax")):
        (tmp_path / name).write_bytes(bytes(range(256)) * 10)
        assert entries(tmp_path / name)[1][0].code == code
    for name in ("empty.cif", "empty.extxyz", "POSCAR_empty"):
        (tmp_path / name).write_text("")
        _, [broken] = entries(tmp_path / name)
        assert broken.code in ("no_structure", "syntax")
    (tmp_path / "cut.cif.gz").write_bytes(gzip.compress(text.encode())[:-20])
    assert entries(tmp_path / "cut.cif.gz")[1][0].code == "cut_off"


def test_formats_are_seen_in_the_text_where_the_name_says_nothing(tmp_path: Path) -> None:
    salt().to(tmp_path / "a.cif")
    Poscar(salt()).write_file(tmp_path / "POSCAR")
    ase_write(tmp_path / "a.extxyz", frames(1))
    ase_write(tmp_path / "a.traj", frames(1))
    (tmp_path / "a.json").write_text(json.dumps(salt().as_dict()))
    for name, expected in (
        ("a.cif", "cif"),
        ("POSCAR", "poscar"),
        ("a.extxyz", "extxyz"),
        ("a.traj", "traj"),
        ("a.json", "json"),
    ):
        bare = tmp_path / f"file of kind {expected}"
        bare.write_bytes((tmp_path / name).read_bytes())
        assert file_format(bare) == expected
        assert len(read_structures(bare)) == 1
    (tmp_path / "notes.txt").write_text("nothing of use")
    _, [broken] = entries(tmp_path / "notes.txt")
    assert broken.code == "unknown_format"
    with pytest.raises(InputError, match="no known format"):
        read_structures(tmp_path / "notes.txt")


def test_a_reader_of_pymatgen_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'pymatgen.io.fleur'")

    monkeypatch.setattr(Structure, "from_file", absent)
    (tmp_path / "inp.in").write_text("&input film=f /")
    _, [broken] = entries(tmp_path / "inp.in")
    assert broken.code == "missing_plugin"
    assert "pymatgen.io.fleur" in broken.reason


def test_what_pymatgen_reads_by_name_still_comes(tmp_path: Path) -> None:
    salt().to(tmp_path / "a.xsf")
    [record], _ = entries(tmp_path / "a.xsf")
    assert record.structure.volume == pytest.approx(5.13**3, rel=1e-5)


def test_no_site_property_reaches_the_database() -> None:
    """Arrays, pymatgen's Magmom and None were 'cannot encode object' when a batch was written."""
    from pymatgen.electronic_structure.core import Magmom

    structure = salt()
    structure.add_site_property("magmom", [Magmom([0, 0, 1])] * 8)
    structure.add_site_property("selective_dynamics", [np.array([True, False, True])] * 8)
    structure.add_site_property("nothing", [None] * 8)
    plain, remarks = plain_structure(structure)
    assert remarks == ["left out: magmom, selective_dynamics of its sites"]
    bson.encode(plain.as_dict())
    assert plain.site_properties == {}
    with pytest.raises(RecordError, match="not an element"):
        plain_structure(Structure(Lattice.cubic(4), ["X"], [[0, 0, 0]]))


def test_what_the_database_cannot_hold_is_written_otherwise() -> None:
    """Lone surrogates, integers beyond 64 bits and NaN come out of JSON, and end a write."""
    odd = {"a\ud800": "\udc80x", "n": 10**30, "f": float("nan"), "i": [float("inf"), 2**63 - 1], "t": (True, None)}
    kept = encodable(odd)
    bson.encode(kept)
    assert kept == {"a\\ud800": "\\udc80x", "n": str(10**30), "f": None, "i": [None, 2**63 - 1], "t": [True, None]}
    assert [finite(v) for v in (10**400, float("inf"), True, "1", 2)] == [None, None, None, None, 2.0]


def test_isotopes_in_json_are_hydrogen() -> None:
    document = json.loads(json.dumps(salt().as_dict()).replace('"Li"', '"D"'))
    assert structure_from_dict(document).composition.as_dict() == {"H": 4.0, "Cl": 4.0}
