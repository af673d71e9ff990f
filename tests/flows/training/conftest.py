"""A small labeled data set whose labels are analytic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ase import Atoms
from labelled_splits import label, write_split


@pytest.fixture
def labelled_atoms() -> Callable[..., Atoms]:
    """The function that makes one labelled frame."""
    return label


def make_release(folder: Path) -> Path:
    """Write a release folder with 24 training and 4 validation frames of LiCl and LiF, 2 or 8 atoms each."""
    frames = [label(*(("LiCl", 5.13), ("LiF", 4.03))[seed % 2], seed=seed, cubic=seed % 4 == 0) for seed in range(28)]
    write_split(folder, "train", frames[:24])
    write_split(folder, "val", frames[24:])
    return folder


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release folder of the test's own."""
    return make_release(tmp_path / "releases" / "toy")


@pytest.fixture(scope="session")
def shared_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same release, for tests that only read it."""
    return make_release(tmp_path_factory.mktemp("releases") / "toy")
