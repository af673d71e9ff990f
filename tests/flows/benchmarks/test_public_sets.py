"""Readers of public sets on files made in their formats; one broken entry does not end the others."""

from __future__ import annotations

import bz2
import gzip
import json
import sqlite3
import tarfile

import ase.db
import pytest
from ase import Atoms
from ase.build import bulk
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from aqvolt_flows.benchmarks.conductivity_scores import Known
from aqvolt_flows.benchmarks.obelix import LICENSE, obelix_items
from aqvolt_flows.benchmarks.public_sets import read_public
from aqvolt_flows.errors import InputError


def salt(x: str = "Cl", a: float = 5.13) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), ["Li", x], [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_mlip_arenas_database_row_by_row(tmp_path):
    """SQLite of ase.db, rows as ``db.write(atoms)``; a molecule and a row with a damaged array are named."""
    path = tmp_path / "wbm.db"
    with ase.db.connect(path) as database:
        database.write(bulk("LiCl", "rocksalt", a=5.13), wbm_id="wbm-1-7")
        database.write(Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.74]]))
        database.write(bulk("Cu"))
        database.write(bulk("Al"))
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE systems SET positions = x'00' WHERE id = 3")
    found = read_public(path)
    assert [(i.name, i.failure and i.failure.reason) for i in found] == [
        ("wbm-1-7", None),
        ("wbm 2", "unreadable"),
        ("wbm 3", "unreadable"),
        ("wbm 4", None),
    ]
    assert "periodic in 0 of 3 directions" in found[1].failure.message
    assert found[0].structure.composition.formula == "Li1 Cl1"
    assert found[0].source == "wbm"


def test_a_database_of_something_else_is_said(tmp_path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE t (a)")
    before = path.read_bytes()
    with pytest.raises(InputError, match="no ASE database"):
        read_public(path)
    assert path.read_bytes() == before


def test_matbench_discoverys_table_by_columns(tmp_path):
    """``DataFrame.to_json`` with initial structures and entries, an index of numbers and names in a column."""
    entry = {"entry_id": "wbm-1-1", "energy": -3.0, "structure": salt(a=5.2).as_dict()}
    table = {
        "material_id": {"0": "wbm-1-1", "1": "wbm-1-2"},
        "initial_structure": {"0": salt().as_dict(), "1": None},
        "computed_structure_entry": {"0": entry, "1": None},
        "e_form_per_atom_mp2020_corrected": {"0": -1.5, "1": float("nan")},
    }
    path = tmp_path / "2022-10-19-wbm-cses+init-structs.json.bz2"
    path.write_bytes(bz2.compress(json.dumps(table).encode()))
    first, second = read_public(path)
    assert (first.name, first.structure.lattice.a) == ("wbm-1-1", pytest.approx(5.13))
    assert first.reference["structure"].lattice.a == pytest.approx(5.2)
    assert first.reference["formation_energy_per_atom"] == -1.5
    assert (second.name, second.failure.reason) == ("wbm-1-2", "unreadable")


def test_wbms_own_table_by_rows_and_a_column_index(tmp_path):
    rows = {"step_1_0": {"org": salt().as_dict(), "opt": salt(a=5.0).as_dict()}, "step_1_1": {"org": None, "opt": None}}
    path = tmp_path / "wbm-structures-step-1.json"
    path.write_text(json.dumps(rows))
    first, second = read_public(path)
    assert (first.name, first.reference["structure"].lattice.a) == ("step_1_0", pytest.approx(5.0))
    assert second.failure.message == "it has no structure"
    path.write_text(json.dumps({"initial_structure": {"wbm-1-1": salt().as_dict()}}))
    (only,) = read_public(path)
    assert (only.name, only.reference) == ("wbm-1-1", None)


def test_matcalcs_equilibrium_set_is_read_as_matcalc_reads_it(tmp_path):
    from monty.serialization import dumpfn, loadfn

    entries = [
        {
            "material_id": f"agm{k}",
            "formula": "LiCl",
            "structure": salt(a=5 + k / 10),
            "formation_energy_per_atom": -2.0 - k,
        }
        for k in range(3)
    ]
    path = tmp_path / "wbm-random-pbe52-equilibrium-2025.1.json.gz"
    dumpfn(entries, path)
    found = read_public(path)
    assert [i.name for i in found] == ["agm0", "agm1", "agm2"]
    assert [i.reference["formation_energy_per_atom"] for i in found] == [-2.0, -3.0, -4.0]
    assert found[2].reference["structure"].lattice.a == pytest.approx(5.2)
    theirs = loadfn(path)  # what matcalc's benchmarks call
    assert [e["structure"] for e in theirs] == [i.structure for i in found]


def test_equal_structures_of_a_set_keep_their_own_identities(tmp_path):
    path = tmp_path / "twice.json"
    path.write_text(json.dumps([{"material_id": "a", "structure": salt().as_dict()}] * 2))
    first, second = read_public(path)
    assert second.identity == f"{first.identity}-2"


@pytest.mark.parametrize("text", ["{}", "[]", '{"a": 1}', '[{"a": 1}]', '"x"'])
def test_json_that_is_no_table_is_left_to_other_readers(tmp_path, text):
    path = tmp_path / "some.json"
    path.write_text(text)
    assert read_public(path) is None


def test_a_cut_file_and_no_file_are_said(tmp_path):
    path = tmp_path / "cut.json.gz"
    path.write_bytes(gzip.compress(b'[{"structure": ')[:-4])
    with pytest.raises(InputError, match="is it complete"):
        read_public(path)
    with pytest.raises(InputError, match="There is no"):
        read_public(tmp_path / "nothing")
    assert read_public(tmp_path) is None


ROWS = """ID,Reduced Composition,Ionic conductivity (S cm-1),Cif ID
aaa,LiCl,1e-6,done
bbb,LiBr,<1E-10,done
ccc,LiI,,done
ddd,LiF,1e-9,not available
eee,Li3Cl4,2e-4,done
fff,LiAt,1e-3,done
"""


@pytest.fixture
def obelix(tmp_path):
    """Files in the layout that ``obelix.OBELiX`` downloads: a table, CIFs in a folder or an archive of it."""
    folder = tmp_path / "obelix"
    cifs = folder / "all_randomized_cifs"
    cifs.mkdir(parents=True)
    (folder / "all.csv").write_text(ROWS)
    half = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.13), [{"Li": 0.75}, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    for name, structure in {"aaa": salt(), "bbb": salt("Br", 5.5), "ccc": salt("I", 6.0), "eee": half}.items():
        (cifs / f"{name}.cif").write_text(str(CifWriter(structure)))
    (cifs / "fff.cif").write_text("data_broken\nloop_\n_cell_length_a\n")
    return folder


def test_obelix_keeps_bounds_and_partial_occupancy(obelix):
    found = {i.identity: i for i in obelix_items(obelix).items}
    assert found["obelix-aaa"].reference.experiment.ms_cm == pytest.approx(1e-3)
    assert found["obelix-bbb"].reference.experiment == Known(pytest.approx(1e-7), bound=True)
    assert not found["obelix-eee"].structure.is_ordered
    assert found["obelix-ccc"].failure.reason == "no_experiment"
    assert found["obelix-fff"].failure.reason == "unreadable"
    assert "obelix-ddd" not in found  # it has no CIF
    assert {i.subset for i in found.values() if i.structure} == {"halide"}
    assert "CC BY 4.0" in LICENSE


def test_obelix_by_identity_in_the_order_asked_for_and_from_an_archive(obelix):
    with tarfile.open(obelix / "all_cifs.tar.gz", "w:gz") as archive:
        archive.add(obelix / "all_randomized_cifs", arcname="all_randomized_cifs")
    for path in (obelix / "all_randomized_cifs").iterdir():
        path.unlink()
    found = obelix_items(obelix, ["eee", "aaa", "ddd"]).items
    assert [(i.name, i.failure and i.failure.message) for i in found] == [
        ("Li3Cl4", None),
        ("LiCl", None),
        ("LiF", "OBELiX has no CIF of it"),
    ]
    assert [i.identity for i in read_public(obelix)] == [i.identity for i in obelix_items(obelix).items]
    with pytest.raises(InputError, match="has no entry 'zzz'"):
        obelix_items(obelix, ["zzz"])
    with pytest.raises(InputError, match="has no entry '472'"):
        obelix_items(obelix, ["paper-S3"])


def test_a_folder_that_is_not_obelix_says_how_to_get_it(tmp_path):
    with pytest.raises(InputError, match="pip install obelix-data"):
        obelix_items(tmp_path)
    (tmp_path / "all.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no columns 'ID'"):
        obelix_items(tmp_path)
