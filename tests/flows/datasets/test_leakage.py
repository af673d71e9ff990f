"""Average minimum distances against analytic crystals and ASE's neighbor list, and what the report counts."""

from __future__ import annotations

import label_factory
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.neighborlist import neighbor_list
from conftest_release import make_labels
from hypothesis import given, settings
from hypothesis import strategies as st

from aqvolt_flows.datasets import leakage
from aqvolt_flows.datasets.formats import write_parquet
from aqvolt_flows.datasets.leakage import average_minimum_distances
from aqvolt_flows.datasets.rows import row_from_label

seeds = st.integers(0, 2**32 - 1)


def amd(atoms):
    return average_minimum_distances(atoms.numbers, atoms.positions, atoms.cell.array)


def crystal(seed, n=5):
    """A random triclinic crystal of Li and Cl, at least one of each."""
    rng = np.random.default_rng(seed)
    cell = rng.uniform(2.5, 9.0, 3) * (np.eye(3) + rng.uniform(-0.4, 0.4, (3, 3)))
    numbers = [3, 17, *rng.choice([3, 17], n - 2)]
    return Atoms(numbers, rng.random((n, 3)) @ cell, cell=cell, pbc=True)


def test_rock_salt():
    # Every atom of rock salt has 6 neighbors at a/2 and 12 at a/√2.
    a = 5.13
    found = amd(bulk("LiCl", "rocksalt", a=a)).reshape(2, 12)
    np.testing.assert_allclose(found, np.array([[a / 2] * 6 + [a / 2**0.5] * 6] * 2), rtol=1e-9)


def test_one_atom_in_a_flat_cell():
    # Simple tetragonal with c far below a: neighbors at c, c, 2c, 2c … along the axis up to 6 c < a.
    found = amd(Atoms("Li", cell=[40.0, 40.0, 1.5], pbc=True))
    np.testing.assert_allclose(found, 1.5 * np.repeat([1, 2, 3, 4, 5, 6], 2), rtol=1e-9)


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_it_is_what_ase_finds(seed):
    atoms = crystal(seed)
    i, d = neighbor_list("id", atoms, 16.0)
    near = np.array([np.sort(d[i == n])[:12] for n in range(len(atoms))])
    wanted = np.concatenate([near[atoms.numbers == z].mean(axis=0) for z in (3, 17)])
    np.testing.assert_allclose(amd(atoms), wanted, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(seeds, st.permutations([0, 1, 2, 3, 4]))
def test_neither_cell_nor_order_nor_rotation_matter(seed, order):
    atoms = crystal(seed)
    other = make_supercell(atoms, [[1, 1, 0], [0, 1, 0], [0, 1, 2]])
    moved = atoms[order]
    moved.positions += [[3.0, -40.0, 7.7]]
    moved.rotate(37.0, (1, 2, 3), rotate_cell=True)
    for variant in (other, moved):
        np.testing.assert_allclose(amd(variant), amd(atoms), atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(seeds, st.floats(1e-4, 0.3))
def test_moving_every_atom_by_epsilon_changes_it_by_two_at_most(seed, epsilon):
    atoms = crystal(seed)
    moved = atoms.copy()
    shift = np.random.default_rng(seed + 1).normal(size=(len(atoms), 3))
    moved.positions += epsilon * shift / np.linalg.norm(shift, axis=1)[:, None]
    assert np.abs(amd(moved) - amd(atoms)).max() <= 2 * epsilon + 1e-9


def test_many_at_once_are_each_alone():
    frames = [crystal(seed, n) for seed in range(12) for n in (2, 5, 9)]
    together = leakage.describe_all(((a.numbers, a.positions, a.cell.array) for a in frames), block=7)
    for atoms, found in zip(frames, together, strict=True):
        np.testing.assert_allclose(found, amd(atoms), rtol=1e-9)


@pytest.fixture
def files(tmp_path):
    """Train: LiCl frames 0 … 9; test: frame 3 with atoms moved by 0.004 Å, LiCl frame 20, and LiF frame 30."""
    close = np.array(label_factory.outcome(3).positions) + np.array([0.004, 0, 0]) * np.resize([1, -1], 8)[:, None]
    test = [*make_labels([50], seed=3, positions=close.tolist()), *make_labels([20]), *make_labels([30], "LiF")]
    paths = {name: tmp_path / f"{name}.parquet" for name in ("train", "test")}
    for name, labels in {"train": make_labels(range(10)), "test": test}.items():
        write_parquet(paths[name], [row_from_label(label.model_dump()) for label in labels])
    return paths


def test_ancestors_and_near_copies_are_counted(files):
    found = leakage.leakage(files)["test"]
    # Frames 50, 20 and 30 are of trajectories 2, 0 and 2, of which train has all; of candidates LiCl, LiCl and LiF.
    assert found["shared"] == {
        "candidate_id": {"groups": 2, "in_train": 1, "frames": 2},
        "trajectory_id": {"groups": 2, "in_train": 2, "frames": 3},
        "formula": {"groups": 2, "in_train": 1, "frames": 2},
        "chemsys": {"groups": 2, "in_train": 1, "frames": 2},
    }
    near = found["neighbours"]
    assert (near["frames"], near["compared"], near["train_frames"]) == (3, 2, 10)
    assert 0 < near["distance_a"]["min"] <= 0.008
    assert near["within_a"]["0.01"] == 1


def test_frames_beyond_the_limit_are_left_out_by_their_hash(files, monkeypatch):
    whole = leakage.leakage(files)["test"]["neighbours"]
    monkeypatch.setattr(leakage, "MAX_FRAMES", 1)
    monkeypatch.setattr(leakage, "MAX_TRAIN", 4)
    some = leakage.leakage(files)["test"]["neighbours"]
    assert (some["compared"], some["train_frames"]) == (1, 4)
    assert some["distance_a"]["min"] >= whole["distance_a"]["min"]
    monkeypatch.setattr(leakage, "MAX_PAIRS", 3)
    assert leakage.leakage(files)["test"]["neighbours"]["compared"] == 0


def test_without_train_there_is_nothing_to_leak(files):
    assert leakage.leakage({"test": files["test"]}) == {}
    assert leakage.leakage({"train": files["train"]}) == {}
