"""A release folder as Atoms, table and tensors, against what its Parquet and its exports say by themselves."""

from __future__ import annotations

import subprocess
import sys

import ase.io
import numpy as np
import pytest
from conftest_release import SPLITS, changed, create, rows_of

import aqvolt_flows
from aqvolt_flows.datasets.columns import COLUMNS, column_table
from aqvolt_flows.errors import InputError

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def folder(labelled, parameters, tmp_path):
    _, path = create(labelled, changed(parameters, exports=["extxyz", "aselmdb"]), tmp_path / "releases")
    return path


def test_atoms_are_those_of_the_extxyz_export(folder) -> None:
    """ASE reads the export by itself; numbers there have eight decimals."""
    release = aqvolt_flows.load_release(folder)
    for split in SPLITS:
        theirs = ase.io.read(folder / "exports" / "extxyz" / f"{split}.extxyz", ":")
        ours = list(release.atoms(split))
        assert len(ours) == len(theirs) == release.splits[split]
        for a, b in zip(ours, theirs, strict=True):
            assert a.info["frame_id"] == b.info["frame_id"]
            assert a.info["split"] == split
            assert a.get_potential_energy() == pytest.approx(b.get_potential_energy(), abs=1e-7)
            np.testing.assert_allclose(a.get_forces(), b.get_forces(), atol=1e-7)
            np.testing.assert_allclose(a.get_stress(), b.get_stress(), atol=1e-7)
            np.testing.assert_allclose(a.positions, b.positions, atol=1e-7)


def test_it_is_a_sequence_over_all_splits(folder) -> None:
    release = aqvolt_flows.load_release(str(folder))
    everything = [a.info["label_id"] for a in release]
    assert everything == [r["label_id"] for split in SPLITS for r in rows_of(folder)[split]]
    assert len(release) == len(everything) == 30
    assert [release[i].info["label_id"] for i in (0, 29, -1)] == [everything[0], everything[29], everything[-1]]
    assert [a.info["label_id"] for a in release[2:9:3]] == everything[2:9:3]
    with pytest.raises(IndexError, match="30 labels; 30 was asked for"):
        release[30]
    assert release.manifest["content_hash"][:12] in repr(release)


def test_table_and_tensors_hold_the_same_numbers(folder) -> None:
    release = aqvolt_flows.load_release(folder)
    table = release.table("test")
    assert table.column_names == [*(c.name for c in COLUMNS), "split"]
    assert table["energy"].to_pylist() == [r["energy"] for r in rows_of(folder)["test"]]
    assert len(release.table().to_pandas()) == 30
    data = release.torch_dataset("train")
    first = next(release.atoms("train"))
    assert len(data) == release.splits["train"]
    assert data[0]["label_id"] == first.info["label_id"]
    np.testing.assert_allclose(data[0]["forces"].numpy(), first.get_forces(), atol=1e-6)
    assert float(data[0]["energy"]) == pytest.approx(first.get_potential_energy(), rel=1e-6)


@pytest.mark.slow
def test_fairchem_reads_its_export(folder) -> None:
    release = aqvolt_flows.load_release(folder)
    data = release.fairchem_dataset("train")
    assert len(data) == release.splits["train"]
    with pytest.raises(InputError, match="no ASE-LMDB export of 'holdout'"):
        release.fairchem_dataset("holdout")


def test_what_is_no_release_is_a_sentence(folder, tmp_path) -> None:
    with pytest.raises(InputError, match=r"There is no folder .*nowhere"):
        aqvolt_flows.load_release(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is not a release: it has no readable manifest"):
        aqvolt_flows.load_release(tmp_path)
    release = aqvolt_flows.load_release(folder)
    with pytest.raises(InputError, match="no split 'dev'; it has train, val, test, and 'all'"):
        list(release.atoms("dev"))
    file = folder / "data" / "val.parquet"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"val\.parquet is not a whole Parquet file"):
        aqvolt_flows.load_release(folder)


def test_importing_the_package_is_light() -> None:
    code = "import sys, aqvolt_flows; print(sorted({'numpy', 'torch', 'pyarrow', 'ase'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_column_says_what_it_is() -> None:
    rows = column_table()
    assert [r["column"] for r in rows][:2] == ["frame_id", "label_id"]
    assert all(r["meaning"].endswith(".") for r in rows)
    assert {r["column"]: r["unit"] for r in rows}["stress"] == "eV/Å³"
