"""Several releases as one training set: what is drawn, read, resumed, and found in two of them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import make_supercell
from labelled_splits import label, write_split

from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.parameters import TrainingParameters
from aqvolt_flows.training.data import LabelledFrame, Source, source_of
from aqvolt_flows.training.mixture import EpochBatchSampler, MixedDataset, mixed_dataset, selection
from aqvolt_flows.training.preflight import Checked, preflight
from aqvolt_flows.training.shared_frames import same_configuration

STAGE = {"steps": 50, "max_atoms": 24, "max_neighbors": 30, "learning_rate": 1e-3, "bf16": False}
WEIGHTS = {"energy_coefficient": 1, "force_coefficient": 1}
TOY: dict[str, Any] = {"direct": STAGE | WEIGHTS, "conservative": STAGE | WEIGHTS, "ema_decay": 0.9}


class Sizes:
    """Stands for fairchem's data set: the sampler asks for sizes only."""

    def __init__(self, natoms: list[int]) -> None:
        self.sizes = np.array(natoms)

    def get_metadata(self, attr: str, index: Any) -> Any:
        assert attr == "natoms"
        return [int(self.sizes[i]) for i in index] if isinstance(index, list) else int(self.sizes[index])


def sampler(rank: int = 0, ranks: int = 1, weights: tuple[float, float] = (1.0, 0.25)) -> EpochBatchSampler:
    rng = np.random.default_rng(0)
    sets = [Sizes(rng.integers(2, 9, n).tolist()) for n in (40, 80)]
    kept = [np.arange(40), np.arange(0, 80, 2)]
    return EpochBatchSampler(MixedDataset(sets, ["omat.a", "omat.b"], kept, weights), 20, ranks, rank, seed=5)


def seen(batches: list[list[int]]) -> list[int]:
    return sorted(i for batch in batches for i in batch)


def test_every_epoch_draws_anew_and_sees_what_has_weight_one():
    one = sampler()
    epochs = [seen(one.batches(epoch)) for epoch in range(6)]
    for drawn in epochs:
        assert [i for i in drawn if i < 40] == list(range(40))
        assert len([i for i in drawn if i >= 40]) == 10  # a quarter of 40 kept frames
    assert len({tuple(drawn) for drawn in epochs}) == 6


def test_the_number_of_batches_is_the_same_in_every_epoch():
    one = sampler()
    for epoch in range(30):
        one.set_epoch_and_start_iteration(epoch, 0)
        assert len(list(one)) == len(one)


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_an_epoch_without_overlap(ranks: int):
    found = [list(sampler(rank, ranks)) for rank in range(ranks)]
    assert len({len(batches) for batches in found}) == 1
    whole = sampler().batches(0)
    together = [batch for rank in range(ranks) for batch in found[rank]]
    repeated = len(together) - len(whole)
    assert 0 <= repeated < ranks
    assert sorted(map(tuple, together)) == sorted([*map(tuple, whole), *map(tuple, whole[:repeated])])


def test_a_resumed_run_draws_what_an_undisturbed_one_would():
    whole, resumed = sampler(), sampler()
    whole.set_epoch_and_start_iteration(4, 0)
    resumed.set_epoch_and_start_iteration(4, 3)
    assert list(resumed) == list(whole)[3:]


def test_no_batch_is_larger_than_allowed():
    one = sampler()
    natoms = one.dataset.natoms()
    assert max(natoms[batch].sum() for batch in one.batches(2)) <= 20


def test_the_index_space_knows_source_and_row():
    data = sampler().dataset
    assert len(data) == 80
    assert [data.place(i) for i in (0, 39, 40, 79)] == [(0, 0), (0, 39), (1, 0), (1, 78)]
    assert data.get_metadata("natoms", [40, 0]) == [data.get_metadata("natoms", 40), data.get_metadata("natoms", 0)]


# --- real files


def salts(formula: str, n: int, seed: int) -> list[Atoms]:
    return [label(formula, {"LiCl": 5.13, "LiF": 4.03}[formula], seed + i) for i in range(n)]


def two(folder: Path, **splits: list[Atoms]) -> list[Source]:
    """Return sources a (LiCl) and b (LiF and more); keywords such as ``b_val`` replace splits."""
    sets = {"a_train": salts("LiCl", 6, 0), "a_val": salts("LiCl", 2, 50), "b_train": salts("LiF", 4, 100)} | splits
    for name, frames in sets.items():
        source, _, split = name.partition("_")
        if frames:
            write_split(folder / source, split, frames)
    return [source_of(folder / "a", "a"), source_of(folder / "b", "b", 0.5)]


def checked(sources: list[Source], **changes: Any) -> Checked:
    return preflight(sources, TrainingParameters(**TOY, **changes))


def moved(atoms: Atoms, seed: int) -> Atoms:
    """Return the same configuration with other order of atoms, origin, orientation and cell."""
    rng = np.random.default_rng(seed)
    copy = atoms[rng.permutation(len(atoms))]
    copy.translate(rng.normal(size=3))
    copy.wrap()
    copy = make_supercell(copy, [[1, 1, 0], [0, 1, 0], [0, 0, 2]])
    copy.rotate(37.0, (1, 2, 3), rotate_cell=True)
    return copy


def frame(atoms: Atoms) -> LabelledFrame:
    return LabelledFrame("x", atoms.numbers, atoms.positions, atoms.cell[:], None, None, None)


def test_one_configuration_is_known_in_any_setting():
    first = label("LiCl", 5.13, 3)
    assert same_configuration(frame(first), frame(moved(first, 1)))
    nudged = first.copy()
    nudged.positions[0] += 0.05
    assert not same_configuration(frame(first), frame(nudged))


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_training_frame_in_anothers_test_is_refused_by_name_or_dropped(tmp_path: Path, split: str):
    def sources(name: str) -> list[Source]:
        copy = moved(salts("LiCl", 6, 0)[4], 2)
        reference = label("LiCl", 5.13, 99)
        copy.calc = reference.calc.__class__(
            copy, energy=-26.0, forces=np.ones((len(copy), 3)), stress=reference.get_stress()
        )
        return two(tmp_path / name, **{f"b_{split}": [*salts("LiCl", 1, 70), copy]})

    with pytest.raises(InputError) as refused:
        checked(sources("one"))
    said = f"1 of 6 train labels of a are in the validation or test set of another release ({split}-1 in {split} of b)"
    assert f"{said}: train-4" in str(refused.value)
    assert "training.on_shared_frames: drop" in str(refused.value)
    found = checked(sources("two"), on_shared_frames="drop")
    assert found.kept["a", "train"].tolist() == [0, 1, 2, 3, 5]
    assert found.report["shared_frames"] == {"found": {"a": 1}, "pairs_compared": 1, "pairs_left_out": 0}


def test_a_release_may_share_frames_with_itself(tmp_path: Path):
    """Copies within one release are the business of the release, which leaves them out when it is made."""
    same = salts("LiCl", 1, 0)
    assert checked(two(tmp_path, a_val=same)).report["shared_frames"]["found"] == {}


def test_a_selection_reads_what_was_kept_from_each_source(tmp_path: Path):
    sources = two(tmp_path)
    found = checked(sources)
    written = selection(found, tmp_path / "work")
    assert written is not None
    assert [(s["name"], s["weight"]) for s in written["train"]] == [("a", 1.0), ("b", 0.5)]
    assert [(s["name"], s["weight"]) for s in written["val"]] == [("a", 1.0)]
    assert np.load(written["train"][1]["kept"]).tolist() == [0, 1, 2, 3]


def test_one_whole_release_is_left_to_fairchem(tmp_path: Path):
    (first, _) = two(tmp_path)
    assert selection(checked([first]), tmp_path) is None
    assert selection(checked([Source(first.name, first.folder, 2.0, first.splits)]), tmp_path) is not None


@pytest.mark.slow  # imports fairchem
def test_fairchem_reads_the_frames_under_their_sources(tmp_path: Path):
    """Expected: the labels that the fixture wrote; a data set survives the way to a loader's worker."""
    sources = two(tmp_path, b_train=[*salts("LiF", 3, 100), label("LiF", 4.03, 9, cubic=True)])
    written = selection(checked(sources), tmp_path / "work")
    assert written is not None
    reading = {
        "a2g_args": {"r_energy": True, "r_forces": True, "r_stress": True},
        "transforms": {
            "common_transform": {"dataset_name": "omat"},
            "stress_reshape_transform": {"dataset_name": "omat"},
        },
    }
    data = mixed_dataset(written["train"], task_name="omat", **reading)
    assert data.natoms().tolist() == [2] * 9 + [8]
    assert data.metadata_hasattr("natoms")
    read = pickle.loads(pickle.dumps(data))[9]
    expected = label("LiF", 4.03, 9, cubic=True)
    assert (read.dataset, read.dataset_name, read.sid) == ("omat", "omat.b", ["train-3"])
    assert float(read.energy) == pytest.approx(expected.get_potential_energy(), rel=1e-6)
    np.testing.assert_allclose(read.forces, expected.get_forces(), atol=1e-5)
    np.testing.assert_allclose(read.stress.reshape(3, 3), expected.get_stress(voigt=False), atol=1e-6)
