from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from labelled_splits import write_split

from aqvolt_flows.errors import InputError, ResourceError
from aqvolt_flows.training.data import frames, labelled, open_split, some_frames
from aqvolt_flows.training.references import reference_energies


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


def test_rows_lack_what_was_not_written(release: Path):
    """A row without labels comes back with None for each, and with the name that it was given."""
    write_split(release, "test", [bulk("LiF", "rocksalt", a=4.03)])
    (frame,) = frames(open_split(release, "test"))
    assert (frame.frame_id, frame.energy, frame.forces, frame.stress) == ("test-0", None, None, None)
    np.testing.assert_allclose(frame.atoms().get_volume(), 4.03**3 / 4)
    with pytest.raises(InputError, match=r"Frame test-0 .* has no energy or no forces"):
        list(labelled(open_split(release, "test")))


def test_some_rows_are_those_of_all_rows(release: Path):
    split = open_split(release, "train")
    everything = list(frames(split))
    some = list(some_frames(split, [0, 7, 23]))
    assert [f.frame_id for f in some] == ["train-0", "train-7", "train-23"]
    np.testing.assert_array_equal(some[1].positions, everything[7].positions)
