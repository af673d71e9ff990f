from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from aqvolt_flows.training.records import Errors, Recorder, batches_of, fit_shifts, read_records, versions_of


def test_a_record_follows_a_line_that_was_cut_short(tmp_path: Path):
    file = tmp_path / "progress.jsonl"
    Recorder(file).write("start", 0, n_parameters=3)
    with file.open("a") as handle:
        handle.write('{"event": "tra')
    Recorder(file).write("end", 5)
    assert [r["event"] for r in read_records(file)] == ["start", "end"]
    assert len(file.read_text().splitlines()) == 3


def test_steps_that_were_computed_twice_count_once(tmp_path: Path):
    """Killed after step 3, resumed from the state of step 2: step 3 is the second one's, step 2 the first one's."""
    file = tmp_path / "progress.jsonl"
    recorder = Recorder(file)
    recorder.write("start", 0)
    for step in (1, 2, 3):
        recorder.write("train", step, loss=10.0 + step)
    recorder.write("start", 2)
    recorder.write("train", 3, loss=20.0)
    found = [(r["step"], r["loss"]) for r in read_records(file) if r["event"] == "train"]
    assert found == [(1, 11.0), (2, 12.0), (3, 20.0)]


@given(st.lists(st.text(max_size=30), max_size=6))
def test_no_line_stops_the_reading(tmp_path_factory, lines):
    file = tmp_path_factory.mktemp("records") / "progress.jsonl"
    good = json.dumps({"event": "end", "time": 1.0, "step": 1})
    file.write_text("\n".join([*(x.replace("\r", " ").replace("\n", " ") for x in lines), good]) + "\n")
    assert read_records(file)[-1]["event"] == "end"


def test_there_are_no_records_without_a_file(tmp_path: Path):
    assert read_records(tmp_path / "nowhere") == []


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 80), st.integers(0, 5))
def test_batches_hold_every_structure_once_and_keep_the_limit(sizes, limit, epoch):
    batches = batches_of(sizes, limit, seed=3, epoch=epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in b) <= limit or len(b) == 1 for b in batches)
    assert batches == batches_of(sizes, limit, seed=3, epoch=epoch)


def test_another_epoch_has_another_order():
    sizes = [2] * 30
    assert batches_of(sizes, 10, 0, 1) != batches_of(sizes, 10, 0, 2)
    assert batches_of(sizes, 10, 0, 1, shuffle=False) == batches_of(sizes, 10, 0, 2, shuffle=False)


def test_shifts_are_a_linear_regression_without_intercept():
    """Independent: scikit-learn on the same counts; Li-Cl-F compositions of full rank."""
    rng = np.random.default_rng(1)
    numbers = [rng.choice([3, 9, 17], size=size) for size in rng.integers(3, 9, size=20)]
    residuals = rng.normal(size=20)
    counts = np.array([[(n == z).sum() for z in (3, 9, 17)] for n in numbers])
    expected = LinearRegression(fit_intercept=False).fit(counts, residuals).coef_
    assert list(fit_shifts(numbers, residuals).values()) == pytest.approx(list(expected))


def test_shifts_that_compositions_do_not_tell_apart_are_the_least():
    """LiCl only: s_Li + s_Cl = 2 eV; the least norm is 1 eV each."""
    assert fit_shifts([np.array([3, 17])] * 2, [2.0, 2.0]) == pytest.approx({3: 1.0, 17: 1.0})


def test_errors_by_hand():
    """Two structures: |1 − 2| / 1 atom and |5 − 2| / 2 atoms; forces off by 0.1 on 3 of 9; stress by 0.02."""

    def labeled(symbols: str, energy: float, stress: np.ndarray | None) -> Atoms:
        n = len(Atoms(symbols))
        atoms = Atoms(symbols, positions=np.arange(3 * n).reshape(n, 3), cell=np.eye(3) * 9, pbc=True)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((n, 3)), stress=stress)
        return atoms

    errors = Errors()
    errors.add(1.0, np.full((1, 3), 0.1), np.full(6, 0.02), labeled("Li", 2.0, np.zeros(6)))
    errors.add(5.0, np.zeros((2, 3)), np.zeros(6), labeled("LiF", 2.0, None))
    assert errors.metrics() == pytest.approx(
        {"energy_per_atom_mae": (1.0 + 1.5) / 2, "forces_mae": 0.1 / 3, "stress_mae": 0.02}
    )
    assert Errors().metrics() == {}


def test_stress_errors_are_over_the_nine_components():
    """As fairchem's and mace's: an error of 0.09 in yz alone stands twice in the tensor, 2 · 0.09 / 9 = 0.02."""
    atoms = Atoms("Li", cell=np.eye(3) * 9, pbc=True)
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((1, 3)), stress=np.zeros(6))
    errors = Errors()
    errors.add(0.0, np.zeros((1, 3)), np.array([0, 0, 0, 0.09, 0, 0]), atoms)
    assert errors.metrics()["stress_mae"] == pytest.approx(0.02)


def test_versions_name_what_is_installed():
    assert set(versions_of(("numpy", "no-such-package"))) == {"numpy"}
