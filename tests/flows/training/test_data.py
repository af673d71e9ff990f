from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.training.data import labelled, name_of, open_split
from aqvolt_flows.training.esen import reference_energies


def test_labels_come_back_as_written(release: Path, labelled_atoms: Callable[..., Atoms]):
    """Expected: the analytic labels that the fixture wrote, seed by seed."""
    split = open_split(release, "train")
    frames = list(labelled(split))
    assert len(split) == len(frames) == 24
    first = labelled_atoms("LiCl", 5.13, seed=0, cubic=True)
    assert frames[0].energy == pytest.approx(first.get_potential_energy())
    np.testing.assert_allclose(frames[0].forces, first.get_forces())
    np.testing.assert_array_equal(frames[0].atomic_numbers, first.numbers)
    assert [len(f.atomic_numbers) for f in frames] == list(split.natoms)


def test_references_come_near_the_shifts_of_the_data(release: Path):
    """Independent: LiCl and LiF differ by the anion's shift, and by what the crystals bind (under 2 eV a formula)."""
    found = reference_energies(labelled(open_split(release, "train"))).element_energies
    assert found[17] - found[9] == pytest.approx(-4.5 + 3.25, abs=2.0)


def test_an_absent_export_says_how_to_make_it(tmp_path: Path):
    with pytest.raises(ResourceError, match="--export aselmdb"):
        open_split(tmp_path, "train")


def test_an_absent_validation_split_is_empty(release: Path):
    shutil.rmtree(release / "exports/aselmdb/val")
    assert len(open_split(release, "val")) == 0


def test_metadata_of_other_files_is_refused(release: Path):
    np.savez_compressed(release / "exports/aselmdb/train/metadata.npz", natoms=np.array([2, 2]))
    with pytest.raises(InputError, match=r"holds 24 structures, its metadata\.npz says 2"):
        list(labelled(open_split(release, "train")))


def test_unreadable_metadata_is_refused(release: Path):
    (release / "exports/aselmdb/train/metadata.npz").write_text("not an archive")
    with pytest.raises(InputError, match="export the release again"):
        open_split(release, "train")


def test_names_give_formula_and_row(release: Path):
    assert name_of(open_split(release, "train"), 4) == "Li4Cl4 (row 4)"
