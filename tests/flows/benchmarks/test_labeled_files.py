"""Labeled structures of files: broken entries beside good ones, missing stress, what is no label."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.io.ase import AseAtomsAdaptor

from aqvolt_flows.benchmarks.labeled_files import read_labeled
from aqvolt_flows.errors import InputError


def labeled(seed: int = 0, stress: bool = True, **info):
    atoms = bulk("LiCl", "rocksalt", a=5.1)
    atoms.rattle(0.1, seed=seed)
    rng = np.random.default_rng(seed)
    results = {"energy": -8.0 - seed, "forces": rng.normal(size=(2, 3))}
    results |= {"stress": rng.normal(size=6) / 100} if stress else {}
    atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.info |= info
    return atoms


def test_extended_xyz_gives_what_ase_wrote(tmp_path: Path) -> None:
    frames = [labeled(0, source="A", candidate_id="c1"), labeled(1, stress=False)]
    write(tmp_path / "labels.extxyz", frames)
    first, second = read_labeled(tmp_path / "labels.extxyz")
    assert (first.source, first.group, first.failure) == ("A", "c1", None)
    np.testing.assert_allclose(first.reference.forces, frames[0].get_forces(), atol=1e-7)
    np.testing.assert_allclose(first.reference.stress, frames[0].get_stress(), atol=1e-7)
    assert first.reference.energy == pytest.approx(-8.0)
    assert (second.source, second.reference.stress) == ("labels.extxyz", None)
    with gzip.open(tmp_path / "labels.xyz.gz", "wb") as packed:
        packed.write((tmp_path / "labels.extxyz").read_bytes())
    assert [i.identity for i in read_labeled(tmp_path / "labels.xyz.gz", "x")] == [first.identity, second.identity]


def test_a_broken_block_costs_itself(tmp_path: Path) -> None:
    path = tmp_path / "labels.extxyz"
    write(path, [labeled(0)])
    good = path.read_text()
    bare = bulk("LiF", "rocksalt", a=4.0)
    write(path, bare)
    unlabeled = path.read_text()
    path.write_text(good + "2\nnot a comment of properties\nLi 0 0\n" + unlabeled + good)
    items = read_labeled(path)
    assert [i.failure is None for i in items] == [True, False, False, True]
    assert "carry no energy and forces" in items[2].failure.message
    assert items[3].identity == f"{items[0].identity}-2", "the same label twice is two items"


def test_json_documents_and_what_is_none(tmp_path: Path) -> None:
    atoms = labeled(0)
    structure = AseAtomsAdaptor.get_structure(bulk("LiCl", "rocksalt", a=5.1)).as_dict()
    document = {"structure": structure, "energy": -8.0, "forces": atoms.get_forces().tolist(), "candidate_id": "c"}
    matpes = document | {"matpes_id": "matpes-1", "stress": [1.0] * 6}
    path = tmp_path / "labels.json"
    path.write_text(json.dumps([document, {"energy": 1.0}, matpes, document | {"forces": [[0.0] * 3]}, 7]))
    items = read_labeled(path)
    assert [i.failure is None for i in items] == [True, False, False, False, False]
    assert items[0].group == "c"
    assert "aqvolt labels import" in items[2].failure.message
    (tmp_path / "labels.jsonl").write_text(f"{json.dumps(document)}\n{{torn\n{json.dumps(document)}\n")
    assert [i.failure is None for i in read_labeled(tmp_path / "labels.jsonl")] == [True, False, True]


def test_a_trajectory_and_other_files(tmp_path: Path) -> None:
    write(tmp_path / "run.traj", [labeled(0), labeled(1)])
    assert [i.reference.energy for i in read_labeled(tmp_path / "run.traj")] == [-8.0, -9.0]
    (tmp_path / "torn.traj").write_bytes(b"no trajectory")
    with pytest.raises(InputError, match="no ASE trajectory"):
        read_labeled(tmp_path / "torn.traj")
    (tmp_path / "crystal.cif").write_text("data_x")
    with pytest.raises(InputError, match="no labels that can be read here; expected extended XYZ"):
        read_labeled(tmp_path / "crystal.cif")


LINES = ["2", "Li 0 0 0", 'Lattice="1 0 0 0 1 0 0 0 1"', "", "-", "99999999", "é"]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from(["2", "Li 0 0 0", 'Lattice="1 0 0 0 1 0 0 0 1"', "", "-", "99999999", "é"]), max_size=12)
)
def test_any_text_is_items_with_reasons(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = tmp_path_factory.mktemp("text") / "any.xyz"
    path.write_text("\n".join(lines))
    assert all(i.failure is not None or i.structure is not None for i in read_labeled(path))
