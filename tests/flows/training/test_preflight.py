"""Labels that fairchem would mask, drop or stumble over are found, named and refused or dropped before training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from labelled_splits import label, write_split

from aqvolt_flows.errors import InputError
from aqvolt_flows.schemas.parameters import TrainingParameters
from aqvolt_flows.training.data import labelled, source_of
from aqvolt_flows.training.preflight import Checked, preflight
from aqvolt_flows.training.references import reference_energies

STAGE = {"steps": 50, "max_atoms": 24, "max_neighbors": 30, "learning_rate": 1e-3, "bf16": False}
WEIGHTS = {"energy_coefficient": 1, "force_coefficient": 1}


def parameters(**changes: Any) -> TrainingParameters:
    stages = {"direct": STAGE | WEIGHTS, "conservative": STAGE | WEIGHTS | {"stress_coefficient": 1}}
    return TrainingParameters(**{**stages, "ema_decay": 0.9, **changes})


def salt(seed: int, formula: str = "LiCl") -> Atoms:
    return label(formula, {"LiCl": 5.13, "LiF": 4.03, "NaCl": 5.64}[formula], seed)


def without(atoms: Atoms, *names: str, **changed: Any) -> Atoms:
    """Return a copy whose labels lack some, or have other values."""
    results = {k: v for k, v in atoms.calc.results.items() if k not in names} | changed
    copy = atoms.copy()
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


def look(folder: Path, train: list[Atoms], val: list[Atoms], **changes: Any) -> Checked:
    write_split(folder, "train", train)
    if val:
        write_split(folder, "val", val)
    return preflight([source_of(folder)], parameters(**changes))


CASES: list[tuple[str, Callable[[Atoms], Atoms], str]] = [
    ("no_energy", lambda a: without(a, "energy", "free_energy"), "have no energy"),
    ("no_forces", lambda a: without(a, "forces"), "have no forces"),
    ("no_stress", lambda a: without(a, "stress"), "have no stress, which the conservative stage learns"),
    ("energy_not_finite", lambda a: without(a, energy=np.nan), "have an energy that is not finite"),
    ("forces_not_finite", lambda a: without(a, forces=np.full((2, 3), np.inf)), "have forces that are not finite"),
    ("stress_not_finite", lambda a: without(a, stress=np.full(6, np.nan)), "have a stress that is not finite"),
]


@pytest.mark.parametrize(("kind", "spoil", "said"), CASES, ids=[c[0] for c in CASES])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_bad_label_is_refused_by_name_or_dropped_and_counted(
    tmp_path: Path, kind: str, spoil: Callable[[Atoms], Atoms], said: str, split: str
):
    sets = {"train": [salt(i) for i in range(6)], "val": [salt(i) for i in range(10, 14)]}
    bad = sets[split][::2]  # half of them
    sets[split] = [spoil(a) if a in bad else a for a in sets[split]]
    with pytest.raises(InputError) as refused:
        look(tmp_path / "a", **sets)
    names = ", ".join(f"{split}-{i}" for i in range(0, len(sets[split]), 2))
    assert f"{len(bad)} of {len(sets[split])} {split} labels {said}: {names}" in str(refused.value)
    assert "Nothing was trained" in str(refused.value)
    assert "training.on_bad_labels: drop" in str(refused.value)

    checked = look(tmp_path / "b", **sets, on_bad_labels="drop")
    assert checked.kept["training set", split].tolist() == list(range(1, len(sets[split]), 2))
    (found,) = checked.report["findings"]
    assert (found["kind"], found["split"], found["count"], found["fate"]) == (kind, split, len(bad), "dropped")
    assert checked.report["sources"][0]["splits"][split]["kept"] == len(bad)
    # independent: the references are those of a set that never had the bad labels
    write_split(tmp_path / "c", "train", sets["train"][1::2] if split == "train" else sets["train"])
    assert checked.references == reference_energies(labelled(source_of(tmp_path / "c").splits["train"]))


def test_all_labels_without_stress_are_refused_whatever_the_option(tmp_path: Path):
    spoiled = [without(salt(i), "stress") for i in range(3)]
    with pytest.raises(
        InputError, match=r"No training label of training set is left \(3 of 3 train labels have no stress"
    ):
        look(tmp_path, spoiled, [], on_bad_labels="drop")


def test_an_element_only_in_validation_is_refused_or_dropped(tmp_path: Path):
    train, val = [salt(i) for i in range(4)], [salt(7), salt(8, "LiF"), salt(9, "NaCl")]
    with pytest.raises(InputError) as refused:
        look(tmp_path / "a", train, val)
    said = "2 of 3 val labels have elements that the training set does not have (F, Na): val-1, val-2"
    assert said in str(refused.value)
    checked = look(tmp_path / "b", train, val, on_unknown_elements="drop")
    assert checked.kept["training set", "val"].tolist() == [0]


def test_an_element_is_not_known_from_a_training_label_that_is_dropped(tmp_path: Path):
    train = [salt(0), salt(1), without(salt(2, "LiF"), energy=np.nan)]
    with pytest.raises(InputError, match=r"1 of 1 val labels have elements .* \(F\)"):
        look(tmp_path, train, [salt(3, "LiF")], on_bad_labels="drop")


def test_a_refused_training_label_makes_no_element_unknown(tmp_path: Path):
    """All faults are told at once, and none that goes away with another."""
    with pytest.raises(InputError) as refused:
        look(tmp_path, [salt(0), without(salt(2, "LiF"), "stress")], [salt(3, "LiF")])
    assert "have no stress" in str(refused.value)
    assert "elements" not in str(refused.value)


def test_what_is_wrong_in_the_test_split_is_said_and_refuses_nothing(tmp_path: Path):
    write_split(tmp_path, "test", [without(salt(5), "stress"), salt(6, "LiF")])
    checked = look(tmp_path, [salt(i) for i in range(4)], [salt(9)])
    found = {f["kind"]: f["fate"] for f in checked.report["findings"]}
    assert found == {"no_stress": "not used", "element_not_in_training": "not used"}


def test_an_empty_validation_is_said(tmp_path: Path):
    checked = look(tmp_path, [salt(i) for i in range(4)], [])
    assert checked.validated_on == checked.report["validated_on"] == "train"
    assert "There is no validation frame" in checked.report["validation"]
    assert checked.plain


def test_a_validation_of_which_nothing_is_left_is_an_empty_one(tmp_path: Path):
    checked = look(tmp_path, [salt(i) for i in range(4)], [without(salt(9), "stress")], on_bad_labels="drop")
    assert checked.validated_on == "train"


@pytest.mark.parametrize("split", ["train", "val"])
def test_structures_beyond_a_batch_are_refused_with_the_limit_or_dropped(tmp_path: Path, split: str):
    sets = {"train": [salt(i) for i in range(3)], "val": [salt(8)]}
    sets[split].append(label("LiCl", 5.13, seed=4, cubic=True))
    small = {"conservative": STAGE | WEIGHTS | {"max_atoms": 7, "stress_coefficient": 1}}
    with pytest.raises(InputError, match=r"up to 8, training\.conservative\.max_atoms = 7.*or a larger max_atoms"):
        look(tmp_path / "a", **sets, **small)
    checked = look(tmp_path / "b", **sets, **small, on_oversize="drop")
    assert checked.kept["training set", split].tolist() == list(range(len(sets[split]) - 1))


def test_atoms_that_just_fit_are_kept(tmp_path: Path):
    cubic = [label("LiCl", 5.13, seed=4, cubic=True)]
    small = {"conservative": STAGE | WEIGHTS | {"max_atoms": 8, "stress_coefficient": 1}}
    assert look(tmp_path, cubic, cubic, **small).plain


def test_several_faults_are_one_sentence_that_names_every_option(tmp_path: Path):
    with pytest.raises(InputError) as refused:
        look(tmp_path, [salt(0), without(salt(1), "stress")], [salt(2, "LiF")])
    assert "training.on_bad_labels: drop and training.on_unknown_elements: drop" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_capped_neighbors_are_counted(tmp_path: Path):
    """Analytic: rock salt has 6 + 12 + 8 + 6 + 24 + 24 = 80 neighbors up to sqrt(6)/2 a."""
    atoms = bulk("LiCl", "rocksalt", a=4.8)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.ones((2, 3)), stress=np.zeros(6))
    found = look(tmp_path, [atoms], [atoms], cutoff_a=6.0).report["edges"]
    assert found["direct"]["edges_per_atom"] < 80
    assert found["direct"]["share_of_atoms_capped"] == 1.0
    wide = {"conservative": STAGE | WEIGHTS | {"max_neighbors": 300, "stress_coefficient": 1}}
    whole = look(tmp_path / "wide", [atoms], [atoms], cutoff_a=6.0, **wide).report["edges"]["conservative"]
    assert (whole["edges_per_atom"], whole["share_of_atoms_capped"]) == (80.0, 0.0)
