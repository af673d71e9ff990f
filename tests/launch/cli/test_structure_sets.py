"""What ``--structures`` names: files, folders, archives, releases; entries that cannot be read are counted."""

from __future__ import annotations

import zipfile
from pathlib import Path

import label_factory
import pytest
from ase.build import bulk
from ase.io import write

from aqvolt_builders.registry import run_builder
from aqvolt_flows.errors import InputError
from aqvolt_launch.cli.structure_sets import from_database, from_path, is_collection


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two crystals, a slab, and a file that is none, one of them in a folder below."""
    crystals = tmp_path / "crystals"
    (crystals / "below").mkdir(parents=True)
    write(crystals / "LiCl.cif", bulk("LiCl", "rocksalt", a=5.1))
    write(crystals / "below" / "POSCAR", bulk("LiF", "rocksalt", a=4.0), format="vasp")
    slab = bulk("LiF", "rocksalt", a=4.0)
    slab.pbc = (True, True, False)
    write(crystals / "slab.extxyz", slab)
    (crystals / "torn.cif").write_text("data_torn\n_cell_length_a 3\n")
    (crystals / ".hidden").write_text("x")
    return crystals


def formulas(found) -> list[str | None]:
    items = found.part(0, len(found))
    return sorted(i.structure.composition.reduced_formula if i.structure else "-" for i in items)


def test_a_folder_a_zip_and_a_file_give_the_same_structures(folder: Path) -> None:
    found = from_path(folder, labeled=False)
    assert formulas(found) == ["-", "-", "LiCl", "LiF"]
    packed = folder.parent / "crystals.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(folder))
    again = from_path(packed, labeled=False)
    assert sorted(i.identity for i in again.part(0, 9)) == sorted(i.identity for i in found.part(0, 9))
    assert again.dataset == "crystals.zip"
    (one,) = from_path(folder / "LiCl.cif", labeled=False).part(0, 9)
    assert one.identity in {i.identity for i in found.part(0, 9)}
    reasons = [i.failure.message for i in found.part(0, 9) if i.failure]
    assert any("no periodic cell (pbc T T F" in r for r in reasons)


def test_what_holds_nothing_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is nothing at .*gone; expected a CIF"):
        from_path(tmp_path / "gone", labeled=False)
    with pytest.raises(InputError, match="no periodic cell"):
        from_path(folder / "slab.extxyz", labeled=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="it has no structure"):
        from_path(tmp_path / "empty", labeled=False)
    with pytest.raises(InputError, match="no labels that can be read here"):
        from_path(folder / "LiCl.cif", labeled=True)
    (tmp_path / "torn.zip").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(InputError, match="cannot be read"):
        from_path(tmp_path / "torn.zip", labeled=False)


def test_a_file_named_as_a_collection_is_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_collection("labels")
    assert not is_collection("crystals.cif")
    (tmp_path / "labels").mkdir()
    assert not is_collection("labels")


def test_valid_labels_of_the_project_are_references(database) -> None:
    label_factory.fill(database, 3)
    run_builder("labels")
    valid = {d["label_id"]: d for d in database["labels"].find({"status": "valid"})}
    found = from_database(database, "labels")
    assert len(found) == len(valid) > 0
    for item in found.part(0, 9):
        label = valid[item.identity]
        assert item.reference.energy == label["energy"]
        assert item.reference.forces.tolist() == label["forces"]
        assert [s.specie.Z for s in item.structure] == label["atomic_numbers"]
        assert item.group in {label["candidate_id"], label["trajectory_id"], label["frame_id"]}
    with pytest.raises(InputError, match="candidates has no usable document"):
        from_database(database.in_campaign("other"), "candidates")


def test_public_sets_are_taken_before_other_readers(tmp_path):
    """A JSON table with a structure to start from and a relaxed one; OBELiX's folder with its bound and occupancies."""
    import json

    from pymatgen.core import Lattice, Structure
    from pymatgen.io.cif import CifWriter

    def salt(li: object, a: float) -> Structure:
        return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [li, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])

    table = {"initial_structure": {"wbm-1-1": salt("Li", 5.1).as_dict()}, "opt": {"wbm-1-1": salt("Li", 5.2).as_dict()}}
    (tmp_path / "wbm.json").write_text(json.dumps(table))
    (item,) = from_path(tmp_path / "wbm.json", labeled=False).part(0, 9)
    assert item.name == "wbm-1-1"
    assert [s.lattice.a for s in (item.structure, item.reference["structure"])] == pytest.approx([5.1, 5.2])
    folder = tmp_path / "obelix"
    folder.mkdir()
    (folder / "all.csv").write_text("ID,Reduced Composition,Ionic conductivity (S cm-1)\naaa,Li3Cl4,<1E-10\n")
    (folder / "aaa.cif").write_text(str(CifWriter(salt({"Li": 0.75}, 5.13))))
    (item,) = from_path(folder, labeled=False).part(0, 9)
    assert item.reference.experiment.bound
    assert not item.structure.is_ordered
